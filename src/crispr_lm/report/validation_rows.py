"""What a tuned search compares on the validation split: original, random neurons, published ranking, its own edit.

Reads result dictionaries only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED_NOTE = (
    "Published ranking: the neurons of highest B, as many as the limit on the KL divergence allows, or the nearest to "
    "the original. It is not CRISPR (paper), which chooses their number by accuracy (--preset paper)."
)
"""Goes with every table that has the row."""


def validation_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, as differences from the original, each with a `name`; empty without random neurons.

    The published ranking is one of the search's candidates. Where it was not re-evaluated it was asked fewer questions
    than the others; `asked` is false where even its smallest edit was too far from the original to be asked anything.

    Args:
        results: What ``results.json`` holds.
    """
    choice = results.get("choice") or {}
    trials = trials_of(results)
    control = trials.get(choice.get("control", -1))
    if control is None:
        return []
    named = [
        ("original", trials.get((choice.get("finals") or [0])[0])),  # asked as much as the control
        ("random neurons", control),
        ("published ranking", _again(trials, choice.get("published", -1))),
        (
            "crispr-lm search" + ", not recommended" * (results["verdict"] == "none"),
            trials.get(control["recipe"]["like"]),
        ),
    ]
    return [{"name": name, "asked": bool(row.get("metrics", True)), **row} for name, row in named if row is not None]


def trials_of(results: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """The rows of a tuned search by number."""
    return {row["trial"]: row for row in results["search"] if "trial" in row}


def _again(trials: Mapping[int, Mapping[str, Any]], number: int) -> Mapping[str, Any] | None:
    """A trial as it was re-evaluated, or as it was tried where it was not."""
    again = (row for row in trials.values() if row["stage"] == "final" and row["recipe"].get("of") == number)
    return next(again, trials.get(number))
