"""Passes: neurons are eliminated a few at a time, and the effects of the rest measured anew each time.

First-order effects hold for small changes. An edit of many neurons is no small change: what is predicted for it from
one measurement says that the job is done, or that nothing is harmed, long after that has stopped being true. So
`pursuit` is given fresh effects and true margins every few neurons, and of other examples each time, so that no few of
them decide on all neurons. What earlier passes took may come back, for the first were chosen by effects of a model that
is no longer there; the last passes only exchange. Every pass is a trial of its own: the number of neurons is chosen
among the passes. Knows trials and an evaluator; runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from crispr_lm.model.neuron_sites import Neuron, NeuronKind
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.rankings import TEMPERATURE, Recipe, changed
from crispr_lm.search.trial import Limits
from crispr_lm.search.trial_log import TrialLog

Following = Callable[[Recipe], Sequence[Neuron]]
"""The changes that `pursuit` ranks first by effects that are measured with the recipe's eliminated ones in place."""

SKILL_WEIGHTS = (1 / 16, 16.0)
"""The least and the largest λ; the first pass has 1."""

PROTECTION = 0.5
"""Nats of gain that the first pass gives up for all the divergence allowed (`Limits.protection`)."""

STRICTER = 3.0
"""What ρ is multiplied with where a pass moves the model too far."""

EXCHANGES = 4
"""One pass in so many only exchanges neurons, at the largest number of them."""

PATIENCE = 3
"""How often in a row a pass is taken back before its chain ends."""


@dataclass(frozen=True)
class Chain:
    """A chain of passes.

    Attributes:
        kind: Kind of neurons.
        at_once: Neurons of one pass, which may give back as many.
        rounds: How many passes, without those that are taken back; where the largest number of neurons is reached
            before, further ones exchange neurons.
    """

    kind: NeuronKind
    at_once: int
    rounds: int


def chains(kinds: Sequence[NeuronKind], most: int, rounds: int) -> list[Chain]:
    """One chain of so many passes for each kind of neurons, up to the largest number of neurons."""
    growing = rounds - rounds // EXCHANGES
    return [Chain(kind, max(1, -(-most // growing)), rounds) for kind in kinds] if rounds else []


def follow(evaluator: Evaluator, chain: Chain, following: Following, limits: Limits, log: TrialLog) -> None:
    """Take neurons pass by pass, and give back what no longer helps; the trials are in the log.

    A pass that moves the model too far from the original is taken back, and taken again with more protection of
    ordinary answers. Other costs take nothing back: what the first neurons harm further ones repair, for which λ
    follows the room that is left for abstention (`Trial.room`), in nats: whether a limit is kept says less, and hangs
    on the few questions near the border.

    Args:
        evaluator: Where edits are tried.
        chain: Which neurons, and how many at once.
        following: Measures and ranks; not called for passes that an interrupted run has done.
        limits: On the cost of an edit.
        log: Where trials go.
    """
    taken: tuple[Neuron, ...] = ()
    skill_weight, protection = Recipe.skill_weight, limits.protection(PROTECTION)
    done, taken_back = 0, 0
    while done < chain.rounds and taken_back < PATIENCE and not log.is_over("rounds"):
        propose = partial(_proposal, chain, taken, skill_weight, protection, following, limits)
        # Asked every example, unless it is to be taken back: what λ follows is not to hang on a quarter of them.
        trial = log.run(
            propose, lambda number, proposal: evaluator.attempt(number, proposal, log.complete, within_kl=True)
        )
        if trial.figures.too_far(limits):
            protection, taken_back = STRICTER * protection, taken_back + 1
        elif set(trial.neurons) == set(taken):  # no more of this kind, or no exchange that is worth it
            return
        else:
            taken, taken_back, done = trial.neurons, 0, done + 1
            skill_weight = heavier(skill_weight, trial.room(limits))


def heavier(skill_weight: float, room: float) -> float:
    """λ for what follows an edit that was made with this λ, and leaves so many nats of room for abstention.

    Weights of 1 and λ on two classes move the intercept of a logistic regression by -T ln λ, and it is one that
    `pursuit` grows: T = `TEMPERATURE`.
    """
    least, most = SKILL_WEIGHTS
    return min(max(skill_weight * math.exp(-room / TEMPERATURE), least), most)


def _proposal(
    chain: Chain,
    before: Sequence[Neuron],
    skill_weight: float,
    protection: float,
    following: Following,
    limits: Limits,
) -> Proposal:
    count = min(chain.at_once, limits.neurons - len(before))
    recipe = Recipe(
        chain.kind, count, skill_weight, protection, eliminated=tuple(before), returned=min(chain.at_once, len(before))
    )
    neurons = changed(before, following(recipe))
    told = {name: value for name, value in asdict(recipe).items() if name in ("kind", "skill_weight", "protection")}
    return Proposal("rounds", {"ranking": "pursuit in passes", **told, "neurons": len(neurons)}, neurons)
