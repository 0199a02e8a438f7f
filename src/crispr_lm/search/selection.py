"""The decision: which of the tried edits is recommended, and whether any is.

An edit is picked for its answers, so these say too much of it: of many edits that do nothing the best gains by chance.
What it gains is therefore tested on further questions alone, on which none was picked, with a correction for the number
of edits that were asked them. Knows trials and an evaluator; knows no model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from crispr_lm.errors import InputError
from crispr_lm.metrics.statistics import clustered_error, gain_p_values, p_value_text
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.reevaluation import as_tried
from crispr_lm.search.trial import Limits, Trial, best_within, merit, pareto_front
from crispr_lm.search.trial_log import TrialLog
from crispr_lm.tasks.base import AMBIGUOUS, Example

Verdict = Literal["recommended", "untested", "none"]

LEVEL = 0.025
"""One-sided: how often an edit may be recommended where none does anything. That of a 95 % interval above 0."""

FEWEST_TEMPLATES = math.ceil(-math.log2(LEVEL))
"""With fewer no gain can be shown: if every one of G templates gains, that is one of 2^G equally likely swaps."""


@dataclass(frozen=True)
class Gain:
    """What an edit gains over another model, and whether that may be chance.

    Attributes:
        value: Rise of the accuracy on ambiguous questions (of all, where a task does not tell), mean over tasks.
        p_value: One-sided, corrected for the number of edits (`gain_p_values`).
        questions: That it was tested on.
        templates: Of these questions.
        edits: That the p-value is corrected for.
        further: Whether no edit was picked on these questions. If not, the p-value is too low.
    """

    value: float
    p_value: float
    questions: int
    templates: int
    edits: int
    further: bool

    @property
    def shown(self) -> bool:
        """Whether a gain is shown."""
        return self.p_value <= LEVEL

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, with the level, and whether a gain is shown."""
        return {**asdict(self), "level": LEVEL, "shown": self.shown}


@dataclass(frozen=True)
class Decision:
    """What came out of a search.

    Attributes:
        trial: The edit to go on with; the original model where there is no better one.
        verdict: "recommended" where its gain is shown on further questions; "untested" where it was not tested on
            any, but is the best of what was tried; "none".
        reason: Why, in one sentence.
        front: The Pareto front, by falling gain.
        control: As many random neurons; None where no edit came into question.
        over_original: What the best edit gains over the original.
        over_control: The same over the random neurons.
        reevaluated: The original and the re-evaluated edits, where further questions were asked.
    """

    trial: Trial
    verdict: Verdict
    reason: str
    front: tuple[Trial, ...]
    control: Trial | None = None
    over_original: Gain | None = None
    over_control: Gain | None = None
    reevaluated: tuple[Trial, ...] = ()


def decide(
    evaluator: Evaluator, log: TrialLog, limits: Limits, seed: int, reevaluated: Sequence[Trial] = ()
) -> Decision:
    """Recommend the best trial within the limits, if its gain over the original and random neurons is shown.

    Where a few edits were asked further questions (`reevaluation.reevaluate_best`), one of these is taken, by its
    answers to all; else one of all that were tried. The best is that of the widest abstention gap among those whose
    gain is shown and not clearly behind the highest (`of_like_gain`). A gain is shown by further questions
    alone (`gains`). Where there are none, it must pass the same test on the questions that the edit was picked on,
    which some edits without any effect pass by chance: it is "untested" then.

    Args:
        evaluator: Where the random control is tried.
        log: The trials; the control is added.
        limits: Hard limits on the cost.
        seed: Of the random neurons and the tests.
        reevaluated: The original and the re-evaluated edits; none where there was no re-evaluation.
    """
    front, further = tuple(pareto_front(log.complete)), tuple(reevaluated)
    original, *edits = judged = further or tuple(log.complete)
    parted = original.tells_conditions
    highest = best_within(judged, limits) or original
    if not highest.neurons:
        asked = f"{sum(map(len, original.answers.values()))} questions of " * bool(further)
        which, given_up = (f"{len(edits)} re-evaluated edits", "") if further else _tried(log)
        reason = (
            f"no edit recommended: none of the {which} answers more {'ambiguous ' * parted}questions right on "
            f"{asked}the validation split within the limits ({_limits_text(limits, log.trials[0])}){given_up}"
            f"{_harmful(edits, limits)}"
        )
        return Decision(log.trials[0], "none", reason, front, reevaluated=further)
    first = {task: len(answers) for task, answers in log.trials[0].answers.items()} if further else {}
    # Where there are no further questions, the edits were picked on these, among all that were tried.
    reevaluated_edits = {edit.edit for edit in edits}
    rivals = [] if evaluator.further_prompts else [x for x in log.complete[1:] if x.edit not in reevaluated_edits]
    family = [*edits, *rivals]
    over_original = gains(evaluator, original, family, first, seed)[: len(edits)]
    sure = [edit for edit, gain in zip(edits, over_original, strict=True) if gain.shown]
    highest = best_within(sure, limits) or highest
    alike = of_like_gain(evaluator, highest, sure, limits)
    best = max(alike, key=lambda trial: (trial.figures.abstention_gap, merit(trial)))
    control = _try_control(evaluator, log, best, original, seed)
    of_best = over_original[edits.index(best)]
    of_control = gains(evaluator, control, family, first, seed)[edits.index(best)]
    found = Decision(log.trials[0], "none", "", front, control, of_best, of_control, further)
    gained = _gains_text(of_best, of_control, of_reevaluated=bool(further) and not rivals)
    allowed = sum(trial.figures.within(limits) for trial in edits)
    if not (of_best.shown and of_control.shown):
        return replace(found, reason=_no_gain(of_best, f"{allowed} trial{'s' * (allowed != 1)}", gained))
    among = f"{allowed} of {len(edits)} {'re-evaluated edits' if further else 'complete trials'}"
    trial = as_tried(best, log)
    verdict: Verdict = "recommended" if of_best.further else "untested"
    why = _why(trial, as_tried(highest, log), highest.figures.gain)
    return replace(found, trial=trial, verdict=verdict, reason=_reason(best, trial, why, among, limits, gained))


