"""Whether a model keeps to a rule: it does, it does not, or there are too few questions to tell.

Let v be the figure, or the gain over the baseline, and [a, b] what the rule allows. With one-sided bounds l ≤ v ≤ h,
clustered by template (`crispr_lm.metrics.bounds`):

    holds       l ≥ a and h ≤ b, with the rule's confidence c
    fails       h < a or l > b, with the confidence 1 − (1 − c) / m for m rules
    undecided   else

All of m rules hold at once only if each does, so that needs no correction (an intersection-union test; Berger, 1982).
But any of m rules may fail by chance, so 1 − c is divided by m (Bonferroni): where no rule is broken, some rule fails
in at most 1 − c of all samples. Knows measurements; knows no model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.rules import Rule
from crispr_lm.metrics.bounds import MOST_TEMPLATES, Statistic, figure, gain, templates_needed
from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.statistics import FEWEST_CLUSTERS, RESAMPLES

Outcome = Literal["holds", "fails", "undecided", "not decidable"]

ROUNDING = 1e-9
"""A bound that misses a limit by less equals it: sums of thousands of terms of size 1, in another order."""


@dataclass(frozen=True)
class Decision:
    """What became of a rule.

    Attributes:
        metric: As the rule names it.
        form: Its form, such as "at_least".
        limit: The number of that form.
        outcome: Whether it holds. "not decidable" is a rule about a loss without a baseline, of sealed rules alone.
        value: The model's figure; None where it is undefined.
        baseline: The baseline's figure on the same questions, for a rule about a loss.
        compared: What is compared with the limit: the value, or the gain over the baseline.
        low: Lower bound of that; None where there is none.
        high: Upper bound.
        confidence: Of each bound.
        templates: How many had a part in it.
        templates_needed: How many would decide in four of five samples, if the figure stays; None where it is decided,
            or no number will.
        questions_needed: The same in questions, as many to a template as now.
        reason: Why there is no decision, in words; empty where there is one.
    """

    metric: str
    form: str
    limit: float
    outcome: Outcome
    value: float | None
    baseline: float | None
    compared: float | None
    low: float | None
    high: float | None
    confidence: float
    templates: int
    templates_needed: int | None = None
    questions_needed: int | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Levels:
    """How sure a decision must be.

    Attributes:
        confidence: Of one rule.
        rules: m, how many are decided together.
        seed: Of the resamples.
        resamples: Their number.
    """

    confidence: float
    rules: int
    seed: int = 0
    resamples: int = RESAMPLES

    @property
    def failing(self) -> float:
        """The confidence with which a rule must be broken to fail."""
        return 1 - (1 - self.confidence) / self.rules


def decide(rule: Rule, metric: Metric, measured: Measurement, baseline: Measurement | None, levels: Levels) -> Decision:
    """Decide one rule.

    Args:
        rule: The rule.
        metric: What it is about.
        measured: Of the model.
        baseline: Of the baseline, on the same examples; needed for a rule about a loss.
        levels: How sure to be.
    """
    if rule.form == "loses_at_most":
        if baseline is None:
            raise ValueError("a rule about a loss needs a baseline")
        found = gain(baseline.columns, measured.columns, metric, measured.clusters)
    else:
        found = figure(measured.columns, metric, measured.clusters)
    least, largest = rule.allowed(metric)
    low, high = found.bounds(levels.confidence, levels.seed, levels.resamples)
    outcome: Outcome = "undecided"
    if low is not None and high is not None:
        low_failing, high_failing = found.bounds(levels.failing, levels.seed, levels.resamples)
        if low >= least - ROUNDING and high <= largest + ROUNDING:
            outcome = "holds"
        elif low_failing is not None and high_failing is not None and (high_failing < least or low_failing > largest):
            outcome, low, high = "fails", low_failing, high_failing
    needed, reason = (None, "") if outcome != "undecided" else _needed(found, (least, largest), levels)
    return Decision(
        metric=rule.metric,
        form=rule.form,
        limit=rule.limit,
        outcome=outcome,
        value=measured[metric.name],
        baseline=baseline[metric.name] if baseline is not None and rule.form == "loses_at_most" else None,
        compared=found.value,
        low=low,
        high=high,
        confidence=levels.failing if outcome == "fails" else levels.confidence,
        templates=found.clusters,
        templates_needed=needed,
        questions_needed=None if needed is None else math.ceil(needed * len(measured.clusters) / found.clusters),
        reason=reason,
    )


def _needed(found: Statistic, allowed: tuple[float, float], levels: Levels) -> tuple[int | None, str]:
    """How many templates would decide, or None; and why there is no decision."""
    if found.value is None:
        return None, "the figure is undefined on these questions"
    if not found.clusters:
        return None, "no question has a part in the figure"
    if found.clusters < FEWEST_CLUSTERS:
        return FEWEST_CLUSTERS, f"an interval needs at least {FEWEST_CLUSTERS} templates"
    least, largest = allowed
    inside = least <= found.value <= largest
    distance = min(abs(found.value - least), abs(largest - found.value))
    confidence = levels.confidence if inside else levels.failing
    needed = templates_needed(found, distance, confidence, levels.seed, levels.resamples)
    if needed is None and found.bootstrap(levels.confidence, levels.seed, levels.resamples) == (None, None):
        return None, "the figure is undefined in some draws of these templates"
    if needed is None:
        return None, f"the figure is at the limit; {MOST_TEMPLATES:,} templates would not decide"
    return needed, "too few templates"
