"""The command, killed again and again at random moments of every step, ends as if nothing had happened.

`CRISPR_LM_KILLS` sets the number of kills (`make robust` takes 100), each of a whole Python as users start it. Without
it the command runs in forks of one that has everything imported: a start takes seconds, a run on a tiny model less.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from crispr_lm.storage.run_folder import ComparisonFolder, JobFolder, RunFolder

from ..jobs.test_comparison import questions as two_questions
from ..jobs.test_comparison import settings_for as comparison_settings_for
from ..jobs.test_edit_search import TUNED
from ..jobs.test_run import questions, settings_for
from .commands import ENVIRONMENT, Running, arguments_of, outcome, passing_files, picked
from .forked import Forks
from .trying import tried

__all__ = ["questions", "two_questions"]

LONG = "CRISPR_LM_KILLS" in os.environ
KILLS = int(os.environ.get("CRISPR_LM_KILLS", "6"))
Start = Callable[[list[str]], Running]

SEED = int(os.environ.get("CRISPR_LM_SEED", "0"))

RUN_STEPS = (
    "Loading",
    "Finding bias neurons:",
    "Finding bias neurons: done",
    "Continuing neutral prompts: done",
    "trial 2",
    "trial 4",
    "Measuring before:",
    "Measuring after:",
    "Drawing intervals: done",
    "Saving the edited model ...",
    "Saving the edited model: done",
    "Loading it again in a fresh process: done",
)
"""How the lines begin that the command is killed after; behind the intervals come answers, results and page, behind the
last card, page and results."""

COMPARISON_STEPS = (
    "Loading",
    "Attribution on",
    "Choosing how many:",
    "Random neurons on",
    "Contextual calibration on",
    "Drawing intervals ...",
)


def moments(lines: list[tuple[float, str]], ended: float, steps: tuple[str, ...]) -> dict[str, float]:
    """How long each step takes: from its line to that of the next step (to the end, of the last one)."""
    begun = [next(at for at, line in lines if line.startswith(step)) for step in steps]
    return {step: max(0.0, end - at) for step, at, end in zip(steps, begun, [*begun[1:], ended], strict=True)}


@pytest.fixture
def start(tmp_path):
    """Starts the command."""
    if LONG:
        yield Running.start
        return
    forks = Forks(tmp_path, ENVIRONMENT)
    yield lambda arguments: Running(forks.start(arguments))
    forks.close()


def killed_again_and_again(
    start: Start, arguments: list[str], folder: JobFolder, steps: tuple[str, ...], kills: int
) -> Counter[str]:
    """Start a command over and over, kill it at random moments; whenever it comes to its end compare what it left.

    Args:
        start: Starts it.
        arguments: Of the command.
        folder: Its folder.
        steps: How the lines begin after which it is killed.
        kills: How often.

    Returns:
        Kills by step.
    """
    output = folder.path
    if arguments[0] == "run":
        found = start(arguments)
        assert found.end() == 0, found.stderr
        arguments = arguments + picked(output)  # without an edit nothing is measured after it
        shutil.rmtree(output)
    whole = start(arguments)
    assert whole.end() == 0, whole.stderr
    lasts = moments(whole.lines, time.monotonic() - whole.begun, steps)
    expected = outcome(output)
    shutil.rmtree(output)
    generator = random.Random(SEED)
    killed: Counter[str] = Counter()
    waiting: list[str] = []
    while killed.total() < kills:
        waiting = waiting or generator.sample(steps, len(steps))
        running = start(arguments)
        if running.until(waiting[0]):
            time.sleep(generator.uniform(0, lasts[waiting[0]]))
        status = running.kill(signal.SIGKILL)
        if status == -signal.SIGKILL:
            killed[waiting.pop(0)] += 1
        else:  # the step lies behind, and comes again in a fresh folder only
            assert status == 0, running.stderr
            assert passing_files(output) == []
        if folder.finished:
            assert outcome(output) == expected
            shutil.rmtree(output)
    last = start(arguments)
    assert last.end() == 0, last.stderr
    assert passing_files(output) == []
    assert outcome(output) == expected
    return killed


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(start, saved_model, questions, tmp_path):
    arguments = arguments_of(saved_model("llama"), settings_for(questions, tmp_path / "out", **TUNED))
    killed = killed_again_and_again(start, arguments, RunFolder(tmp_path / "out"), RUN_STEPS, KILLS)
    tried("kills of run", kills=killed.total(), steps=len(killed), lost=0)


@pytest.mark.skipif(not LONG, reason="long; CRISPR_LM_KILLS asks for it")
@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_comparison_that_is_killed_ends_as_if_it_had_not_been(start, saved_model, two_questions, tmp_path):
    arguments = arguments_of(saved_model("llama"), comparison_settings_for(two_questions, tmp_path / "out"))
    kills = max(1, KILLS // 5)
    killed = killed_again_and_again(start, arguments, ComparisonFolder(tmp_path / "out"), COMPARISON_STEPS, kills)
    tried("kills of compare", kills=killed.total(), steps=len(killed), lost=0)