def _try_control(evaluator: Evaluator, log: TrialLog, best: Trial, original: Trial, seed: int) -> Trial:
    """As many random neurons as the best edit has, asked as much."""

    def attempt(number: int, proposal: Proposal) -> Trial:
        control = evaluator.attempt(number, proposal, log.trials[0])
        if best.stage != "final":
            return control
        reevaluated = evaluator.reevaluate(number, proposal, control, original)
        return replace(reevaluated, seconds=round(control.seconds + reevaluated.seconds, 3))

    return log.run(lambda: evaluator.random_control(best, seed), attempt)


def of_like_gain(evaluator: Evaluator, highest: Trial, sure: Sequence[Trial], limits: Limits) -> list[Trial]:
    """Trials within the limits whose gain is shown, and by no more than a standard error less than the highest.

    The one-standard-error rule (Breiman et al., 1984): the highest of many gains is so by chance in part, so what else
    counts may choose among those that can not be distinguished. The error is of the difference between the two trials,
    paired and clustered by template. What another of these trials dominates has no claim.

    Args:
        evaluator: Where they were tried.
        highest: The trial of the highest gain within the limits, which is always among them.
        sure: Complete trials whose gain is shown.
        limits: Hard limits on the cost.
    """
    front = pareto_front([highest, *(trial for trial in sure if trial.figures.within(limits) and trial is not highest)])
    return [
        trial
        for trial in front
        if trial is highest or highest.figures.gain - trial.figures.gain <= _error_between(evaluator, highest, trial)
    ]


def _error_between(evaluator: Evaluator, one: Trial, other: Trial) -> float:
    """Standard error of the difference in gain of two complete trials: paired, clustered by template."""
    squares = []
    for task in one.answers:
        asked = list(zip(_asked(evaluator, one, task), one.answers[task], other.answers[task], strict=True))
        asked = [row for row in asked if row[0].condition == AMBIGUOUS] or asked  # as `Figures.gain` is of
        differences = [float(this == example.answer) - float(that == example.answer) for example, this, that in asked]
        templates = [example.template for example, _, _ in asked]
        squares.append(float(clustered_error(np.array(differences), templates)) ** 2)
    return math.sqrt(sum(squares)) / len(squares)  # of a mean over tasks


def gains(
    evaluator: Evaluator, before: Trial, edits: Sequence[Trial], first: Mapping[str, int], seed: int
) -> list[Gain]:
    """What edits gain over another trial on the questions behind the first ones, tested for all of them together.

    Args:
        evaluator: Where they were tried.
        before: What they are compared with: the original, or random neurons.
        edits: Complete trials that were asked the same.
        first: By task how many questions edits were picked on; empty to test on all of them. If there are no others, on
            all of them, too.
        seed: Of the permutations.
    """
    rows = [row for row in _counted(evaluator, before) if row[1] >= first.get(row[0], 0)] if first else []
    further = bool(rows)
    rows = rows or _counted(evaluator, before)
    of_task = Counter(task for task, _, _ in rows)
    weights = np.array([1 / (len(of_task) * of_task[task]) for task, _, _ in rows])
    right = [
        np.array([float(trial.answers[task][index] == example.answer) for task, index, example in rows])
        for trial in (before, *edits)
    ]
    differences = np.stack([(after - right[0]) * weights for after in right[1:]], axis=1)
    clusters = [(task, example.template) for task, _, example in rows]
    p_values = gain_p_values(differences, clusters, seed)
    return [
        Gain(float(value), float(p_value), len(rows), len(set(clusters)), len(edits), further)
        for value, p_value in zip(differences.sum(axis=0), p_values, strict=True)
    ]


