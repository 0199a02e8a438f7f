"""What is printed of an evidence bundle. Reads what `crispr_lm.jobs.evidence` finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crispr_lm.report.check import print_rules
from crispr_lm.report.console import console
from crispr_lm.report.markup import markup

MOST_SHOWN = 20
"""Problems that are printed; ``--json`` has all of them."""


def print_verified(found: Mapping[str, Any]) -> None:
    """Print what is in a bundle, every problem, and of a verified bundle the outcome of its rules."""
    if "seal" in found:
        console.print(f"Sealed:   {markup(found['sealed'])}  {markup(found['seal'])}", soft_wrap=True)
    for edit in found.get("edits", ()):
        when = "after" if edit["test_split_read"] else "before"
        console.print(
            f"Edit:     {markup(edit['time'])}  {markup(edit['seal'])}, {when} the test split was read", soft_wrap=True
        )
    if "manifest" in found:
        console.print(f"Bundle:   {markup(found['manifest'])}", soft_wrap=True)
    console.print(f"Compared: {found['files']} files, {found['figures']:,} figures computed again from the answers")
    for problem in found["problems"][:MOST_SHOWN]:
        console.print(f"[red]- {markup(problem)}[/]", soft_wrap=True)
    if len(found["problems"]) > MOST_SHOWN:
        console.print(f"... and {len(found['problems']) - MOST_SHOWN} more")
    if "rules" in found:
        print_rules("Sealed rules, decided from the answers", found["rules"], {})
    elif "rules_reason" in found:
        console.print(f"The sealed rules can't be decided: {markup(found['rules_reason'])}", soft_wrap=True)
    console.print(line_of(found, styled=True), soft_wrap=True)


def line_of(found: Mapping[str, Any], *, styled: bool = False) -> str:
    """The outcome on one line."""
    count = len(found["problems"])
    text = "verified" if found["verified"] else f"not verified: {count} problem{'' if count == 1 else 's'}"
    if not styled:
        return text
    return f"[{'green' if found['verified'] else 'red'}]{text.capitalize()}[/]"
