"""``answers.jsonl``: what was asked and answered, an object per example. Knows the form of the file, no model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crispr_lm.storage.records import read_rows


class _Scores(BaseModel):
    """Per instruction the score of every option; None for one that was not written."""

    model_config = ConfigDict(strict=True)

    before: list[list[float | None]]
    after: list[list[float | None]] | None = None


class _AnswerRow(BaseModel):
    """A line of the file. Further fields are left as they are."""

    model_config = ConfigDict(strict=True)

    task: str
    source: str
    template: str
    category: str | None
    condition: str | None
    context: str
    question: str
    options: list[str] = Field(min_length=2)
    answer: int = Field(ge=0)
    unknown: int | None = Field(ge=0)
    stereotyped: int | None = Field(ge=0)
    language: str = Field("en", pattern="^[a-z]{2}$")
    polarity: str = ""
    facets: dict[str, str] = {}
    scores: _Scores


def read_answers(path: Path, *, edited: bool = True) -> list[dict[str, Any]]:
    """Read the file as a run wrote it; a torn last line is dropped.

    Args:
        path: The file.
        edited: Whether an edit was measured, so that every row has answers after it.

    Raises:
        InputError: it can't be read, or a line is something else.
    """
    advice = "the file was changed or is of another version, so give an unchanged copy"
    return read_rows(path, lambda row: checked_answer(row, edited=edited), advice)


def checked_answer(row: dict[str, Any], *, edited: bool = True) -> dict[str, Any]:
    """The row, if it is one of this file.

    Raises:
        ValueError: it is something else.
    """
    try:
        read = _AnswerRow.model_validate(row)
    except ValidationError as error:
        raise ValueError("no answer") from error
    count = len(read.options)
    if any(index is not None and index >= count for index in (read.answer, read.unknown, read.stereotyped)):
        raise ValueError("an index is none of the options")
    if edited != (read.scores.after is not None):
        raise ValueError("answers after an edit are missing, or there are some without one")
    tables = [read.scores.before] + ([] if read.scores.after is None else [read.scores.after])
    if not all(table and all(len(scores) == count for scores in table) for table in tables):
        raise ValueError("there must be a score for each option under every instruction")
    if not all(score is None or math.isfinite(score) for table in tables for scores in table for score in scores):
        raise ValueError("a score is not finite")
    return row