def _counted(evaluator: Evaluator, trial: Trial) -> list[tuple[str, int, Example]]:
    """Task, place and example of the questions that `Figures.gain` is of: ambiguous ones, where a task tells."""
    counted = []
    for task in trial.answers:
        asked = list(enumerate(_asked(evaluator, trial, task)))
        rows = [row for row in asked if row[1].condition == AMBIGUOUS] or asked
        counted += [(task, index, example) for index, example in rows]
    return counted


def _asked(evaluator: Evaluator, trial: Trial, task: str) -> tuple[Example, ...]:
    """The first of a task's examples, or all of them where the trial was re-evaluated."""
    return evaluator.examples(task)[: len(trial.answers[task])]


def picked_by_hand(decision: Decision, number: int) -> Decision:
    """The decision with a trial of the front picked; any other than the one decided on is "untested".

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
    picked: Verdict = "untested" if trial.neurons else "none"
    return replace(
        decision, trial=trial, verdict=decision.verdict if trial is decision.trial else picked, reason=reason
    )


def _why(best: Trial, highest: Trial, highest_gain: float) -> str:
    if best is highest:
        return "the highest gain in "
    return (
        f"the widest abstention gap of those within a standard error of the highest gain (trial {highest.number}: "
        f"{highest_gain:+.3f}) in "
    )


def _reason(best: Trial, trial: Trial, why: str, among: str, limits: Limits, gained: str) -> str:
    """Why the best edit is taken, which was found as that trial."""
    figures, count = best.figures, len(best.neurons)
    parted = best.tells_conditions
    cost = f"{max(figures.loss, 0.0):.3f} of disambiguated accuracy (standard error {figures.doubt:.3f}) and " * parted
    return (
        f"{count} neuron{'s' * (count > 1)} (trial {trial.number}): {why}{'ambiguous ' * parted}accuracy among the "
        f"{among} within the limits ({_limits_text(limits, best)}), {gained}; it costs {cost}{figures.kl:.3f} nats"
    )


def _no_gain(gain: Gain, trials: str, gained: str) -> str:
    """Why the best edit is not taken."""
    few = f": {FEWEST_TEMPLATES} templates are the fewest that can show one" * (gain.templates < FEWEST_TEMPLATES)
    return f"no edit recommended: the best of {trials} within the limits gains {gained}; no gain is shown{few}"


def _harmful(trials: Sequence[Trial], limits: Limits) -> str:
    """How many gaining edits keep all limits but those on facts and other kinds of stereotype, if any do."""
    others = replace(limits, caution=0.0, bias_rise=math.inf, fact_loss=math.inf, spillover=math.inf)
    gaining = [trial for trial in trials if trial.figures.gain > 0 and trial.figures.within(others)]
    harmful = [trial for trial in gaining if trial.figures.harmful(limits)]
    if not harmful:
        return ""
    most = max(harmful, key=merit)
    return (
        f"; {len(harmful)} of the {len(gaining)} that gain within the other limits lose facts about groups or worsen "
        f"other kinds of stereotype (trial {most.number}, which gains most: accuracy on facts "
        f"{0.0 - most.figures.fact_loss:+.3f}, size of the bias score of other kinds {most.figures.spillover:+.3f})"
    )


def _tried(log: TrialLog) -> tuple[str, str]:
    """How many edits were tried, and how many of these were given up early, if any were."""
    whole = [trial.complete for trial in log.trials[1:] if trial.is_candidate]
    given_up = len(whole) - sum(whole)
    which = "all of them" if given_up == len(whole) else f"{given_up} of them"
    return f"{len(whole)} edits tried", f"; {which} given up before all questions were asked" if given_up else ""


def _gains_text(over_original: Gain, over_control: Gain, *, of_reevaluated: bool) -> str:
    """Both gains with their p-values, and what these are of."""
    what = "further questions" if over_original.further else "questions that it was picked on, which is no test,"
    family = (
        f"{over_original.edits} {'re-evaluated edit' if of_reevaluated else 'edit'}{'s' * (over_original.edits != 1)}"
    )
    return (
        f"{over_original.value:+.3f} over the original ({p_value_text(over_original.p_value)}) and "
        f"{over_control.value:+.3f} over as many random neurons ({p_value_text(over_control.p_value)}) on "
        f"{over_original.questions} {what} of {over_original.templates} templates of the validation split (one-sided, "
        f"corrected for {family})"
    )


def _limits_text(limits: Limits, original: Trial) -> str:
    """The limits, without those on what the questions of the search do not measure."""
    caution = f" with {limits.caution:g} standard error{'s' * (limits.caution != 1)}" if limits.caution else ""
    named = [f"KL {limits.kl:g}"]
    if original.tells_conditions:
        named.append(f'accuracy loss {limits.accuracy_loss:g}, found or implied by more "unknown"{caution}')
        named.append(f"over-abstention {limits.overabstention:g}")
    named += [f"loss of facts {limits.fact_loss:g}"] * ("facts" in original.aside)
    named += [f"spill-over {limits.spillover:g}"] * ("spillover" in original.aside)
    return ", ".join([*named, f"{limits.neurons} neurons"])
