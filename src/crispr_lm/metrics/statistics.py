"""What can be said of a difference: paired intervals and tests, clustered by template.

Rows made from one template are near-copies, so templates, not rows, are what is resampled (bootstrap) and what is
swapped (permutation test). Before and after are answers to the same questions, so both are always drawn together. The
instructions are fixed: an interval describes other templates, not of other instructions. Clusters are numbered by name,
so results do not depend on the order of rows. Knows columns and formulas
(`crispr_lm.metrics.family`); knows no model and no task.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap, norm, permutation_test, t

from crispr_lm.errors import InputError
from crispr_lm.metrics.family import Array, Columns, Metric, MetricFamily, number

CONFIDENCE = 0.95
RESAMPLES = 9_999
BATCH = 500
"""Resamples computed at once: bounds memory."""

ROUNDING = 1e-9
"""Statistics that differ by less are equal: sums of up to thousands of terms of size 1, in another order."""

FEWEST_CLUSTERS = 10
"""With fewer templates an interval, though widened for their number, may still be too narrow; results say so."""


@dataclass(frozen=True)
class Difference:
    """A paired difference, after minus before, over the mean of instructions.

    Attributes:
        value: The difference; None where the metric is undefined before or after.
        low: Lower end of its 95 % interval; None where there is none (a single template, or a metric that is undefined
            in some resamples).
        high: Upper end.
        p_value: Two-sided paired permutation test of no difference; None where there is none.
        p_value_holm: The same, corrected over tasks by `holm`; None until that is done.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """As JSON types."""
        return asdict(self)


def paired_differences(
    before: Sequence[Columns],
    after: Sequence[Columns],
    family: MetricFamily,
    clusters: Sequence[Hashable],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """Difference, interval and test of every metric.

    The interval is the percentile bootstrap over clusters (`scipy.stats.bootstrap`), widened for their number
    (`percentiles`); the test swaps before and after within clusters (`scipy.stats.permutation_test`, exact where there
    are few enough of them).

    Args:
        before: Columns per instruction, over the same examples.
        after: The same for the other model.
        family: The metrics.
        clusters: Per example what it must not be parted from, its template.
        seed: Of the resamples.
        resamples: Number of resamples, and of random permutations.

    Raises:
        InputError: before and after are not of the same examples and instructions.
    """
    if len(before) != len(after) or not before or any(len(column) != len(clusters) for column in before[0].values()):
        raise InputError("before and after must be answers to the same examples under the same instructions")
    cluster_of, count = numbered(clusters)
    old, new = (sums_per_cluster(columns, cluster_of, count) for columns in (before, after))
    return {
        metric.name: _difference(
            metric,
            np.stack([old[name] for name in metric.columns]),
            np.stack([new[name] for name in metric.columns]),
            seed,
            resamples,
        )
        for metric in family.defined(before[0])
    }


def value_interval(
    columns: Sequence[Columns],
    metric: Metric,
    clusters: Sequence[Hashable],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float | None, float | None]:
    """The 95 % interval of one figure by itself, resampled by cluster as in `paired_differences`."""
    cluster_of, count = numbered(clusters)
    sums = sums_per_cluster(columns, cluster_of, count)
    counts = np.stack([sums[name] for name in metric.columns])
    return bootstrap_interval(lambda drawn: mean_of(metric, drawn_sums(counts, drawn)), count, seed, resamples)


def gain_p_values(
    differences: NDArray[Any], clusters: Sequence[Hashable], seed: int = 0, permutations: int = RESAMPLES
) -> NDArray[np.float64]:
    """One-sided p-values of no gain for several edits, corrected for their number by the largest statistic.

    Single-step max-T (Westfall and Young, *Resampling-Based Multiple Testing*, 1993, section 2.3). Under no effect the
    answers before and after may be swapped within a cluster g, which turns the sign s_g of its sum d_ge of differences:

        T_e(s) = Σ_g s_g d_ge / √(Σ_g d_ge²),    p_e = share of all s with max over edits T(s) ≥ T_e(1)

    The denominator is the same for every s and puts edits that change much and little on one scale. All edits are
    swapped together, so correlated edits cost little, and the test stays possible with few clusters: Holm's smallest
    p-value is edits · 2^-clusters, which is above 2.5 % for 8 edits and 8 clusters.

    Args:
        differences: (examples, edits), after minus before, of the same examples; the larger the better.
        clusters: Per example what it must not be parted from, its template.
        seed: Of the swaps, where there are too many to try all.
        permutations: Number of random swaps; all 2^clusters are tried where they are no more.

    Returns:
        (edits,).
    """
    cluster_of, count = numbered(clusters)
    sums = np.zeros((count, differences.shape[1]))
    np.add.at(sums, cluster_of, differences)
    norms = np.sqrt((sums**2).sum(axis=0))
    scaled = np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0)
    if 2**count <= permutations + 1:
        signs = 1.0 - 2.0 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (permutations + 1, count))
        signs[0] = 1.0  # what was observed is one of the swaps, so that the level holds exactly
    largest = (signs @ scaled).max(axis=1)
    p_values: NDArray[np.float64] = (largest[:, None] >= scaled.sum(axis=0) - ROUNDING).mean(axis=0)
    return p_values


