"""Refinement: an edit checked neuron by neuron. Attribution is first-order, so what it says is verified causally.

Halving: leave a half of the neurons out, then a quarter, ... down to single ones; what can be left out without harm is
left out. Changes: the effects are measured anew with the edit in place, and the neurons that then rank first are added,
others given back for them. Knows trials and a bench; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from crispr_lm.bench import Bench, Proposal
from crispr_lm.model.neurons import Neuron
from crispr_lm.passes import Following, heavier
from crispr_lm.rankings import Recipe, changed
from crispr_lm.trials import Limits, Trial
from crispr_lm.tuning import Tally

CHANGES = (0.5, 0.25, 0.1)
"""How many neurons are added (as far as there is room), and may be given back for others, as shares of the edit's."""


def refine(
    bench: Bench, start: Trial, limits: Limits, tally: Tally, attempts: int, following: Following | None = None
) -> Trial:
    """Improve an edit by changing some neurons and leaving others out; every attempt is a trial of its own.

    An attempt is kept if it stays within the limits and gains more (changed neurons), or gains at least as much at no
    higher loss (fewer neurons). So the result is never worse than the start on the examples of the bench.

    Args:
        bench: Where edits are tried.
        start: A complete trial within the limits.
        limits: On the cost of an edit.
        tally: Where trials go.
        attempts: Trials that refinement may take, a half of them for changes.
        following: Ranks neurons anew with an edit in place; None changes nothing.
    """
    best, left = start, attempts
    if following is not None:
        while left > attempts // 2:
            better, taken = _change(bench, best, limits, tally, left - attempts // 2, following)
            left -= taken
            if better is None:
                break
            best = better
    return _halve(bench, best, limits, tally, left)


def _change(
    bench: Bench, base: Trial, limits: Limits, tally: Tally, left: int, following: Following
) -> tuple[Trial | None, int]:
    """Change many neurons, or fewer, until that gains more within the limits; the trial (if any), and trials taken."""
    room = limits.neurons - len(base.neurons)
    counts = sorted({max(1, round(share * len(base.neurons))) for share in CHANGES}, reverse=True)[:left]
    for taken, count in enumerate(counts, start=1):
        recipe = _recipe_like(base, min(room, count), count, limits)
        told = ", ".join([f"{recipe.neurons} added"] * bool(recipe.neurons) + [f"up to {count} exchanged"])
        weighed = {"skill_weight": recipe.skill_weight, "protection": recipe.protection}
        trial = _attempt(
            bench,
            tally,
            base,
            {"change": told, **weighed},
            lambda recipe=recipe: changed(base.neurons, following(recipe)),  # type: ignore[misc]
        )
        if trial is None:
            return None, taken
        if trial.complete and trial.figures.within(limits) and trial.figures.gain > base.figures.gain:
            return trial, taken
    return None, len(counts)


def _recipe_like(base: Trial, count: int, returned: int, limits: Limits) -> Recipe:
    """The recipe for changes of neurons of the kind of most that are there, with λ as a next pass would have it."""
    kinds = [neuron.kind for neuron in base.neurons]
    return Recipe(
        kind=max(sorted(set(kinds)), key=kinds.count),
        neurons=count,
        skill_weight=heavier(float(base.recipe.get("skill_weight", Recipe.skill_weight)), base, limits),
        protection=float(base.recipe.get("protection", Recipe.protection)),
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
            weighed = {name: best.recipe[name] for name in ("skill_weight", "protection") if name in best.recipe}
            told = {"change": f"{len(chunk)} left out", **weighed}
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
