"""What the terminal shows while a job runs, as bars and as lines of a log."""

import io
import itertools
import re
import threading

import pytest
from rich.console import Console
from rich.progress import Progress as RichProgress

from crispr_lm.report import progress as terminal
from crispr_lm.report.progress import terminal_progress
from crispr_lm.report.result_tables import results_table, spread_table
from crispr_lm.runtime.progress import Pace

from .test_page import bias_task


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def in_seconds(text):
    """The seconds that ``45 s``, ``12 min`` or ``3.2 h`` say."""
    number, unit = text.split()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


# What a search on a loaded machine took, in seconds: rounds that grow unlike, and trials that do not cost as much.
ROUNDS = (2560, 8099, 6363, 8458, 7700, 8010)
TRIALS = (310, 12, 290, 305, 0, 330)


def recorded_search():
    """Events of a search as (seconds that pass, what happens then): long silences, inner steps, kinds of trials."""
    yield 0, ("open", "Searching", {"rounds": len(ROUNDS), "search": len(TRIALS), "control": 1})
    for seconds in ROUNDS:
        yield 1, ("open", "Measuring effects", 96)
        for _ in range(3):
            yield (seconds - 100) // 3, ("advance", 32, "")
        yield 0, ("close",)
        yield 99, ("advance", 1, "rounds")
    for seconds in TRIALS:
        yield seconds, ("advance", 1, "search")
    yield 400, ("advance", 1, "control")
    yield 0, ("close",)
    yield 95, ("say", "what follows has no step")


def played(events, clock, progress):
    """Play events; every second it is looked whether a line is due, as the thread does."""
    steps = []
    for seconds, (what, *given) in events:
        for _ in range(seconds):
            clock.now += 1
            progress.beat()
        if what == "open":
            step = progress.step(*given)
            steps.append((step, step.__enter__()))
        elif what == "advance":
            steps[-1][1](*given)
        elif what == "close":
            steps.pop()[0].__exit__(None, None, None)
        else:
            progress.say(*given)


@pytest.fixture
def log(monkeypatch):
    """A clock, progress as lines of a log, and the lines with the second of each."""
    clock, lines = Clock(), []
    printed = type("Printed", (), {"print": lambda _self, text, **_how: lines.append((clock.now, text))})()
    monkeypatch.setattr(terminal, "messages", printed)
    monkeypatch.setattr(terminal, "_memory", lambda: "1.0 GiB")
    return clock, terminal._PlainProgress(clock), lines


def test_a_log_is_never_silent_for_more_than_30_seconds(log):
    clock, progress, lines = log
    played(recorded_search(), clock, progress)
    seconds = [second for second, _ in lines]
    assert seconds[0] == 0
    assert max(later - earlier for earlier, later in itertools.pairwise([*seconds, clock.now])) <= 30
    texts = [text for _, text in lines]
    assert any(
        re.search(r"^Searching: 1/13, \d+ min so far, .* left .*; Measuring effects: 32/96, ", text) for text in texts
    )
    assert texts[-2].startswith("Working (after: Searching)")


def test_time_left_is_a_range_of_the_same_kind_that_holds_what_it_took(log):
    clock, progress, lines = log
    played(recorded_search(), clock, progress)
    end_of_rounds, end = sum(ROUNDS), sum(ROUNDS) + sum(TRIALS) + 400
    reports = [
        (second, found)
        for second, text in lines
        if (
            found := re.search(
                r"^Searching: (\d+)/13, .*?, ([\d.]+ \w+) to ([\d.]+ \w+) left( and then 6 search, 1 control)?", text
            )
        )
    ]
    assert len(reports) > 1000
    for second, found in reports:
        done, (low, high) = int(found[1]), map(in_seconds, found.group(2, 3))
        if done < len(ROUNDS):  # nothing is said of how long trials take before there was one
            assert found[4]
            left = end_of_rounds - second
            # From the second round on the rounds left take as long as those that were seen.
            assert done == 1 or 0.9 * low <= left <= 1.1 * high
        elif done > len(ROUNDS):
            assert found[4] is None
            assert high <= len(TRIALS) * max(TRIALS)
    assert end > end_of_rounds


