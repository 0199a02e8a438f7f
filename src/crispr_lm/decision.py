"""The decision: which of the tried edits is recommended, and whether any is.

Knows trials and a bench; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from crispr_lm.bench import Bench
from crispr_lm.errors import InputError
from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.statistics import Difference, clustered_error, paired_differences
from crispr_lm.tasks.task import AMBIGUOUS
from crispr_lm.trials import Limits, Trial, best_within, merit, pareto_front
from crispr_lm.tuning import Tally

Verdict = Literal["recommended", "none"]


@dataclass(frozen=True)
class Decision:
    """What came out of a search.

    Attributes:
        trial: The edit to go on with; the original model where there is no better one.
        verdict: Whether it is recommended.
        reason: Why, in one sentence.
        front: The Pareto front, by falling gain.
        control: As many random neurons; None where no edit came into question.
        over_original: Gain in accuracy over the original, with its interval, on the `choose` part.
        over_control: The same over the random neurons.
    """

    trial: Trial
    verdict: Verdict
    reason: str
    front: tuple[Trial, ...]
    control: Trial | None = None
    over_original: Difference | None = None
    over_control: Difference | None = None


def decide(bench: Bench, tally: Tally, limits: Limits, seed: int) -> Decision:
    """Recommend the best trial within the limits, if it beats the original and random neurons.

    The best is that of the widest abstention gap among those whose gain is not clearly behind the highest
    (`of_like_gain`). It beats another if the 95 % interval of the difference (paired, clustered by template) is above
    0.

    Args:
        bench: Where the random control is tried.
        tally: The trials; the control is added.
        limits: Hard limits on the cost.
        seed: Of the random neurons and the intervals.
    """
    front = tuple(pareto_front(tally.trials))
    original, complete = tally.trials[0], tally.complete
    parted = original.tells_conditions
    highest = best_within(complete, limits) or original
    if not highest.neurons:
        tried = [trial for trial in tally.trials[1:] if trial.stage != "control"]
        whole = sum(trial.complete for trial in tried)
        given_up = len(tried) - whole
        which = "all of them" if given_up == len(tried) else f"{given_up} of them"
        early = f"; {which} given up before all questions were asked" if given_up else ""
        reason = (
            f"no edit recommended: none of the {len(tried)} edits tried answers more {'ambiguous ' * parted}questions "
            f"right on the choose part within the limits ({_limits_told(limits)}){early}"
        )
        return Decision(original, "none", reason, front)
    alike = of_like_gain(bench, highest, original, complete, limits, seed)
    best = max(alike, key=lambda trial: (trial.figures.abstention_gap, merit(trial)))
    control = tally.run(
        lambda: bench.random_control(best, seed), lambda number, proposal: bench.attempt(number, proposal, [original])
    )
    over_original, over_control = (gained(bench, other, best, seed) for other in (original, control))
    told = (
        f"{_interval(over_original)} over the original and {_interval(over_control)} over as many random neurons on "
        "the choose part"
    )
    allowed = sum(trial.figures.within(limits) for trial in complete if trial.neurons)
    if not (_above_zero(over_original) and _above_zero(over_control)):
        reason = f"no edit recommended: the best of {allowed} trials within the limits gains {told}, no sure gain"
        return Decision(original, "none", reason, front, control, over_original, over_control)
    figures = best.figures
    cost = f"{max(figures.loss, 0.0):.3f} of disambiguated accuracy (standard error {figures.doubt:.3f}) and " * parted
    reason = (
        f"{len(best.neurons)} neuron{'s' if len(best.neurons) > 1 else ''} (trial {best.number}): {_why(best, highest)}"
        f"{'ambiguous ' * parted}accuracy among the {allowed} of {len(complete) - 1} complete trials within the limits "
        f"({_limits_told(limits)}), {told}; it costs {cost}{figures.kl:.3f} nats"
    )
    return Decision(best, "recommended", reason, front, control, over_original, over_control)


def of_like_gain(
    bench: Bench, highest: Trial, original: Trial, trials: Sequence[Trial], limits: Limits, seed: int
) -> list[Trial]:
    """Trials within the limits that surely gain, and by no more than a standard error less than the highest.

    The one-standard-error rule (Breiman et al., 1984): the highest of many gains is so by chance in part, so what else
    counts may choose among those that are not told apart. The error is of the difference between the two trials,
    paired and clustered by template. What another trial within the limits dominates has no claim.

    Args:
        bench: Where they were tried.
        highest: The trial of the highest gain within the limits, which is always among them.
        original: The original model's trial.
        trials: Complete ones.
        limits: Hard limits on the cost.
        seed: Of the intervals that say whether a gain is sure.
    """

    def alike(trial: Trial) -> bool:
        behind = highest.figures.gain - trial.figures.gain
        return behind <= _error_between(bench, highest, trial) and _above_zero(gained(bench, original, trial, seed))

    front = pareto_front([trial for trial in trials if trial.figures.within(limits)])
    return [trial for trial in front if trial is highest or (trial.neurons and alike(trial))]


def _error_between(bench: Bench, one: Trial, other: Trial) -> float:
    """Standard error of the difference in gain of two complete trials: paired, clustered by template."""
    squares = []
    for task in one.answers:
        asked = list(zip(bench.examples(task), one.answers[task], other.answers[task], strict=True))
        asked = [row for row in asked if row[0].condition == AMBIGUOUS] or asked  # as `Figures.gain` is of
        differences = [float(this == example.answer) - float(that == example.answer) for example, this, that in asked]
        templates = [example.template for example, _, _ in asked]
        squares.append(float(clustered_error(np.array(differences), templates)) ** 2)
    return math.sqrt(sum(squares)) / len(squares)  # of a mean over tasks


def gained(bench: Bench, before: Trial, after: Trial, seed: int) -> Difference:
    """Difference in ambiguous accuracy (all accuracy, where tasks do not tell) of two complete trials, with interval.

    Examples of all tasks together, paired, drawn again by template.
    """
    tasks = list(before.answers)
    examples = [example for task in tasks for example in bench.examples(task)]
    clusters = [(task, example.template) for task in tasks for example in bench.examples(task)]
    most = max(len(example.options) for example in examples)
    columns = [
        QUESTION_ANSWERING.columns(
            examples, one_hot([answer for task in tasks for answer in trial.answers[task]], most)
        )
        for trial in (before, after)
    ]
    name = "accuracy_ambiguous" if "ambiguous" in columns[0] else "accuracy"
    metric = tuple(metric for metric in QUESTION_ANSWERING.metrics if metric.name == name)
    family = replace(QUESTION_ANSWERING, metrics=metric)
    return paired_differences([columns[0]], [columns[1]], family, clusters, seed)[name]


def picked_by_hand(decision: Decision, number: int) -> Decision:
    """The decision with another trial of the front in place of the recommended one; the verdict stays.

    Raises:
        InputError: the trial is not on the front.
    """
    trial = next((trial for trial in decision.front if trial.number == number), None)
    if trial is None:
        there = ", ".join(str(trial.number) for trial in decision.front)
        raise InputError(f"trial {number} is not on the Pareto front; pick one of: {there}")
    reason = (
        f"trial {trial.number}, picked by hand ({len(trial.neurons)} neurons; {trial.outcome()}); by itself: "
        f"{decision.reason}"
    )
    return replace(decision, trial=trial, reason=reason)


def _why(best: Trial, highest: Trial) -> str:
    if best is highest:
        return "the highest gain in "
    return (
        f"the widest abstention gap of those within a standard error of the highest gain (trial {highest.number}: "
        f"{highest.figures.gain:+.3f}) in "
    )


def _above_zero(difference: Difference) -> bool:
    return difference.low is not None and difference.low > 0


def _interval(difference: Difference) -> str:
    if difference.value is None or difference.low is None or difference.high is None:
        return "an unknown amount"
    return f"{difference.value:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"


def _limits_told(limits: Limits) -> str:
    caution = f" with {limits.caution:g} standard error{'s' * (limits.caution != 1)}" if limits.caution else ""
    return (
        f"KL {limits.kl:g}, accuracy loss {limits.accuracy_loss:g}{caution}, "
        f"over-abstention {limits.overabstention:g}, {limits.neurons} neurons"
    )
