"""Tables of what the commands for questions find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from crispr_lm.report.console import as_text, console
from crispr_lm.report.markup import markup


def print_expansion(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.questions.expand_questions` has made, and what comes next."""
    table = Table(show_header=False, title="Questions", title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name in ("templates", "questions", "categories", "conditions", "polarities", "unknown phrasings"):
        table.add_row(name, as_text(content[name]))
    for name, counts in content["places"].items():
        table.add_row(f"{name} at place", ", ".join(f"{place}: {count:,}" for place, count in enumerate(counts, 1)))
    console.print(table)
    file = content["file"]
    for line in (
        f"File: {file}",
        f"Next: crispr-lm questions check {file}",
        f"Then: crispr-lm run MODEL --task choices:{file} --output out",
    ):
        console.print(markup(line), soft_wrap=True)
