"""A critic of questions: what in a file makes figures mean less than they seem to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crispr_lm.inference.text_limits import FEW_CHARACTERS
from crispr_lm.metrics.precision import SPREAD, WIDTHS, half_width, templates_for
from crispr_lm.tasks.base import Example, Task
from crispr_lm.tasks.choices import example_of
from crispr_lm.tasks.expansion import PAIRS, choices_row, expand
from crispr_lm.tasks.findings import Finding, places_of
from crispr_lm.tasks.glue import parted
from crispr_lm.tasks.lacks import lacks, one_sided
from crispr_lm.tasks.meaning import facts
from crispr_lm.tasks.near_copies import near_copies
from crispr_lm.tasks.registry import KINDS, load_task
from crispr_lm.tasks.shortcuts import give_aways, lengths, order, phrasings, uneven_pairs
from crispr_lm.tasks.templates import read_templates


def too_long(examples: Sequence[Example]) -> list[Finding]:
    """Rows of so many characters that a run would refuse them with most models."""
    rows = [
        example
        for example in examples
        if max(map(len, (example.context, example.question, *example.options))) > FEW_CHARACTERS
    ]
    if not rows:
        return []
    count = "1 row has" if len(rows) == 1 else f"{len(rows):,} rows have"
    found = f"{count} a text of more than {FEW_CHARACTERS:,} characters"
    advice = "shorten them, or leave them out; a run refuses what its model can't read"
    return [Finding("length", found, advice, places_of(rows))]


CHECKS = (lacks, one_sided, order, give_aways, phrasings, lengths, uneven_pairs, too_long, near_copies, facts)
"""In the order in which they are listed."""

SPLITS = 3
"""Parts of a task; a third of the templates is in each (`Task.split`)."""


def check_questions(source: str, seed: int = 0) -> dict[str, Any]:
    """Read questions as a critic.

    Args:
        source: A file that ``choices:`` reads, a template file (``.toml``), or a task by name, such as
            ``bbq:Age.jsonl`` or ``builtin:everyday``.
        seed: Of the split whose test part the precision is computed for.

    Returns:
        Counts, precision and findings.

    Raises:
        InputError: it can't be read.
    """
    task = _task(source)
    findings = [finding for check in CHECKS for finding in check(task.examples)]
    return {
        "source": source,
        "questions": len(task.examples),
        "templates": _templates(task.examples),
        "precision": precision(task, seed),
        "findings": [asdict(finding) for finding in findings],
    }


def precision(task: Task, seed: int) -> dict[str, Any]:
    """How wide the interval of a change in accuracy will be, and how many templates narrower ones need.

    Returns:
        ``test_templates``: in the test split, 0 where the task can't be split; ``half_width``: of the interval, None
        where there is none; ``spread``: s; ``needed``: half-width to templates in all.
    """
    templates = _templates(task.examples)
    in_test = _templates(task.split(seed).test) if templates >= SPLITS else 0
    width = half_width(in_test)
    return {
        "test_templates": in_test,
        "half_width": width if math.isfinite(width) else None,
        "spread": SPREAD,
        "needed": {str(wanted): SPLITS * templates_for(wanted) for wanted in WIDTHS},
    }


def _task(source: str) -> Task:
    scheme, rest = parted(source)
    if rest and (scheme == "builtin" or scheme in KINDS):
        return load_task(source)
    if source.endswith(".toml"):
        rows = map(choices_row, expand(read_templates(Path(source)), PAIRS))
        examples = [example_of(row, f"{source}: template {row['group']!r}") for row in rows]
        return Task(source, tuple(examples), ("",))
    return load_task(f"choices:{source}")


def _templates(examples: Sequence[Example]) -> int:
    return len({example.template for example in examples})
