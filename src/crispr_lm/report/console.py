"""The two consoles of the command line, and how values are written on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from crispr_lm.report.markup import markup
from crispr_lm.report.words import signed

GIB = 2**30

LOG_WIDTH = 120
"""Columns where there is no terminal (pipes, logs of CI): tables then keep their words together."""


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr, emoji=False)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(stderr=stderr, width=LOG_WIDTH, emoji=False)


NARROW = 100
"""Columns below which tables of figures have no frame."""

SLIM = 76
"""Columns below which they are text: figures take 54, and "disambiguated" needs 13 more with what is beside it."""

console = _console()
"""For results, on standard output."""

messages = _console(stderr=True)
"""For progress and notes, on standard error, so that output can be piped."""


def in_bytes(count: float) -> str:
    """Bytes in GiB, or in MiB where they are fewer."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def print_path(what: str, path: Path | str) -> None:
    """Print what a file is and where: on a line of its own where both do not fit into one, never broken."""
    shown = markup(str(path))
    if len(f"{what}: {path}") <= console.width:
        console.print(f"{what}: {shown}", soft_wrap=True, highlight=False)
    else:
        console.print(f"{what}:\n{shown}", soft_wrap=True, highlight=False)


def narrow() -> dict[str, Any]:
    """How a table is drawn where there are few columns: without frame, so that names need fewer lines."""
    if console.width >= NARROW:
        return {}
    return {"box": SIMPLE_HEAD, "collapse_padding": True, "pad_edge": False}


def figures_table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], **given: Any) -> Table:
    """A table of named figures; where there are very few columns, each metric is a line of text.

    Args:
        names: Of the columns of figures.
        rows: Name and figures, as markup.
        given: Title and caption, as `rich.table.Table` takes them.
    """
    table = Table(**narrow(), **given)
    table.add_column("Metric")
    if console.width < SLIM:
        for label, cells in rows:
            figures = ", ".join(f"{name.lower()} {cell}" for name, cell in zip(names, cells, strict=True))
            table.add_row(f"[bold]{label}[/]: {figures}")
        return table
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for label, cells in rows:
        table.add_row(label, *cells)
    return table


def as_text(value: Any) -> str:
    """A value of a result, such as a count or a list, fit to be printed."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{as_text(entry)} {markup(str(key))}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(entry) for entry in value)
    return markup(str(value))


def as_number(value: float | None) -> str:
    """A figure to three digits, "-" where there is none."""
    return "-" if value is None else f"{value:.3f}"


def as_interval(low: float | None, high: float | None) -> str:
    """An interval of a difference, "-" where there is none."""
    return "-" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def as_p_value(value: float | None) -> str:
    """A p-value to three digits, "-" where there is none."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