def test_a_log_shows_rate_time_left_and_memory(log):
    clock, progress, lines = log
    with progress.step("Reading", 3) as advance:
        for _ in range(3):
            clock.now += 40
            advance(1)
    assert [text for _, text in lines] == [
        "Reading: 0/3",
        "Reading: 1/3, 40 s so far, 80 s left, 1.0 GiB",
        "Reading: 2/3, 80 s so far, 40 s left, 1.0 GiB",
        "Reading: 3/3, 2 min so far, 1.0 GiB",
        "Reading: done in 120 s, 40.0 s each, 1.0 GiB",
    ]


def test_the_thread_speaks_while_work_is_in_one_call(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SILENCE", 0.0)
    monkeypatch.setattr(terminal, "LOOK", 0.01)
    seen = threading.Event()
    say = terminal._PlainProgress.say

    def listen(self, sentence):
        say(self, sentence)
        if "so far" in sentence:
            seen.set()

    monkeypatch.setattr(terminal._PlainProgress, "say", listen)
    with terminal_progress() as progress, progress.step("Loading"):
        assert seen.wait(30)
    assert "Loading: 0 s so far" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "crispr-lm progress"]


def test_what_an_earlier_run_has_done_does_not_count_for_the_time_left():
    clock = Clock()
    pace = Pace("Choosing", 10, clock)
    pace.advance(4)
    assert pace.left() is None
    clock.now += 7
    pace.advance(1)
    assert pace.left() == (35, 35)
    clock.now += 5
    assert pace.left() == (30, 30)
    clock.now += 100  # longer than all so far: never less than nothing
    assert pace.left() == (0, 0)
    assert pace.summary() == "5/10, 2 min so far, 0 s left"


def test_a_kind_that_ended_early_is_not_waited_for():
    clock = Clock()
    pace = Pace("Searching", {"rounds": 8, "search": 2}, clock)
    for seconds, kind in ((10, "rounds"), (3, "search")):
        clock.now += seconds
        pace.advance(1, kind)
    assert pace.total == 3
    assert pace.left() == (3, 3)


def test_bars_show_memory_and_leave_none_of_what_is_within_a_step(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "messages", Console(file=shown, force_terminal=True, width=140))
    with terminal_progress() as progress, progress.step("Reading", 4) as advance:
        advance(1)
        with progress.step("Turning a page"):
            progress.say("[not markup]")
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "[not markup]" in output
    assert re.search(r"Reading .*0/4.*[\d.]+ [MG]iB", output)
    last = output.splitlines()[-1]
    assert "4/4" in last
    assert "Turning" not in last


def test_bars_show_rate_and_time_left(monkeypatch):
    monkeypatch.setattr("crispr_lm.runtime.progress.INSTANT", -1.0)  # what this test does takes no time
    bars = RichProgress(console=Console(file=io.StringIO()))
    progress = terminal._LiveProgress(bars)
    with progress.step("Reading", {"pages": 4, "notes": 1}) as advance:
        for _ in range(3):
            advance(1, "pages")
        (task,) = bars.tasks
        assert (task.completed, task.total) == (3, 5)
        assert terminal._LeftColumn().render(task).plain == "0 s left and then 1 notes"
    assert terminal._LeftColumn().render(task).plain == ""


def test_examples_are_called_held_out_only_where_an_edit_was_made_on_others():
    assert str(results_table(bias_task(), held_out=True).caption).startswith("8 held-out examples of 3 templates")
    assert str(results_table(bias_task(), held_out=False).caption).startswith("8 examples of 3 templates")


def test_deviation_and_worst_over_instructions_are_shown_where_there_are_several():
    task = bias_task()
    task["spread"]["before"]["accuracy"] = {"std": 0.125, "worst": 0.0625}
    table = spread_table(task)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert ("Accuracy, all questions", "0.125", "0.000", "0.062", "0.000") in rows
    assert spread_table(task | {"instructions": 1}) is None
