"""Metrics: numbers from option scores, and what can be said of their differences. Know no model.

A new family is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Iterable

from crispr_lm.metrics.classification import CLASSIFICATION
from crispr_lm.metrics.coreference import WINOBIAS, WINOGENDER
from crispr_lm.metrics.family import UNMATCHED, Metric, MetricFamily
from crispr_lm.metrics.language import DIVERGENCE, PERPLEXITY
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.sentences import CROWS_PAIRS, STEREOSET

FAMILIES: dict[str, MetricFamily] = {
    family.name: family
    for family in (
        QUESTION_ANSWERING,
        CLASSIFICATION,
        CROWS_PAIRS,
        STEREOSET,
        WINOBIAS,
        WINOGENDER,
        PERPLEXITY,
        DIVERGENCE,
    )
}
"""Metric families by the name that tasks refer to."""


def ordered_metrics(family: str, names: Iterable[str]) -> list[Metric]:
    """The metrics of a family that are among `names`, in the order of tables; `UNMATCHED` after them."""
    given = set(names)
    return [metric for metric in (*FAMILIES[family].metrics, UNMATCHED) if metric.name in given]
