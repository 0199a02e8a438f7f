"""Sets of labels: questions that all have the same options are classification."""

from __future__ import annotations

from collections.abc import Sequence

from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example

MOST_LABELS = 20
"""Labels that a set may have: metrics are formulas over a fixed number of columns."""


def label_set(examples: Sequence[Example]) -> tuple[str, ...] | None:
    """The labels, sorted, if all examples have the same ones; None if not, or if there are too many."""
    labels = tuple(sorted(examples[0].options))
    same = all(tuple(sorted(example.options)) == labels for example in examples)
    return labels if same and len(labels) <= MOST_LABELS else None


def are_labelled(examples: Sequence[Example]) -> bool:
    """Whether rows of the general form are classification: the same options in all, and nothing said of people."""
    plain = all(example.unknown is None and example.condition not in (AMBIGUOUS, DISAMBIGUATED) for example in examples)
    return plain and label_set(examples) is not None
