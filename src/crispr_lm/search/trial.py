"""Trials: edits tried on the validation split, what they gain and cost there, limits on the cost, and the Pareto front.

Knows figures and neurons; runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from crispr_lm.metrics.family import Metrics
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.storage.stages import JUDGING

TOLERANCE = 1e-9
"""A cost of exactly the limit is allowed; 0.45 - 0.40 is a little more than 0.05 in floating point."""


PRICE_OF_LOSS, PRICE_OF_KL = 0.1, 1.0
"""Nats of loss on biased answers that all the loss of accuracy allowed is worth, and all the divergence allowed.

Both were found on five categories of BBQ, their test splits among what was looked at (docs/results/search.md).
"""


@dataclass(frozen=True)
class Limits:
    """Hard limits on what an edit may cost, each against the original model.

    Attributes:
        kl: KL divergence on neutral prompts, nats per token.
        accuracy_loss: Loss of accuracy on disambiguated questions, in each task: what was lost, or what a rise of
            "unknown" should have taken away where that is more (`Figures.implied`).
        overabstention: Rise of the share of "unknown" among the answers to disambiguated questions, in each task.
        neurons: Number of neurons.
        caution: Standard errors that the loss of accuracy must stay below its limit, so that the limit is likely to
            hold on templates that nobody has seen.
        bias_rise: Rise of the size of a bias score, in either condition of each task, beyond what `caution` standard
            errors explain: on a few hundred questions a bias score is uncertain by more than this limit.
        fact_loss: Loss of accuracy on facts about groups, beyond what `caution` standard errors explain: a hundred
            questions, of which there are no further ones, tell it to 0.02. 1 sets no limit.
        spillover: Rise of the size of a bias score on other kinds of stereotype, beyond what `caution` standard errors
            explain. 1 sets no limit.
    """

    kl: float = 0.1
    accuracy_loss: float = 0.05
    overabstention: float = 0.2
    neurons: int = 100
    caution: float = 0.5
    bias_rise: float = 0.05
    fact_loss: float = 0.02
    spillover: float = 0.05

    @property
    def with_doubt(self) -> Limits:
        """For edits that will be re-evaluated: what few questions can't tell keeps no edit from that.

        A loss is beyond its limit by more than a standard error then. Bias scores and side effects are not looked at,
        which few questions hardly tell.
        """
        return replace(self, caution=-1.0, bias_rise=math.inf, fact_loss=math.inf, spillover=math.inf)

    @property
    def multipliers(self) -> tuple[float, float]:
        """λ and ρ of the search's loop (`search.loop`), so that what the limits allow costs `PRICE_OF_LOSS` and so on.

        A limit below 0.01 costs as much as one of 0.01: nothing may be lost there, but something is to be gained.
        """
        loss = min(self.accuracy_loss, self.overabstention)
        return PRICE_OF_LOSS / max(loss, 0.01), PRICE_OF_KL / max(self.kl, 0.01)


@dataclass(frozen=True)
class Figures:
    """What an edit gains and costs.

    Attributes:
        gain: Rise of the accuracy on ambiguous questions (of all, where a task does not tell), mean over tasks.
        loss: Loss of accuracy on disambiguated questions, in the task that loses most; negative for a rise.
        overabstention: Rise of the share of "unknown" on disambiguated questions, in the task where it rises most.
        kl: KL divergence from the original on neutral prompts.
        doubt: Standard error of the loss, clustered by template, in the task where it is largest.
        implied: The loss that the rise of "unknown" would bring if it took right and wrong answers alike: the rise
            times the accuracy of what the original answers there. Whether an answer that went was right is chance where
            a model hardly knows it, so of few questions this tells the loss on others better than the loss itself does.
        implied_doubt: Its standard error, clustered by template.
        bias_rise: Rise of the size of a bias score, in the task and condition where it is clearest.
        bias_doubt: Its standard error, clustered by template.
        fact_loss: Loss of accuracy on facts about groups (`crispr_lm.search.side_effects`); 0 where not asked.
        fact_doubt: Its standard error, clustered by template.
        spillover: Rise of the size of the bias score on other kinds of stereotype, in the condition where it is
            clearest; 0 where not asked.
        spillover_doubt: Its standard error, clustered by template.
    """

    gain: float
    loss: float
    overabstention: float
    kl: float
    doubt: float = 0.0
    implied: float = 0.0
    implied_doubt: float = 0.0
    bias_rise: float = 0.0
    bias_doubt: float = 0.0
    fact_loss: float = 0.0
    fact_doubt: float = 0.0
    spillover: float = 0.0
    spillover_doubt: float = 0.0

    @property
    def abstention_gap(self) -> float:
        """By how much more readily "unknown" is answered to ambiguous than to disambiguated questions than before."""
        return self.gain - self.overabstention

    @property
    def expected_loss(self) -> float:
        """The loss to expect on other questions: that found, or the implied one where it is larger."""
        return max(self.loss, self.implied)

    def objectives(self) -> tuple[float, float, float]:
        """What the front is of: all three the larger the better."""
        return self.gain, -self.loss, -self.kl

    def excess(self, limits: Limits) -> float:
        """By how much the costs in answers exceed their limits, the larger of the two; negative where there is room.

        As a share of the disambiguated questions: loss (`loss_beyond`) and over-abstention.
        """
        return max(self.loss_beyond(limits), self.overabstention - limits.overabstention)

    def loss_beyond(self, limits: Limits) -> float:
        """By how much the loss exceeds its limit, found or implied, with `Limits.caution` standard errors of either."""
        found = self.loss + limits.caution * self.doubt
        implied = self.implied + limits.caution * self.implied_doubt
        return max(found, implied) - limits.accuracy_loss

    def too_far(self, limits: Limits) -> bool:
        """Whether the divergence from the original is above its limit."""
        return self.kl > limits.kl + TOLERANCE

    def within(self, limits: Limits) -> bool:
        """Whether no cost is above its limit, the loss with `Limits.caution` standard errors added to it."""
        return (
            not self.too_far(limits)
            and self.excess(limits) <= TOLERANCE
            and not self.more_biased(limits)
            and not self.harmful(limits)
        )

    def harmful(self, limits: Limits) -> bool:
        """Whether facts about groups are lost, or other kinds of stereotype have grown for certain, beyond the limits.

        Both are told by few questions, so they are judged as a bias score is.
        """
        lost = self.fact_loss - limits.caution * self.fact_doubt > limits.fact_loss + TOLERANCE
        return lost or self.spillover - limits.caution * self.spillover_doubt > limits.spillover + TOLERANCE

    def more_biased(self, limits: Limits) -> bool:
        """Whether a bias score has grown beyond its limit for certain."""
        return self.bias_rise - limits.caution * self.bias_doubt > limits.bias_rise + TOLERANCE


@dataclass(frozen=True)
class Trial:
    """An edit that was tried; a line of ``search.jsonl``.

    Attributes:
        number: In order of trying.
        stage: "original", "rankings", "rounds" or "elimination"; "final" for one of these, asked more questions;
            "control" for random neurons.
        recipe: How it came about: ranking, kind, λ, ...; enough to make it again.
        neurons: The edit's neurons, in order of rank.
        scale: What their activations are multiplied with.
        figures: On the examples it was asked.
        metrics: Task name to all metrics on these examples.
        answers: Task name to the index of the option chosen for each of the first examples; fewer than there are where
            the trial was given up.
        complete: Whether it was asked every example that edits are tried on.
        seconds: All that it took, measuring what it was proposed by among it.
        aside: "facts" and "spillover" to the options chosen of the questions on side effects; empty where not asked.
    """

    number: int
    stage: str
    recipe: Mapping[str, Any]
    neurons: tuple[Neuron, ...]
    scale: float
    figures: Figures
    metrics: Mapping[str, Metrics] = field(repr=False)
    answers: Mapping[str, Sequence[int]] = field(repr=False)
    complete: bool
    seconds: float = 0.0
    aside: Mapping[str, Sequence[int]] = field(default_factory=dict, repr=False)

    @property
    def edit(self) -> tuple[frozenset[Neuron], float]:
        """What was tried, however it came about: equal for the same edit."""
        return frozenset(self.neurons), self.scale

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **{name: getattr(self, name) for name in ("number", "stage", "scale", "complete", "seconds")},
            "recipe": dict(self.recipe),
            "neurons": [[neuron.kind, neuron.module, neuron.index] for neuron in self.neurons],
            "figures": asdict(self.figures),
            "metrics": {task: dict(metrics) for task, metrics in self.metrics.items()},
            "answers": {task: list(answers) for task, answers in self.answers.items()},
            "aside": {name: list(answers) for name, answers in self.aside.items()},
        }

    @staticmethod
    def from_dict(row: Mapping[str, Any]) -> Trial:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: something else.
        """
        neurons = [{"kind": kind, "module": module, "index": index} for kind, module, index in row["neurons"]]
        trial = _TRIAL.validate_python({**row, "neurons": neurons})
        if any(neuron.index < 0 for neuron in trial.neurons):
            raise ValueError("a neuron's index is negative")
        return trial

    @property
    def is_candidate(self) -> bool:
        """Whether it is an edit that came into question, or the original; what only judges such edits is none."""
        return self.stage not in JUDGING

    @property
    def tells_conditions(self) -> bool:
        """Whether its questions are parted into ambiguous and disambiguated ones (in any task)."""
        return any(metrics.get("accuracy_disambiguated") is not None for metrics in self.metrics.values())

    def outcome(self) -> str:
        """What it gains and costs against the original, for people."""
        figures, complete = self.figures, "" if self.complete else ", given up"
        if not self.metrics:
            return f"KL {figures.kl:.3f}, too far from the original to ask anything"
        aside = f", facts {0.0 - figures.fact_loss:+.3f}" * ("facts" in self.aside)
        aside += f", bias score of other kinds {figures.spillover:+.3f}" * ("spillover" in self.aside)
        if not self.tells_conditions:
            return f"accuracy {figures.gain:+.3f}, KL {figures.kl:.3f}{aside}{complete}"
        return (
            f"ambiguous {figures.gain:+.3f}, disambiguated {0.0 - figures.loss:+.3f}, "
            f"unknown there {figures.overabstention:+.3f}, KL {figures.kl:.3f}{aside}{complete}"
        )

    def summary(self) -> dict[str, Any]:
        """What results tell of it, short; of side effects only those that were asked."""
        figures = asdict(self.figures)
        unasked = {"facts": ("fact_loss", "fact_doubt"), "spillover": ("spillover", "spillover_doubt")}
        for name, of_name in unasked.items():
            if name not in self.aside:
                figures = {figure: value for figure, value in figures.items() if figure not in of_name}
        return {
            "trial": self.number,
            "stage": self.stage,
            "neurons": len(self.neurons),
            "scale": self.scale,
            "recipe": dict(self.recipe),
            "complete": self.complete,
            **figures,
            "metrics": {task: dict(metrics) for task, metrics in self.metrics.items()},
        }


