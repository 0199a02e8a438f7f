"""The decision: which of the tried edits is recommended, and whether any is.

Knows trials and a bench; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from crispr_lm.bench import Bench, Proposal
from crispr_lm.errors import InputError
from crispr_lm.finals import as_tried
from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.statistics import Difference, clustered_error, paired_differences
from crispr_lm.tasks.task import AMBIGUOUS, Example
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
        finals: The original and the finalists, where further questions were asked.
    """

    trial: Trial
    verdict: Verdict
    reason: str
    front: tuple[Trial, ...]
    control: Trial | None = None
    over_original: Difference | None = None
    over_control: Difference | None = None
    finals: tuple[Trial, ...] = ()


def decide(bench: Bench, tally: Tally, limits: Limits, seed: int, finals: Sequence[Trial] = ()) -> Decision:
    """Recommend the best trial within the limits, if it beats the original and random neurons.

    Where a few edits were asked further questions (`finals.hear_finalists`), one of these is taken, by its answers to
    all; else one of all that were tried. The best is that of the widest abstention gap among those whose gain is not
    clearly behind the highest (`of_like_gain`). It beats another if the 95 % interval of the difference (paired,
    clustered by template) is above 0.

    Args:
        bench: Where the random control is tried.
        tally: The trials; the control is added.
        limits: Hard limits on the cost.
        seed: Of the random neurons and the intervals.
        finals: The original and the finalists; none where there was no final heat.
    """
    front, heard = tuple(pareto_front(tally.complete)), tuple(finals)
    original, *edits = judged = heard or tuple(tally.complete)
    parted = original.tells_conditions
    asked = f"{sum(map(len, original.answers.values()))} questions of " * bool(heard)
    highest = best_within(judged, limits) or original
    if not highest.neurons:
        which, given_up = (f"{len(edits)} finalists", "") if heard else _tried(tally)
        reason = (
            f"no edit recommended: none of the {which} answers more {'ambiguous ' * parted}questions right on "
            f"{asked}the choose part within the limits ({_limits_told(limits)}){given_up}"
        )
        return Decision(tally.trials[0], "none", reason, front, finals=heard)
    alike = of_like_gain(bench, highest, original, judged, limits, seed)
    best = max(alike, key=lambda trial: (trial.figures.abstention_gap, merit(trial)))
    control = _try_control(bench, tally, best, original, seed)
    over_original, over_control = (gained(bench, other, best, seed) for other in (original, control))
    told = (
        f"{_interval(over_original)} over the original and {_interval(over_control)} over as many random neurons on "
        f"{asked}the choose part"
    )
    allowed = sum(trial.figures.within(limits) for trial in edits)
    if not (_above_zero(over_original) and _above_zero(over_control)):
        trials = f"{allowed} trial{'s' * (allowed != 1)}"
        reason = f"no edit recommended: the best of {trials} within the limits gains {told}, no sure gain"
        return Decision(tally.trials[0], "none", reason, front, control, over_original, over_control, heard)
    figures, trial = best.figures, as_tried(best, tally)
    cost = f"{max(figures.loss, 0.0):.3f} of disambiguated accuracy (standard error {figures.doubt:.3f}) and " * parted
    reason = (
        f"{len(best.neurons)} neuron{'s' if len(best.neurons) > 1 else ''} (trial {trial.number}): "
        f"{_why(trial, as_tried(highest, tally), highest.figures.gain)}{'ambiguous ' * parted}accuracy among the "
        f"{allowed} of {len(edits)} {'finalists' if heard else 'complete trials'} within the limits "
        f"({_limits_told(limits)}), {told}; it costs {cost}{figures.kl:.3f} nats"
    )
    return Decision(trial, "recommended", reason, front, control, over_original, over_control, heard)


def _try_control(bench: Bench, tally: Tally, best: Trial, original: Trial, seed: int) -> Trial:
    """As many random neurons as the best edit has, asked as much."""

    def attempt(number: int, proposal: Proposal) -> Trial:
        control = bench.attempt(number, proposal, [tally.trials[0]])
        if best.stage != "final":
            return control
        heard = bench.hear_out(number, proposal, control, original)
        return replace(heard, seconds=round(control.seconds + heard.seconds, 3))

    return tally.run(lambda: bench.random_control(best, seed), attempt)


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
        asked = list(zip(_asked(bench, one, task), one.answers[task], other.answers[task], strict=True))
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
    examples = [example for task in tasks for example in _asked(bench, before, task)]
    clusters = [(task, example.template) for task in tasks for example in _asked(bench, before, task)]
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


def _asked(bench: Bench, trial: Trial, task: str) -> tuple[Example, ...]:
    """The first of a task's examples, or all of them where the trial was heard out."""
    return bench.examples(task)[: len(trial.answers[task])]


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


def _why(best: Trial, highest: Trial, highest_gain: float) -> str:
    if best is highest:
        return "the highest gain in "
    return (
        f"the widest abstention gap of those within a standard error of the highest gain (trial {highest.number}: "
        f"{highest_gain:+.3f}) in "
    )


def _tried(tally: Tally) -> tuple[str, str]:
    """How many edits were tried, and how many of these were given up early, if any were."""
    whole = [trial.complete for trial in tally.trials[1:] if trial.is_candidate]
    given_up = len(whole) - sum(whole)
    which = "all of them" if given_up == len(whole) else f"{given_up} of them"
    return f"{len(whole)} edits tried", f"; {which} given up before all questions were asked" if given_up else ""


def _above_zero(difference: Difference) -> bool:
    return difference.low is not None and difference.low > 0


def _interval(difference: Difference) -> str:
    if difference.value is None or difference.low is None or difference.high is None:
        return "an unknown amount"
    return f"{difference.value:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"


def _limits_told(limits: Limits) -> str:
    caution = f" with {limits.caution:g} standard error{'s' * (limits.caution != 1)}" if limits.caution else ""
    return (
        f'KL {limits.kl:g}, accuracy loss {limits.accuracy_loss:g}, found or implied by more "unknown"{caution}, '
        f"over-abstention {limits.overabstention:g}, {limits.neurons} neurons"
    )
