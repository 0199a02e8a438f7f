"""The decision: which of the tried edits is recommended, and whether any is.

Knows trials and a bench; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from crispr_lm.bench import Bench
from crispr_lm.errors import InputError
from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.statistics import Difference, paired_differences
from crispr_lm.trials import Limits, Trial, best_within, pareto_front
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
    """Recommend the trial of the highest gain within the limits, if it beats the original and random neurons.

    It does if the 95 % intervals of both differences (paired, clustered by template) are above 0.

    Args:
        bench: Where the random control is tried.
        tally: The trials; the control is added.
        limits: Hard limits on the cost.
        seed: Of the random neurons and the intervals.
    """
    front = tuple(pareto_front(tally.trials))
    original, complete = tally.trials[0], tally.complete
    parted = original.tells_conditions
    best = best_within(complete, limits) or original
    if not best.neurons:
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
        f"{len(best.neurons)} neuron{'s' if len(best.neurons) > 1 else ''} (trial {best.number}): the highest gain in "
        f"{'ambiguous ' * parted}accuracy among the {allowed} of {len(complete) - 1} complete trials within the limits "
        f"({_limits_told(limits)}), {told}; it costs {cost}{figures.kl:.3f} nats"
    )
    return Decision(best, "recommended", reason, front, control, over_original, over_control)


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