def percentiles(clusters: int, confidence: float = CONFIDENCE) -> float:
    """Confidence level at which percentiles of resamples of so few clusters are to be taken.

    A resample of G clusters varies as if there were G / (G − 1) times as many, and its tails are those of a normal
    distribution, so plain percentiles of few clusters hold the truth too rarely. The expanded
    percentile interval (Hesterberg, *What Teachers Should Know About the Bootstrap*, The American Statistician 69,
    2015, section 5.3) takes the quantiles farther out by both: a / 2 = Φ(−√(G / (G − 1)) · t quantile of G − 1).

    Args:
        clusters: G, at least 2.
        confidence: What the interval is to hold.
    """
    quantile = t.ppf((1 + confidence) / 2, clusters - 1)
    return float(1 - 2 * norm.sf(np.sqrt(clusters / (clusters - 1)) * quantile))


def clustered_error(values: NDArray[Any], clusters: NDArray[np.int64] | Sequence[str]) -> NDArray[np.float64]:
    """Standard error of the mean over examples (first dimension) that are alike within clusters.

    √(G / (G − 1) · Σ over clusters (Σ over their examples e of (z_e − mean))²) / examples, the sandwich estimator
    (Liang and Zeger, 1986) of G clusters. Where every example, or none, has a cluster of its own it is the plain
    standard error.

    Args:
        values: (examples, ...).
        clusters: The number or name of each example's cluster.
    """
    _, number = np.unique(clusters, return_inverse=True)
    count = int(number.max()) + 1
    if count == 1:
        number, count = np.arange(len(values)), len(values)
    sums = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
    np.add.at(sums, number, values - values.mean(axis=0))
    error: NDArray[np.float64] = np.sqrt((sums**2).sum(axis=0) * count / max(1, count - 1)) / len(values)
    return error


