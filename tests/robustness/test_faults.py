"""Whatever goes wrong at whatever change of the output folder: one sentence, nothing half-written, and it goes on.

`CRISPR_LM_CASES` above the default has every change of the folder tried, else every so many of them.
"""

from __future__ import annotations

import itertools
import os
import shutil

import pytest

from ..test_edit_search import TUNED
from ..test_run import questions, settings_for
from .commands import ENVIRONMENT, arguments_of, outcome, passing_files, picked
from .forked import Forks
from .trying import tried

__all__ = ["questions"]

EVERY = 1 if int(os.environ.get("CRISPR_LM_CASES", "100")) > 100 else 9
"""Every so many changes of the folder one is tried."""

FAULTS = {
    "kill": (-9, ""),
    "terminate": (143, "crispr-lm: terminated; the same command goes on, unless it says --overwrite"),
    "interrupt": (130, "crispr-lm: interrupted; the same command goes on, unless it says --overwrite"),
    "full": (1, "(No space left on device); make room there, then give the same command again"),
}
"""How the command ends, and how its last line does."""


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"), ENVIRONMENT)
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def given(saved_model, questions):
    """The arguments of a run that writes into a folder."""
    model = saved_model("llama")
    changes = {**TUNED, "refinements": 1}
    return lambda output, **more: arguments_of(model, settings_for(questions, output, **{**changes, **more}))


@pytest.fixture(scope="module")
def whole(forks, given, tmp_path_factory):
    """A run that nothing has come between: what it left, and how often it changed its folder."""
    output = tmp_path_factory.mktemp("whole") / "out"
    ended = forks.run(given(output), output)
    assert ended.status == 0, ended.told
    pick = picked(output)
    again = forks.run([*given(output), *pick, "--resume"], output)
    assert again.status == 0, again.told
    return outcome(output), ended.changes, pick


def ended_in_one_sentence(told):
    return "Traceback" not in told and len([line for line in told.splitlines() if line.startswith("crispr-lm: ")]) == 1


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(len(FAULTS)), ids=FAULTS)
def test_a_fault_at_any_change_of_the_folder_loses_nothing(number, forks, given, whole, tmp_path):
    fault = list(FAULTS)[number]
    expected, changes, pick = whole
    output = tmp_path / "out"
    arguments = [*given(output), *pick]
    first = given(output) if fault == "interrupt" else arguments  # a search cut short may not know the trial to pick
    places = 0
    for place in itertools.count(number * EVERY // len(FAULTS), EVERY):
        ended = forks.run(first, output, fault, place)
        if ended.changes <= place:  # there are no more
            assert ended.status == 0
            break
        places += 1
        if fault == "interrupt" and "Interrupted: going on with the best edit so far" in ended.told:
            assert ended.status == 0, (place, ended.told)  # in the search Ctrl-C does not end the run
            assert passing_files(output) == [], place
            shutil.rmtree(output)
            continue
        status, sentence = FAULTS[fault]
        assert ended.status == status, (place, ended.told)
        if fault != "kill":
            assert ended_in_one_sentence(ended.told), (place, ended.told)
            assert ended.told.rstrip().endswith(sentence), (place, ended.told)
            assert passing_files(tmp_path) == [], place
        if not (output / "results.json").exists():
            again = forks.run(arguments, output)
            assert again.status == 0, (place, again.told)
            assert passing_files(output) == [], place
        assert outcome(output) == expected, place
        shutil.rmtree(output)
    assert places > changes // EVERY // 2
    tried(f"fault at a change of the folder: {fault}", places=places, lost=0)
