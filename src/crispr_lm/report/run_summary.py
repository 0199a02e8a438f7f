"""The end of a run in the terminal: the verdict in a box, one table of six lines, and where the files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from crispr_lm.report.console import console, print_path
from crispr_lm.report.markup import markup
from crispr_lm.report.no_edit import no_edit
from crispr_lm.report.summary import Line, certain_losses, headline, six_lines
from crispr_lm.report.words import saved, shortened
from crispr_lm.storage.sanitize import printable

WIDEST = 100
"""Columns of the box at most: longer lines are hard to read."""

COLOURS = {"held": "green", "not shown": "yellow", "lost": "bold red"}


def print_summary(results: Mapping[str, Any], output: Path) -> None:
    """Print the verdict, six lines of figures, what else must be known, and where the files are."""
    none = results["verdict"] == "none"
    colour = {"recommended": "green", "none": "blue"}.get(results["verdict"], "yellow")
    width = min(console.width, WIDEST)
    console.print()
    console.print(Panel(Text(headline(results), style="bold"), box=ROUNDED, border_style=colour, width=width))
    if none:
        why = no_edit(results)
        for name, text in (("Search", why.tried), ("In the way", why.obstacle), ("Next", why.following)):
            console.print(f"[bold]{name}:[/] {markup(text)}", highlight=False, width=width)
    console.print(summary_table(results, edited=not none))
    for sentence in warnings(results):
        console.print(f"[bold yellow]Note:[/] {markup(sentence)}", highlight=False, width=width)
    if (report := output / "report.html").is_file():
        print_path("Report", report)
    print_path("Files", output)
    there = "" if none else "model/ is the edited model, edit.json the edit alone. "
    console.print(f"{there}All tables: --verbose, or the report.", highlight=False, width=width)


def summary_table(results: Mapping[str, Any], *, edited: bool) -> Table:
    """The six lines: before, after, the change with its 95 % interval, and whether what is asked was shown."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("Held-out questions" if edited else "The original, on held-out questions")
    if not edited:
        table.add_column("Value", justify="right", no_wrap=True)
        for line in six_lines(results):
            table.add_row(_named(line), line.value_text(line.before))
        return table
    for name in ("Before", "After"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Change (95 %)", justify="right")
    table.add_column("", no_wrap=True)
    for line in six_lines(results):
        interval = f" ({line.interval_text})" if line.interval_text else ""
        mark = line.mark or "not shown"
        table.add_row(
            _named(line),
            line.value_text(line.before),
            line.value_text(line.after),
            line.change_text + interval,
            f"[{COLOURS[mark]}]{mark}[/]",
        )
    return table


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader of the table must know beside it, a sentence each."""
    found = []
    if losses := certain_losses(results):
        more = f", and {len(losses) - 3} more" if len(losses) > 3 else ""
        found.append(f"worse for certain: {'; '.join(losses[:3])}{more}.")
    found += [task["over_abstention"] for task in results["tasks"].values() if task.get("over_abstention")]
    if note := shortened(results["saved_model"]):
        found.append(note)
    if not results["saved_model"].get("verified", True):
        found.append(saved(results["saved_model"]))
    return found


def _named(line: Line) -> str:
    """A figure's name; of several tasks with the one that it is of."""
    where = f" ({line.task}, the worst of {line.among})" if line.among > 1 else ""
    return markup(printable(line.what + where))
