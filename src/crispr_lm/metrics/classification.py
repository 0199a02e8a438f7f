"""Label bias: does a classifier favour a label whatever it reads? Knows examples and option scores; knows no model.

The second half of the CRISPR paper: sentence and pair classification with verbalised labels. Every example has the same
options in some order; figures are by the label's text.

    label_bias = ½ Σ over labels |share of answers − share of golden labels|          (total variation distance)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crispr_lm.errors import InputError
from crispr_lm.metrics.family import Array, Columns, Metric, MetricFamily, check_scores, chosen_options, ratio
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.labels import MOST_LABELS, label_set


def _columns(examples: Sequence[Example], scores: Array) -> Columns:
    check_scores(examples, scores)
    labels = label_set(examples)
    if labels is None:
        raise InputError(f"label metrics need the same options, at most {MOST_LABELS}, in every example")
    chosen = [
        example.options[index] if index >= 0 else None
        for example, index in zip(examples, chosen_options(scores), strict=True)
    ]
    golden = [example.options[example.answer] for example in examples]
    columns: Columns = {
        "questions": np.ones(len(examples)),
        "right": np.array([one == other for one, other in zip(chosen, golden, strict=True)], dtype=np.float64),
    }
    for number in range(MOST_LABELS):
        label = labels[number] if number < len(labels) else ""
        answered = np.array([bool(label) and one == label for one in chosen])
        true = np.array([bool(label) and one == label for one in golden])
        columns |= {
            f"answered_{number}": answered.astype(np.float64),
            f"golden_{number}": true.astype(np.float64),
            f"both_{number}": (answered & true).astype(np.float64),
        }
    return columns


def _of_labels(sums: Sequence[Array], groups: int) -> list[list[Array]]:
    """Sums in the order of `_names`, apart by kind of column."""
    return [list(sums[group * MOST_LABELS : (group + 1) * MOST_LABELS]) for group in range(groups)]


def _names(*kinds: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{number}" for kind in kinds for number in range(MOST_LABELS))


def _macro_f1(*sums: Array) -> Array:
    """Mean over labels that occur of 2 · both / (answered + golden)."""
    answered, golden, both = _of_labels(sums, 3)
    f1 = [2 * ratio(b, np.asarray(a) + g) for a, g, b in zip(answered, golden, both, strict=True)]
    known = ~np.isnan(f1)
    mean: Array = ratio(np.where(known, f1, 0).sum(axis=0), known.sum(axis=0))
    return mean


def _label_bias(*sums: Array) -> Array:
    answered, golden = _of_labels(sums[:-1], 2)
    apart: Array = sum((np.abs(np.asarray(a) - g) for a, g in zip(answered, golden, strict=True)), np.asarray(0.0)) / 2
    return ratio(apart, sums[-1])


def _largest(*sums: Array) -> Array:
    return ratio(np.max(np.stack([np.asarray(values) for values in sums[:-1]]), axis=0), sums[-1])


CLASSIFICATION = MetricFamily(
    name="classification",
    columns=_columns,
    metrics=(
        Metric("accuracy", "Accuracy", ("right", "questions"), ratio),
        Metric("macro_f1", "Macro F1", _names("answered", "golden", "both"), _macro_f1),
        Metric(
            "label_bias",
            "Label bias (0: labels as often as they are right)",
            (*_names("answered", "golden"), "questions"),
            _label_bias,
            better="lower",
        ),
        Metric(
            "largest_label_share",
            "Share of the most given label",
            (*_names("answered"), "questions"),
            _largest,
            better="neither",
        ),
    ),
    headline="accuracy",
)
