"""What the terminal shows while a job runs, as bars and as lines of a log."""

import io
import itertools
import re

from rich.console import Console

from crispr_lm.report import terminal
from crispr_lm.report.terminal import results_table, spread_table, terminal_progress

from .test_page import bias_task


def test_a_log_tells_rate_time_left_and_memory(monkeypatch, capsys):
    clock = itertools.count(0, 40)
    monkeypatch.setattr(terminal.time, "monotonic", lambda: float(next(clock)))
    with terminal_progress() as progress, progress.step("Reading", 3) as advance:
        for _ in range(3):
            advance(1)
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert first == "Reading: 0/3"
    assert re.fullmatch(r"Reading: 1/3, 40\.0 s each, 80 s left, [\d.]+ [MG]iB", second)
    assert re.fullmatch(r"Reading: 2/3, 40\.0 s each, 40 s left, [\d.]+ [MG]iB", third)
    assert re.fullmatch(r"Reading: done in 160 s, 53\.3 s each, [\d.]+ [MG]iB", last)


def test_bars_tell_rate_and_memory(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "messages", Console(file=shown, force_terminal=True, width=140))
    with terminal_progress() as progress, progress.step("Reading", 4) as advance:
        advance(1)
        advance(1)
        progress.say("[not markup]")
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "[not markup]" in told
    assert re.search(r"Reading .*/4.*left.*[\d.]+ [MG]iB", told)


def test_examples_are_called_held_out_only_where_an_edit_was_made_on_others():
    assert str(results_table(bias_task(), held_out=True).caption).startswith("8 held-out examples of 3 templates")
    assert str(results_table(bias_task(), held_out=False).caption).startswith("8 examples of 3 templates")


def test_deviation_and_worst_over_instructions_are_told_where_there_are_several():
    task = bias_task()
    task["spread"]["before"]["accuracy"] = {"std": 0.125, "worst": 0.0625}
    table = spread_table(task)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert ("Accuracy, all questions", "0.125", "0.000", "0.062", "0.000") in rows
    assert spread_table(task | {"instructions": 1}) is None
