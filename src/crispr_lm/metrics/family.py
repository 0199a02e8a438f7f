"""What a family of metrics is: numbers per example that add up, and formulas over their sums.

Every metric of this project is a function of sums over examples (accuracy is the sum of right answers over the sum of
questions). Written that way, one formula gives the figure of a part, of each instruction, and of every resample of a
bootstrap. Knows examples and option scores; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import Example

Array = NDArray[np.float64]

Columns = dict[str, Array]
"""Column name to one number per example, float64 (examples,)."""

Metrics = dict[str, float | None]
"""Metric name to value; None where it is undefined (a share of nothing)."""

Value = TypeVar("Value", float, Array)

Better = Literal["higher", "lower", "target", "neither"]

SHARE, SIGNED = (0.0, 1.0), (-1.0, 1.0)
"""Least and largest value of a share, and of a difference of two shares."""


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        name: As in ``results.json``.
        label: As people read it.
        columns: The columns whose sums the formula takes, in its order.
        formula: Sums (arrays of any equal shape) to values, NaN where undefined.
        better: Where better is: "higher", "lower", nearer to the `target`, or "neither" (it only describes).
        target: The value of an unbiased model, where `better` is "target".
        extent: Its least and largest value; None where it has none. A bound on the metric takes into account what
            templates that were not drawn could do to it (`crispr_lm.metrics.bounds`).
    """

    name: str
    label: str
    columns: tuple[str, ...]
    formula: Callable[..., Array]
    better: Better = "higher"
    target: float = 0.0
    extent: tuple[float, float] | None = SHARE

    def gain(self, before: Value, after: Value) -> Value:
        """How much better `after` is than `before`; negative where it is worse, 0 where neither is better."""
        if self.better == "target":
            return abs(before - self.target) - abs(after - self.target)
        if self.better == "neither":
            return 0.0 * after
        return after - before if self.better == "higher" else before - after


def _not_from_scores(examples: Sequence[Example], scores: Array) -> Columns:
    raise InputError("these metrics are not computed from option scores")


@dataclass(frozen=True, kw_only=True)
class MetricFamily:
    """The metrics that belong to a kind of task.

    Attributes:
        name: As tasks refer to it.
        columns: From examples and option scores, float64 (examples, options), to columns. -inf stands where an example
            has no such option. Only columns that the examples allow are there. Families of other measures, such as
            perplexity, have no such function.
        metrics: Those whose columns are there are computed.
        headline: The metric to look at first.
    """

    name: str
    metrics: tuple[Metric, ...]
    headline: str
    columns: Callable[[Sequence[Example], Array], Columns] = _not_from_scores

    def defined(self, columns: Mapping[str, Any]) -> list[Metric]:
        """The metrics that these columns allow."""
        return [metric for metric in self.metrics if all(name in columns for name in metric.columns)]

    def values(self, columns: Mapping[str, Array]) -> Metrics:
        """Every metric that the columns allow, over all their examples."""
        return {
            metric.name: number(metric.formula(*(columns[name].sum() for name in metric.columns)))
            for metric in self.defined(columns)
        }


def chosen_options(scores: Array) -> NDArray[np.int64]:
    """The option with the highest score; of equal scores the first, -1 where no option has one (nothing matched)."""
    chosen = scores.argmax(axis=1)
    return np.where(np.isneginf(scores).all(axis=1), -1, chosen).astype(np.int64)


def one_hot(chosen: Sequence[int], options: int) -> Array:
    """Scores in which the chosen option alone has one: 0 where chosen, else -inf; for -1 no option has."""
    scores = np.full((len(chosen), options), -np.inf)
    for row, index in enumerate(chosen):
        if index >= 0:
            scores[row, index] = 0.0
    return scores


def ratio(part: Array, whole: Array) -> Array:
    """Part of whole, NaN where there is no whole."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    share: Array = np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)
    return share


def number(value: Any) -> float | None:
    """A Python float, None for NaN."""
    return None if np.isnan(value) else float(value)


def check_scores(examples: Sequence[Example], scores: Array) -> None:
    """Check that there is a row of scores for every example.

    Raises:
        InputError: no examples, or not one row for each.
    """
    if not len(examples) or scores.ndim != 2 or len(examples) != len(scores):
        raise InputError(
            f"{len(examples)} examples and scores of shape {tuple(scores.shape)}; give one row for each, at least one"
        )


UNMATCHED = Metric("unmatched_share", "Answers that match no option", ("unmatched", "asked"), ratio, better="lower")
"""Of generated answers, whatever the family."""


def with_unmatched(family: MetricFamily) -> MetricFamily:
    """A family with the share of answers that are none of the options."""

    def columns(examples: Sequence[Example], scores: Array) -> Columns:
        unmatched = (chosen_options(scores) < 0).astype(np.float64)
        return {**family.columns(examples, scores), "unmatched": unmatched, "asked": np.ones(len(examples))}

    return replace(family, columns=columns, metrics=(*family.metrics, UNMATCHED))
