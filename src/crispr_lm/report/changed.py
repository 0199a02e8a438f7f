"""The answers that an edit has changed, from ``answers.jsonl``. Reads rows, never a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crispr_lm.report import words


def changed_answers(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The examples whose answer an edit has changed under some instruction, with probabilities before and after.

    The `id` is its line in the file. Probabilities are the options' own, averaged over instructions; an answer is the
    one of highest summed log-probability. Better and worse mean under more or fewer instructions right.
    """
    changed = []
    for number, row in enumerate(answers, start=1):
        before, after = (best_options(row["scores"][when]) for when in ("before", "after"))
        if before == after:
            continue
        right = [sum(choice == row["answer"] for choice in chosen) for chosen in (before, after)]
        changed.append(
            {
                "id": number,
                "task": words.short(row["task"]),
                "category": words.spoken(row["category"] or ""),
                "condition": row["condition"] or "",
                "context": row["context"],
                "question": row["question"],
                "options": row["options"],
                "answer": row["answer"],
                "unknown": row["unknown"],
                "stereotyped": row["stereotyped"],
                "before": _probabilities(row["scores"]["before"]),
                "after": _probabilities(row["scores"]["after"]),
                "change": "better" if right[1] > right[0] else "worse" if right[1] < right[0] else "other",
            }
        )
    # Worse ones first: losses must not be hidden behind gains.
    changed.sort(key=lambda example: {"worse": 0, "better": 1, "other": 2}[str(example["change"])])
    return changed


def spread(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many rows, each kind of change keeping its share."""
    if len(rows) <= most:
        return rows
    return [rows[index * len(rows) // most] for index in range(most)]


def best_options(tables: Sequence[Sequence[float | None]]) -> list[int]:
    """Under each instruction the option of highest score, the first of equal ones; -1 where none has one."""
    return [_chosen(scores) for scores in tables]


def _chosen(scores: Sequence[float | None]) -> int:
    known = [(score, -index) for index, score in enumerate(scores) if score is not None]
    return -max(known)[1] if known else -1


def _probabilities(tables: Sequence[Sequence[float | None]]) -> list[float]:
    """Each option's probability, in shares of all options, mean over instructions."""
    shares = []
    for scores in tables:
        values = np.array([-np.inf if score is None else score for score in scores])
        if np.isneginf(values).all():
            continue  # nothing was matched
        weights = np.exp(values - values.max())
        shares.append(weights / weights.sum())
    mean = np.mean(shares, axis=0) if shares else np.zeros(len(tables[0]))
    return [round(float(value), 4) for value in mean]