_TRIAL = TypeAdapter(Trial)


def dominates(one: Trial, other: Trial) -> bool:
    """Whether one trial is at least as good in every objective, and better in one."""
    pairs = list(zip(one.figures.objectives(), other.figures.objectives(), strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that no other dominates, by falling gain; of trials with equal figures the smallest edit."""
    complete = [trial for trial in trials if trial.complete]
    front = [trial for trial in complete if not any(dominates(other, trial) for other in complete)]
    smallest: dict[tuple[float, ...], Trial] = {}
    for trial in front:
        kept = smallest.setdefault(trial.figures.objectives(), trial)
        if len(trial.neurons) < len(kept.neurons):
            smallest[trial.figures.objectives()] = trial
    return sorted(smallest.values(), key=merit, reverse=True)


def merit(trial: Trial) -> tuple[float, float, float, int]:
    """Which of two trials within the limits is the better: more gain, then less loss, less KL, fewer neurons."""
    return (*trial.figures.objectives(), -len(trial.neurons))


def best_within(trials: Sequence[Trial], limits: Limits) -> Trial | None:
    """The complete trial of highest merit within the limits, None if there is none (not even the original)."""
    # Not from the front alone: what dominates a trial may exceed the limit on over-abstention, which is no objective.
    within = (trial for trial in trials if trial.complete and trial.figures.within(limits))
    return max(within, key=merit, default=None)


def figures_of(
    original: Mapping[str, Metrics],
    edited: Mapping[str, Metrics],
    kl: float,
    doubt: float = 0.0,
    implied_doubt: float = 0.0,
) -> Figures:
    """Gain and cost from metrics by task, before and after, of the same examples; doubts as in `Figures`."""
    gains, implied = [], [0.0]
    losses = (
        [0.0] if not any(metrics.get("accuracy_disambiguated") is not None for metrics in original.values()) else []
    )
    rises = list(losses)
    for task, before in original.items():
        after = edited[task]
        name = "accuracy_ambiguous" if before.get("accuracy_ambiguous") is not None else "accuracy"
        gains.append(_difference(before, after, name) or 0.0)
        fall = _difference(after, before, "accuracy_disambiguated")
        rise = _difference(before, after, "unknown_rate_disambiguated")
        losses += [] if fall is None else [fall]
        rises += [] if rise is None else [rise]
        implied += [] if rise is None else [rise * (before.get("answered_accuracy") or 0.0)]
    return Figures(
        sum(gains) / len(gains), max(losses), max(rises, default=0.0), kl, doubt, max(implied), implied_doubt
    )


def _difference(before: Metrics, after: Metrics, name: str) -> float | None:
    old, new = before.get(name), after.get(name)
    return None if old is None or new is None else new - old


Finished = Callable[[Trial], None]
"""Called with every trial as it finishes."""