def p_value_text(value: float) -> str:
    """A p-value to three places."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction (Holm, 1979): adjusted p-values that hold for all comparisons together.

    Sorted ascending, p_(k) becomes the largest of (m − j + 1) · p_(j) over j ≤ k, at most 1. Missing values stay
    missing and do not count.
    """
    known = sorted((value, name) for name, value in p_values.items() if value is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (value, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[name] = largest
    return adjusted


def corrected_over_tasks(of_tasks: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """Fill in `p_value_holm`: each metric is corrected over the tasks that have it.

    Args:
        of_tasks: Task name to metric name to difference.
    """
    corrected = {task: dict(of_metrics) for task, of_metrics in of_tasks.items()}
    for metric in dict.fromkeys(name for of_metrics in of_tasks.values() for name in of_metrics):
        adjusted = holm({task: found[metric].p_value for task, found in of_tasks.items() if metric in found})
        for task, value in adjusted.items():
            corrected[task][metric] = replace(corrected[task][metric], p_value_holm=value)
    return corrected


def numbered(clusters: Sequence[Hashable]) -> tuple[NDArray[np.int64], int]:
    """The number of each example's cluster, and how many there are; by name, so that no result is of the row order."""
    number_of = {cluster: number for number, cluster in enumerate(sorted(set(clusters), key=repr))}
    return np.array([number_of[cluster] for cluster in clusters]), len(number_of)


def sums_per_cluster(columns: Sequence[Columns], cluster_of: NDArray[Any], count: int) -> dict[str, Array]:
    """Column name to sums (instructions, clusters)."""
    return {
        name: np.stack([np.bincount(cluster_of, weights=of[name], minlength=count) for of in columns])
        for name in columns[0]
    }


def mean_of(metric: Metric, sums: Array) -> Array:
    """The metric, averaged over the instructions under which it is defined; sums (columns, instructions, ...)."""
    values = metric.formula(*sums)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as it should be
        mean: Array = np.nanmean(values, axis=0)
    return mean


def drawn_sums(counts: Array, drawn: NDArray[Any]) -> Array:
    """Sums over resamples of clusters.

    Args:
        counts: (columns, instructions, clusters).
        drawn: int64 (..., n), indices of the clusters drawn.

    Returns:
        (columns, instructions, ...).
    """
    clusters = counts.shape[-1]
    flat = drawn.reshape(-1, drawn.shape[-1])
    offsets = np.arange(len(flat))[:, None] * clusters
    times = np.bincount((flat + offsets).ravel(), minlength=len(flat) * clusters).reshape(len(flat), clusters)
    sums: Array = counts @ times.T.astype(np.float64)
    return sums.reshape(*counts.shape[:2], *drawn.shape[:-1])


def _difference(metric: Metric, old: Array, new: Array, seed: int, resamples: int) -> Difference:
    """Of one metric; old and new are sums (columns, instructions, clusters)."""
    value = number(mean_of(metric, new.sum(axis=-1)) - mean_of(metric, old.sum(axis=-1)))
    clusters = old.shape[-1]
    if value is None or clusters < 2:
        return Difference(value)
    if np.array_equal(old, new):
        return Difference(value, 0.0, 0.0, 1.0)

    def of_drawn(drawn: NDArray[Any]) -> Array:
        return mean_of(metric, drawn_sums(new, drawn)) - mean_of(metric, drawn_sums(old, drawn))

    both = np.concatenate([old, new], axis=-1)

    def swapped(first: NDArray[Any], second: NDArray[Any], axis: int = -1) -> Array:
        first, second = np.moveaxis(first, axis, -1), np.moveaxis(second, axis, -1)
        return mean_of(metric, drawn_sums(both, second)) - mean_of(metric, drawn_sums(both, first))

    test = permutation_test(
        (np.arange(clusters), np.arange(clusters) + clusters),
        swapped,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=BATCH,
        rng=np.random.default_rng(seed),
    )
    low, high = bootstrap_interval(of_drawn, clusters, seed, resamples)
    undefined = np.isnan(test.null_distribution).any()
    return Difference(value, low, high, None if undefined else number(test.pvalue))


def bootstrap_interval(
    statistic: Callable[[NDArray[Any]], Array], clusters: int, seed: int, resamples: int, confidence: float = CONFIDENCE
) -> tuple[float | None, float | None]:
    """Expanded percentile bootstrap over clusters of a statistic.

    Args:
        statistic: Of indices of drawn clusters, int64 (..., clusters); returns (...).
        clusters: How many there are.
        seed: Of the resamples.
        resamples: Their number.
        confidence: Of the two-sided interval.

    Returns:
        None twice for a single cluster, and where the statistic is undefined in a resample.
    """
    if clusters < 2:
        return None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # an undefined interval is reported as None
        found = bootstrap(
            (np.arange(clusters),),
            lambda drawn, axis=-1: statistic(np.moveaxis(drawn, axis, -1)),
            vectorized=True,
            n_resamples=resamples,
            batch=BATCH,
            confidence_level=percentiles(clusters, confidence),
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    interval = found.confidence_interval
    return number(interval.low), number(interval.high)
