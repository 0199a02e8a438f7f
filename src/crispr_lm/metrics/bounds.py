"""One-sided bounds of a figure, or of a gain over a baseline: what a gate decides by. Clustered by template.

The bound is the farther of two. The first is an end of the bootstrap interval over templates. It says nothing where all
templates agree: twenty right answers give the interval from 1 to 1. The second is what templates that were not drawn
could still do. Of g templates none differed; with confidence c, the share of templates that do is at most

    u = 1 − (1 − c)^(1/g)        (about 3 / g for c = 0.95; 1 − u is the lower bound of Clopper and Pearson for g of g)

and each of these could at worst have the least value of the metric. So a lower bound is at most v − u · (v − least).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from crispr_lm.metrics.family import Array, Columns, Metric, number
from crispr_lm.metrics.statistics import (
    FEWEST_CLUSTERS,
    RESAMPLES,
    bootstrap_interval,
    drawn_sums,
    mean_of,
    numbered,
    sums_per_cluster,
)

POWER = 0.8
"""Chance of a decision that the number of templates is computed for: the usual one of sample sizes."""

MOST_TEMPLATES = 100_000
"""Above this the figure is at the limit: more questions will not decide, another limit will."""


@dataclass(frozen=True)
class Statistic:
    """A figure, or a gain, as a function of the templates drawn.

    Attributes:
        value: Over all templates; None where it is undefined.
        clusters: How many templates have a part in it.
        extent: Its least and largest value; None where it has none.
        resampled: From indices of drawn templates, int64 (..., clusters), to values (...).
    """

    value: float | None
    clusters: int
    extent: tuple[float, float] | None
    resampled: Callable[[NDArray[Any]], Array]

    def bootstrap(
        self, confidence: float, seed: int = 0, resamples: int = RESAMPLES
    ) -> tuple[float, float] | tuple[None, None]:
        """The ends of the bootstrap interval alone, each one-sided; arguments and None as in `bounds`."""
        if self.value is None or self.clusters < FEWEST_CLUSTERS:
            return None, None
        low, high = bootstrap_interval(self.resampled, self.clusters, seed, resamples, 2 * confidence - 1)
        return (None, None) if low is None or high is None else (low, high)

    def bounds(
        self, confidence: float, seed: int = 0, resamples: int = RESAMPLES
    ) -> tuple[float, float] | tuple[None, None]:
        """Lower and upper bound, each one-sided.

        Args:
            confidence: Of each bound, above 0.5.
            seed: Of the resamples.
            resamples: Their number.

        Returns:
            None twice where there is no bound: fewer than `FEWEST_CLUSTERS` templates, or a metric that is undefined
            for some draws of them.
        """
        low, high = self.bootstrap(confidence, seed, resamples)
        if self.value is None or low is None or high is None:
            return None, None
        least, largest = self.extent or (self.value, self.value)
        unseen = unseen_share(self.clusters, confidence)
        return (
            min(low, self.value - unseen * (self.value - least)),
            max(high, self.value + unseen * (largest - self.value)),
        )


def figure(columns: Sequence[Columns], metric: Metric, clusters: Sequence[Hashable]) -> Statistic:
    """A metric of one model, averaged over instructions.

    Args:
        columns: Per instruction, over the same examples.
        metric: Computed from them.
        clusters: Per example its template.
    """
    (counts,) = _counts((columns,), metric, clusters)
    return Statistic(
        number(mean_of(metric, counts.sum(axis=-1))),
        counts.shape[-1],
        metric.extent,
        lambda drawn: mean_of(metric, drawn_sums(counts, drawn)),
    )


def gain(
    before: Sequence[Columns], after: Sequence[Columns], metric: Metric, clusters: Sequence[Hashable]
) -> Statistic:
    """How much better a model is than a baseline on the same examples (`Metric.gain`), drawn in pairs.

    Args:
        before: Of the baseline, per instruction.
        after: Of the model.
        metric: Computed from them.
        clusters: Per example its template.
    """
    old, new = _counts((before, after), metric, clusters)

    def resampled(drawn: NDArray[Any]) -> Array:
        return metric.gain(mean_of(metric, drawn_sums(old, drawn)), mean_of(metric, drawn_sums(new, drawn)))

    value = metric.gain(mean_of(metric, old.sum(axis=-1)), mean_of(metric, new.sum(axis=-1)))
    # A gain lies between minus and plus the width of the metric's extent.
    width = None if metric.extent is None else metric.extent[1] - metric.extent[0]
    return Statistic(number(value), old.shape[-1], None if width is None else (-width, width), resampled)


def unseen_share(clusters: int, confidence: float) -> float:
    """u, the largest share of templates of which so many drawn ones may hold none."""
    return float(1 - (1 - confidence) ** (1 / clusters))


def templates_needed(
    found: Statistic, distance: float, confidence: float, seed: int = 0, resamples: int = RESAMPLES
) -> int | None:
    """How many templates would decide in four of five samples, if the figure stays where it is.

    The bootstrap bound h from the value shrinks as 1/√g, so g must satisfy (t(c) + z(0.8)) · s / √g ≤ distance, with
    s = h · √G / t(c); and u(g) times what a template can do must be no larger than the distance.

    Args:
        found: The figure.
        distance: From the figure to the limit.
        confidence: Of the bounds.
        seed: Of the resamples.
        resamples: Their number.

    Returns:
        None where that is more than `MOST_TEMPLATES`, or can't be known.
    """
    low, high = found.bootstrap(confidence, seed, resamples)
    if found.value is None or low is None or high is None:
        return None
    least, largest = found.extent or (found.value, found.value)
    reach = max(found.value - least, largest - found.value)
    spread = max(found.value - low, high - found.value) / float(t.ppf(confidence, found.clusters - 1))
    spread *= math.sqrt(found.clusters)

    def decides(templates: int) -> bool:
        width = (float(t.ppf(confidence, templates - 1)) + float(norm.ppf(POWER))) * spread / math.sqrt(templates)
        return width <= distance and unseen_share(templates, confidence) * reach <= distance

    if not decides(MOST_TEMPLATES):
        return None
    few, enough = FEWEST_CLUSTERS - 1, MOST_TEMPLATES
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if decides(middle) else (middle, enough)
    return enough


def _counts(models: Sequence[Sequence[Columns]], metric: Metric, clusters: Sequence[Hashable]) -> list[Array]:
    """Per model the sums (columns, instructions, clusters), of the templates that have a part in the metric."""
    cluster_of, count = numbered(clusters)
    sums = [sums_per_cluster(columns, cluster_of, count) for columns in models]
    counts = [np.stack([of_model[name] for name in metric.columns]) for of_model in sums]
    part = np.any([of_model.any(axis=(0, 1)) for of_model in counts], axis=0)
    return [of_model[..., part] for of_model in counts]
