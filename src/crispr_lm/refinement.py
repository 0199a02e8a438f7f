"""Refinement: an edit checked neuron by neuron. Attribution is first-order, so what it says is verified causally.

Halving: leave a half of the neurons out, then a quarter, ... down to single ones; what can be left out without harm is
left out. Changes: the effects are measured anew with the edit in place, and the neurons that then rank first are added,
others given back for them. Knows trials and a bench; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from crispr_lm.bench import Bench, Proposal
from crispr_lm.model.neurons import Neuron
from crispr_lm.passes import STRICTER, Following, heavier
from crispr_lm.rankings import Recipe, changed
from crispr_lm.trials import TOLERANCE, Limits, Trial, merit
from crispr_lm.tuning import Tally

CHANGED = 0.5
"""How many neurons a change adds (as far as there is room), and may give back for others, as a share of the edit's;
half as many after each change that was in vain."""

RETREAT = 0.5
"""Nats by which an edit is to abstain less readily, at the least, where it costs more in answers than it may."""


def refine(
    bench: Bench, start: Trial, limits: Limits, tally: Tally, attempts: int, following: Following | None = None
) -> Trial:
    """Improve an edit by changing some neurons and leaving others out; every attempt is a trial of its own.

    An attempt is kept if it stays within the limits and gains more (changed neurons), or gains at least as much at no
    higher loss (fewer neurons). So the result is never worse than the start on the examples of the bench.

    Args:
        bench: Where edits are tried.
        start: A complete trial within the limits: the best so far, or the original.
        limits: On the cost of an edit.
        tally: Where trials go.
        attempts: Trials that refinement may take, two thirds of them for changes.
        following: Ranks neurons anew with an edit in place; None changes nothing.
    """
    best, left = start, attempts
    if following is not None:
        best, taken = _change(bench, best, limits, tally, math.ceil(attempts * 2 / 3), following)
        left -= taken
    return _halve(bench, best, limits, tally, left)


def _change(
    bench: Bench, best: Trial, limits: Limits, tally: Tally, attempts: int, following: Following
) -> tuple[Trial, int]:
    """Change neurons of the edit that promises most, until it gains what it promises; the best, and trials taken.

    What promises most (`Trial.promise`) tells the conditions apart best, and need not be within the limits yet. λ
    follows the room that the last change has left for abstention; where that change was in vain, the next is one of
    fewer neurons in the same edit, whose effects are known.
    """
    promising = [trial for trial in tally.complete if _can_be_changed(trial, limits)]
    if not promising:
        return best, 0
    base = max(promising, key=lambda trial: (trial.promise(limits), merit(trial)))
    share, weighed = CHANGED, _weighed(base, limits)
    for taken in range(attempts):
        count = max(1, round(share * len(base.neurons)))
        recipe = _recipe_like(base, min(limits.neurons - len(base.neurons), count), count, **weighed)
        told = ", ".join([f"{recipe.neurons} added"] * bool(recipe.neurons) + [f"up to {count} exchanged"])
        trial = _attempt(
            bench,
            tally,
            base,
            {"change": told, **weighed},
            lambda recipe=recipe: changed(recipe.eliminated, following(recipe)),  # type: ignore[misc]
        )
        if trial is None:
            return best, taken
        unchanged = set(trial.neurons) == set(base.neurons)
        known = not unchanged and "same_edit_as" in trial.recipe  # as of a pass's next pass: nothing is new behind it
        better = trial.complete and trial.figures.within(limits) and trial.figures.gain > best.figures.gain
        best = trial if better else best
        promises_more = _can_be_changed(trial, limits) and trial.promise(limits) > base.promise(limits)
        if better or promises_more or (known and _can_be_changed(trial, limits)):
            base, share = trial, CHANGED
        else:
            share /= 2
        before, weighed = weighed, _weighed(trial, limits)
        if unchanged and weighed == before:  # no exchange is worth it
            return best, taken + 1
    return best, attempts


def _can_be_changed(trial: Trial, limits: Limits) -> bool:
    """Whether only its answers may keep an edit from being recommended, all of which are known."""
    fits = 0 < len(trial.neurons) <= limits.neurons and not trial.figures.too_far(limits)
    return fits and trial.complete and trial.stage != "control"


def _weighed(trial: Trial, limits: Limits) -> dict[str, float]:
    """λ and ρ for what follows a trial: beyond a limit on answers it is a retreat, even with room for abstention."""
    before, exceeds = _weights(trial), trial.figures.excess(limits) > TOLERANCE
    room = min(trial.room(limits), -RETREAT) if exceeds else trial.room(limits)
    return {
        "skill_weight": heavier(before["skill_weight"], room),
        "protection": before["protection"] * (STRICTER if trial.figures.too_far(limits) else 1),
    }


def _weights(trial: Trial) -> dict[str, float]:
    """λ and ρ that a trial was made with."""
    return {name: float(trial.recipe.get(name, getattr(Recipe, name))) for name in ("skill_weight", "protection")}


def _recipe_like(base: Trial, count: int, returned: int, skill_weight: float, protection: float) -> Recipe:
    """The recipe for changes of neurons of the kind of most that are there."""
    kinds = [neuron.kind for neuron in base.neurons]
    return Recipe(
        kind=max(sorted(set(kinds)), key=kinds.count),
        neurons=count,
        skill_weight=skill_weight,
        protection=protection,
        scale=base.scale,
        eliminated=base.neurons,
        returned=returned,
    )


def _halve(bench: Bench, best: Trial, limits: Limits, tally: Tally, left: int) -> Trial:
    """Leave out what can be left out: halves, quarters, ... single neurons, the lowest ranks first."""
    size = len(best.neurons) // 2
    while size >= 1 and left > 0:
        dropped_one = False
        for chunk in _chunks_from_behind(best.neurons, size):
            if left == 0:
                return best
            if len(chunk) == len(best.neurons):
                continue
            kept = tuple(neuron for neuron in best.neurons if neuron not in set(chunk))
            told = {"change": f"{len(chunk)} left out", **_weights(best)}
            trial = _attempt(bench, tally, best, told, partial(tuple, kept))
            left -= 1
            if trial is not None and _no_worse(trial, best, limits):
                best, dropped_one = trial, True
        if not dropped_one or size == 1:
            size = size // 2
    return best


def _attempt(
    bench: Bench, tally: Tally, base: Trial, what: Mapping[str, Any], neurons: Callable[[], Sequence[Neuron]]
) -> Trial | None:
    """Try a changed edit; None where there is no time left for it."""
    if tally.is_over("refine"):
        return None
    recipe = {"from": base.number, **what}
    return tally.run(
        lambda: Proposal("refine", recipe, tuple(neurons()), base.scale),
        lambda number, proposal: bench.attempt(number, proposal, [tally.trials[0], base], race=True),
    )


def _no_worse(trial: Trial, best: Trial, limits: Limits) -> bool:
    figures = trial.figures
    return (
        trial.complete
        and figures.within(limits)
        and figures.gain >= best.figures.gain
        and (figures.loss <= max(best.figures.loss, 0.0))
    )


def _chunks_from_behind(neurons: Sequence[Neuron], size: int) -> Iterator[Sequence[Neuron]]:
    for end in range(len(neurons), 0, -size):
        yield neurons[max(0, end - size) : end]
