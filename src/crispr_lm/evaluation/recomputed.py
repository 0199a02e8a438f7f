"""Figures computed again from what was written: the answers, and the columns of what is of no questions.

Knows rows of ``answers.jsonl`` and ``columns.json``; knows no model and no folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError
from crispr_lm.evaluation.evaluation import Evaluation, ScoringMethod, evaluation_of
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.results import Edited, results_of
from crispr_lm.evaluation.suite import Subject, TaskSubject
from crispr_lm.metrics.family import with_unmatched
from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.tasks.base import Example, Task


@dataclass(frozen=True)
class Recorded:
    """What was written of a measurement.

    Attributes:
        measured: Name of what was measured to how: role, and of a task family, scoring, breakdowns and instructions.
        rows: Of ``answers.jsonl``.
        columns: What ``columns.json`` holds.
        edit: The edit, None where none was measured.
        scoring: As the settings say.
        seed: Of the resamples.
    """

    measured: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Any]
    edit: Edit | None
    scoring: ScoringMethod
    seed: int


@dataclass(frozen=True)
class Measured:
    """Measurements made again from what was written; `after` is empty where no edit was measured."""

    subjects: Sequence[Subject]
    before: Mapping[str, Measurement]
    after: Mapping[str, Measurement]


def recomputed(written: Recorded) -> dict[str, Any]:
    """The figures that ``results.json`` should hold.

    Raises:
        InputError: as `measurements_of`.
    """
    found = measurements_of(written)
    edited = None
    if found.after:
        diverged = written.columns["divergence"]
        edited = Edited(found.after, None if diverged is None else _measurement(diverged), written.edit)
    return results_of("", found.subjects, written.scoring, found.before, edited, written.seed)


def measurements_of(written: Recorded) -> Measured:
    """The measurements behind the figures.

    Raises:
        InputError: answers of a task are missing, or of another number of instructions.
    """
    subjects: list[Subject] = []
    before: dict[str, Measurement] = {}
    after: dict[str, Measurement] = {}
    for name, how in written.measured.items():
        found: dict[str, Measurement]
        if how["examples"] is None:
            subjects.append(_NoQuestions(name, how["role"]))
            found = {when: _measurement(of) for when, of in written.columns["measurements"][name].items()}
        else:
            rows = [row for row in written.rows if row["task"] == name]
            subject = _subject(name, how, rows)
            subjects.append(subject)
            found = {when: _evaluation(subject, how, rows, when) for when in rows[0]["scores"]}
        before[name] = found["before"]
        after |= {name: found["after"]} if "after" in found else {}
    return Measured(subjects, before, after)


def example_of(row: Mapping[str, Any]) -> Example:
    """The question of a row of ``answers.jsonl``."""
    names = ("context", "question", "answer", "template", "condition", "unknown", "stereotyped", "source", "language")
    return Example(
        **{name: row[name] for name in names},
        options=tuple(row["options"]),
        category=row["category"] or "",
        polarity=row.get("polarity", ""),
        facets=tuple(row.get("facets", {}).items()),
    )


@dataclass(frozen=True)
class _NoQuestions:
    """A text or free answers, of which the columns alone were written."""

    name: str
    role: Literal["bias", "capability"]
    steps: int = 0
    origin: tuple[str, ...] = ()

    def check(self, reader: object) -> None:
        """It is not measured again."""

    def measure(self, *_: object) -> Measurement:
        """It is not measured again."""
        raise InputError(f"{self.name} was measured; there are only its columns")

    def described(self, scoring: str) -> dict[str, object]:
        """Nothing beside the figures is computed again."""
        return {}


def _subject(name: str, how: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> TaskSubject:
    if not rows:
        raise InputError(f"there are no answers of {name}")
    task = Task(
        name=name,
        examples=tuple(map(example_of, rows)),
        instructions=tuple(how["instructions"]),
        family=how["family"],
        breakdowns=tuple(how["breakdowns"]),
        scoring=None if how["scoring"] == "generate" else how["scoring"],
    )
    return TaskSubject(task, task.examples, how["role"])


def _evaluation(
    subject: TaskSubject, how: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], when: str
) -> Evaluation:
    """From the scores of options; -inf stands where an example has no such option, or it was not written."""
    most, instructions = max(len(row["options"]) for row in rows), len(subject.task.instructions)
    for row in rows:
        if len(row["scores"][when]) != instructions:
            raise InputError(f"{row['source']}: {len(row['scores'][when])} instructions, not {instructions}")
    tables = torch.full((instructions, len(rows), most), -torch.inf)
    for index, row in enumerate(rows):
        for instruction, of_options in enumerate(row["scores"][when]):
            for option, score in enumerate(of_options):
                if score is not None:
                    tables[instruction, index, option] = score
    family = FAMILIES[how["family"]]
    family = with_unmatched(family) if how["scoring"] == "generate" else family
    return evaluation_of(subject.examples, list(tables), family)


def _measurement(of: Mapping[str, Any]) -> Measurement:
    columns = [{name: np.array(values, dtype=np.float64) for name, values in one.items()} for one in of["columns"]]
    return Measurement.of(FAMILIES[of["family"]], columns, of["clusters"])
