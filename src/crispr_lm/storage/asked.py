"""Answers that a check stores, an object per question: what a later check is compared with. Knows no model.

The fields of ``answers.jsonl`` with one side of scores, and the instructions that they were given under.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crispr_lm.errors import InputError
from crispr_lm.storage.answers import checked_answer
from crispr_lm.storage.records import read_rows

Key = tuple[str, ...]
"""What makes a question the same in two files."""

SIDE = "answers"
"""The name of the only side of scores."""


class _Row(BaseModel):
    """A line of the file. Further fields are left as they are."""

    model_config = ConfigDict(strict=True)

    task: str
    template: str
    context: str
    question: str
    options: list[str] = Field(min_length=2)
    answer: int = Field(ge=0)
    instructions: list[str] = Field(min_length=1)
    scores: dict[str, list[list[float | None]]]


def question_key(row: Mapping[str, Any]) -> Key:
    """What makes a question the same: all of its text, and which option is right."""
    return row["context"], row["question"], *row["options"], str(row["answer"])


def read_stored(path: Path) -> dict[str, dict[Key, Any]]:
    """Read stored answers: task to question to the scores of its options, under each instruction by its text.

    Raises:
        InputError: it can't be read, is empty, or is something else.
    """
    found: dict[str, dict[Key, Any]] = {}
    for row in _rows(path, _checked):
        by_instruction = dict(zip(row["instructions"], row["scores"][SIDE], strict=True))
        found.setdefault(row["task"], {})[question_key(row)] = by_instruction
    return found


def read_side(path: Path, side: str | None) -> list[dict[str, Any]]:
    """Read the answers of one model from a run's or a check's file: rows with ``tables``, its scores per instruction.

    Args:
        path: The file.
        side: "before" or "after" of a run; None for the only side of a check, and for "after".

    Raises:
        InputError: it can't be read, is empty, is something else, or has no such side.
    """
    rows = []
    for row in _rows(path, lambda row: _checked(row) if "instructions" in row else _checked_of_run(row)):
        there = [name for name, tables in row["scores"].items() if tables is not None]
        wanted = side or next((name for name in (SIDE, "after") if name in there), "before")
        if wanted not in there:
            raise InputError(f"{path} has no answers {wanted!r}; it has: {', '.join(there)}")
        rows.append({**row, "tables": row["scores"][wanted]})
    return rows


def _rows(path: Path, parse: Callable[[dict[str, Any]], dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        rows = read_rows(path, parse)
    except InputError as error:
        place = str(error).partition(";")[0]
        raise InputError(
            f"{place}; give answers.jsonl of a run, or what crispr-lm check --answers has written"
        ) from error
    if not rows:
        raise InputError(f"{path} holds no answers; give answers.jsonl of a run, or of crispr-lm check --answers")
    return rows


def _checked_of_run(row: dict[str, Any]) -> dict[str, Any]:
    scores = row.get("scores")
    return checked_answer(row, edited=isinstance(scores, dict) and scores.get("after") is not None)


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    try:
        read = _Row.model_validate(row)
    except ValidationError as error:
        raise ValueError("no stored answer") from error
    tables = read.scores.get(SIDE, [])
    if len(tables) != len(read.instructions) or not all(len(scores) == len(read.options) for scores in tables):
        raise ValueError("there must be a score for each option under every instruction")
    if not all(score is None or math.isfinite(score) for scores in tables for score in scores):
        raise ValueError("a score is not finite")
    return row
