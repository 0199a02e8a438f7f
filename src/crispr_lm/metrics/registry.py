"""Metrics: numbers from option scores, and what can be said of their differences. Know no model.

A new family is one file and one line here, or comes from elsewhere (`register_metrics`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from crispr_lm.errors import InputError, nearest
from crispr_lm.metrics.classification import CLASSIFICATION
from crispr_lm.metrics.coreference import WINOBIAS, WINOGENDER
from crispr_lm.metrics.family import UNMATCHED, Metric, MetricFamily
from crispr_lm.metrics.group_facts import DIFFERENCE_AWARENESS, OCCUPATIONS
from crispr_lm.metrics.language import DIVERGENCE, PERPLEXITY
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.sentences import CROWS_PAIRS, STEREOSET
from crispr_lm.metrics.twins import TWIN_OPTIONS, family_of_name, twins_family
from crispr_lm.runtime.plugins import Registry


class _Families(Registry[MetricFamily]):
    """Families by name. That of twins with lists of words of a file's own follows from its name."""

    def __getitem__(self, name: str) -> MetricFamily:
        return family_of_name(name) or super().__getitem__(name)


FAMILIES = _Families(
    "metric family",
    (
        (family.name, family)
        for family in (
            QUESTION_ANSWERING,
            CLASSIFICATION,
            CROWS_PAIRS,
            STEREOSET,
            WINOBIAS,
            WINOGENDER,
            PERPLEXITY,
            DIVERGENCE,
            OCCUPATIONS,
            DIFFERENCE_AWARENESS,
            twins_family(),
            TWIN_OPTIONS,
        )
    ),
)
"""Metric families by the name that tasks refer to."""


def family_named(name: str) -> MetricFamily:
    """Find a family.

    Raises:
        InputError: there is none of this name.
    """
    if name not in FAMILIES:
        raise InputError(f"no metrics {name!r}{nearest(name, FAMILIES)}; there are: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def register_metrics(family: MetricFamily) -> None:
    """Add a family of metrics, for ``evaluate(..., family=NAME)`` and for tasks that name it.

    Raises:
        InputError: the name is taken or is no name, two metrics have one name, or none has that of the headline.
    """
    names = Counter(metric.name for metric in family.metrics)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise InputError(f"metric family {family.name!r} names {twice!r} twice; give every metric its own name")
    if family.headline not in names:
        raise InputError(f"metric family {family.name!r} has no metric {family.headline!r}; name one as its headline")
    FAMILIES.register(family.name, family)


def ordered_metrics(family: str, names: Iterable[str]) -> list[Metric]:
    """The metrics of a family that are among `names`, in the order of tables; `UNMATCHED` after them."""
    given = set(names)
    return [metric for metric in (*FAMILIES[family].metrics, UNMATCHED) if metric.name in given]
