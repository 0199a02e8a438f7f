"""Passes: neurons are eliminated a few at a time, and the effects of the rest measured anew each time.

First-order effects hold for small changes. An edit of many neurons is no small change: what is predicted for it from
one measurement says that the job is done, or that nothing is harmed, long after that has stopped being true. So
`pursuit` is given fresh effects and true margins every few neurons, and of other examples each time, so that no few of
them decide on all neurons. What earlier passes took may come back, for the first were chosen by effects of a model that
is no longer there; the last passes only exchange. Every pass is a trial of its own: the number of neurons is chosen
among the passes. Knows trials and a bench; runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from crispr_lm.bench import Bench, Proposal
from crispr_lm.model.neurons import Neuron, NeuronKind
from crispr_lm.rankings import Recipe, changed
from crispr_lm.trials import TOLERANCE, Limits, Trial
from crispr_lm.tuning import Tally

Following = Callable[[Recipe], Sequence[Neuron]]
"""The changes that `pursuit` ranks first by effects that are measured with the recipe's eliminated ones in place."""

SKILL_WEIGHTS = (1.0, 4.0)
"""λ of the first pass, which is also the least, and the largest."""

HEAVIER = 8.0
"""How fast λ follows the cost: ln λ changes by this times the excess of a pass over its limit (`Figures.excess`).

A chain is a few passes long: with 5 it hovers above the limit to its end, and no pass of it can be taken; with 12 it
swings between too much loss and no gain.
"""

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
        passes: How many passes, without those that are taken back; where the largest number of neurons is reached
            before, further ones exchange neurons.
    """

    kind: NeuronKind
    at_once: int
    passes: int


def chains(kinds: Sequence[NeuronKind], most: int, passes: int) -> list[Chain]:
    """One chain of so many passes for each kind of neurons, up to the largest number of neurons."""
    growing = passes - passes // EXCHANGES
    return [Chain(kind, max(1, -(-most // growing)), passes) for kind in kinds] if passes else []


def follow(bench: Bench, chain: Chain, following: Following, limits: Limits, tally: Tally) -> None:
    """Take neurons pass by pass, and give back what no longer helps; the trials are in the tally.

    A pass that moves the model too far from the original is taken back, and taken again with more protection of
    ordinary answers. Other costs take nothing back: what the first neurons harm further ones repair, for which λ grows
    with the excess of loss (and its doubt) or over-abstention over its limit, and falls where there is room (mirror
    ascent on the dual: a step in ln λ proportional to the violated constraint).

    Args:
        bench: Where edits are tried.
        chain: Which neurons, and how many at once.
        following: Measures and ranks; not called for passes that an interrupted run has done.
        limits: On the cost of an edit.
        tally: Where trials go.
    """
    taken: tuple[Neuron, ...] = ()
    skill_weight, protection = SKILL_WEIGHTS[0], limits.protection(PROTECTION)
    done, taken_back = 0, 0
    while done < chain.passes and taken_back < PATIENCE and not tally.is_over("passes"):
        propose = partial(_proposal, chain, taken, skill_weight, protection, following, limits)
        # Asked every example, unless it is to be taken back: what λ follows is not to hang on a quarter of them.
        trial = tally.run(
            propose, lambda number, proposal: bench.attempt(number, proposal, tally.complete, within_kl=True)
        )
        if trial.figures.kl > limits.kl + TOLERANCE:
            protection, taken_back = STRICTER * protection, taken_back + 1
        elif set(trial.neurons) == set(taken):  # no more of this kind, or no exchange that is worth it
            return
        else:
            taken, taken_back, done = trial.neurons, 0, done + 1
            skill_weight = heavier(skill_weight, trial, limits)


def heavier(skill_weight: float, trial: Trial, limits: Limits) -> float:
    """λ for what follows a trial that was made with this λ: more by what it costs above the limits, less below."""
    least, most = SKILL_WEIGHTS
    return min(max(skill_weight * math.exp(HEAVIER * trial.figures.excess(limits)), least), most)


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
    return Proposal("passes", {"ranking": "pursuit in passes", **told, "neurons": len(neurons)}, neurons)
