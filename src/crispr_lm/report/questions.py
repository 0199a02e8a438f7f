"""Tables of what the commands for questions find."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from crispr_lm.report.console import as_text, console
from crispr_lm.report.markup import markup
from crispr_lm.report.precision import precision_sentences


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
        f"Next: crispr-lm questions check {shlex.quote(file)}",
        f"Then: crispr-lm run MODEL --task {shlex.quote(f'choices:{file}')} --output out",
    ):
        console.print(markup(line), soft_wrap=True)


def print_check(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.question_check.check_questions` found."""
    console.print(
        markup(f"{content['source']}: {content['questions']:,} questions of {content['templates']:,} templates"),
        soft_wrap=True,
    )
    for number, finding in enumerate(content["findings"], start=1):
        console.print(f"\n[bold]{number}. {markup(finding['check'])}[/]: {markup(finding['found'])}.", soft_wrap=True)
        console.print(markup(f"   What to do: {finding['advice']}."), soft_wrap=True)
        if finding["places"]:
            console.print(f"   [dim]{markup(', '.join(finding['places']))}[/]", soft_wrap=True)
    count = len(content["findings"])
    console.print(f"\n{count or 'No'} finding{'' if count == 1 else 's'}.")
    for sentence in precision_sentences(content["precision"]):
        console.print(markup(sentence), soft_wrap=True)
