"""Refinement: an edit checked neuron by neuron. Attribution is first-order, so what it says is verified causally.

Changes: the effects are measured anew with the edit in place, and the neurons that then rank first are added, others
given back for them. Leaving out: neurons that by such effects are missed least are left out, many at once, then fewer,
down to single ones, wherever that does no harm. Knows trials and an evaluator; knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.rankings import Recipe, changed
from crispr_lm.search.rounds import STRICTER, Following, heavier
from crispr_lm.search.trial import TOLERANCE, Limits, Trial, merit
from crispr_lm.search.trial_log import TrialLog

CHANGED = 0.5
"""How many neurons a change adds (as far as there is room), and may give back for others, as a share of the edit's;
half as many after each change that was in vain."""

PATIENCE = 3
"""Changes in vain, one after the other, after which another edit is gone on from; but not where the edit promises more
than twice what the best one within the limits gains, and its changes still gain more than that: then ever smaller ones
are what may bring it within the limits."""

LEFT_OUT = 0.25
"""Share of the edit's neurons that are left out first, half as many each time that this does harm."""

RETREAT = 0.5
"""Nats by which an edit is to abstain less readily, at the least, where it costs more in answers than it may; twice as
many each time that a change was in vain: small steps, one after the other, may use up all attempts on one edit."""


def refine(
    evaluator: Evaluator, start: Trial, limits: Limits, log: TrialLog, attempts: int, following: Following
) -> Trial:
    """Improve an edit by changing some neurons and leaving others out; every attempt is a trial of its own.

    An attempt is kept if it stays within the limits and gains more (changed neurons), or gains at least as much at no
    higher loss (fewer neurons). So the result is never worse than the start on the examples of the evaluator.

    Args:
        evaluator: Where edits are tried.
        start: A complete trial within the limits: the best so far, or the original.
        limits: On the cost of an edit.
        log: Where trials go.
        attempts: Trials that refinement may take, two thirds of them for changes.
        following: Ranks changes anew with an edit in place.
    """
    best, taken = _change(evaluator, start, limits, log, math.ceil(attempts * 2 / 3), following)
    return _leave_out(evaluator, best, limits, log, attempts - taken, following)


def _change(
    evaluator: Evaluator, best: Trial, limits: Limits, log: TrialLog, attempts: int, following: Following
) -> tuple[Trial, int]:
    """Change neurons of the edit that promises most, until it gains what it promises; the best, and trials taken.

    What promises most (`Trial.promise`) tells the conditions apart best, and need not be within the limits yet. λ
    follows the room that the last change has left for abstention; where that change was in vain, the next is one of
    fewer neurons in the same edit, whose effects are known, and one that retreats further where a limit is not kept
    (`RETREAT`). Where nothing comes of an edit (`PATIENCE`), the best one is gone on from, then the most promising of
    those that have not been changed yet; none is twice.
    """
    gone_on_from: set[frozenset[Neuron]] = set()
    line: _Line | None = None
    for taken in range(attempts):
        if line is None:
            base = _next_base(log, limits, gone_on_from, best)
            if base is None:
                return best, taken
            line = _Line(base, _weighed(base, limits))
        gone_on_from.add(frozenset(line.base.neurons))
        trial = line.attempt(evaluator, log, limits, following)
        if trial is None:
            return best, taken
        better = trial.complete and trial.figures.within(limits) and trial.figures.gain > best.figures.gain
        best = trial if better else best
        is_new = frozenset(trial.neurons) not in gone_on_from  # else all that comes of it has been seen
        promises_more = trial.promise(limits) > line.base.promise(limits)
        known = "same_edit_as" in trial.recipe  # as of a pass's next pass: nothing is new behind it
        if better or (is_new and _can_be_changed(trial, limits) and (promises_more or known)):
            line = _Line(trial, line.weighed_behind(trial, limits))
        else:
            line = line.behind(trial, best, limits)
    return best, attempts


@dataclass(frozen=True)
class _Line:
    """The next of the changes of one edit, one after the other, of ever fewer neurons.

    Attributes:
        base: The edit.
        weighed: λ and ρ.
        share: How many neurons are added and exchanged, as a share of the edit's.
    """

    base: Trial
    weighed: Mapping[str, float]
    share: float = CHANGED

    def attempt(self, evaluator: Evaluator, log: TrialLog, limits: Limits, following: Following) -> Trial | None:
        """Try the change; None where there is no time left for it."""
        count = max(1, round(self.share * len(self.base.neurons)))
        recipe = _recipe_like(self.base, min(limits.neurons - len(self.base.neurons), count), count, **self.weighed)
        told = ", ".join([f"{recipe.neurons} added"] * bool(recipe.neurons) + [f"up to {count} exchanged"])
        change = {"change": told, **self.weighed}
        return _attempt(evaluator, log, self.base, change, lambda: changed(recipe.eliminated, following(recipe)))

    def weighed_behind(self, trial: Trial, limits: Limits) -> dict[str, float]:
        """λ and ρ behind the change's trial: each that was in vain makes a retreat twice as far."""
        return _weighed(trial, limits, RETREAT * CHANGED / self.share)

    def behind(self, trial: Trial, best: Trial, limits: Limits) -> _Line | None:
        """The next change behind one that was in vain; None where the edit is to be left."""
        weighed = self.weighed_behind(trial, limits)
        unchanged = set(trial.neurons) == set(self.base.neurons)
        if (unchanged and weighed == self.weighed) or self.share * len(self.base.neurons) < 0.5:
            return None  # no exchange is worth it, or the next would be of less than one neuron
        # Much is promised, and what comes of it is more than there is yet: worth ever smaller changes.
        is_far = self.base.promise(limits) > 2 * best.figures.gain and trial.figures.gain > best.figures.gain
        if self.share <= CHANGED / 2 ** (PATIENCE - 1) and not is_far:
            return None
        return _Line(self.base, weighed, self.share / 2)


def _next_base(log: TrialLog, limits: Limits, gone_on_from: Set[frozenset[Neuron]], best: Trial) -> Trial | None:
    """The edit to change; None where all that can be changed have been gone on from.

    First what promises most. What promises much and is beyond a limit for all that was tried often has siblings that
    promise as much: the best one's turn comes before theirs.
    """
    left = [trial for trial in log.complete if frozenset(trial.neurons) not in gone_on_from]
    changeable = [trial for trial in left if _can_be_changed(trial, limits)]
    if gone_on_from and best in changeable:
        return best
    return max(changeable, key=lambda trial: (trial.promise(limits), merit(trial)), default=None)


def _can_be_changed(trial: Trial, limits: Limits) -> bool:
    """Whether only its answers may keep an edit from being recommended, all of which are known."""
    return trial.complete and 0 < len(trial.neurons) <= limits.neurons and not trial.figures.too_far(limits)


def _weighed(trial: Trial, limits: Limits, retreat: float = RETREAT) -> dict[str, float]:
    """λ and ρ for what follows a trial: beyond a limit on answers it is a retreat, even with room for abstention.

    Args:
        trial: Behind which it comes.
        limits: On its cost.
        retreat: Nats, at the least.
    """
    before, exceeds = _weights(trial), trial.figures.excess(limits) > TOLERANCE
    room = min(trial.room(limits), -retreat) if exceeds else trial.room(limits)
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


def _leave_out(
    evaluator: Evaluator, best: Trial, limits: Limits, log: TrialLog, attempts: int, following: Following
) -> Trial:
    """Leave out what is missed least by effects measured with the edit in place, as long as that does no harm.

    So many neurons at once, and half as many where they are missed after all; then single neurons, one after the other,
    all of them: leave-one-out.
    """
    size, left = round(LEFT_OUT * len(best.neurons)), attempts
    while 1 < size < len(best.neurons) and left > 0:
        trial = _fewer(evaluator, log, best, partial(_least_missed, best, limits, following), slice(size))
        if trial is None:
            return best
        left -= 1
        if _no_worse(trial, best, limits):
            best = trial
        else:
            size //= 2
    order = cache(partial(_least_missed, best, limits, following))
    for place in range(min(left, len(best.neurons))):
        if len(best.neurons) == 1:  # without it, it is the original
            return best
        trial = _fewer(evaluator, log, best, order, slice(place, place + 1))
        if trial is None:
            return best
        best = trial if _no_worse(trial, best, limits) else best
    return best


def _fewer(
    evaluator: Evaluator, log: TrialLog, edit: Trial, order: Callable[[], list[Neuron]], places: slice
) -> Trial | None:
    """Try an edit without the neurons at these places of an order, which is not asked for where the trial is known."""

    def left() -> list[Neuron]:
        out = set(order()[places])
        return [neuron for neuron in edit.neurons if neuron not in out]

    count = places.stop - (places.start or 0)
    return _attempt(evaluator, log, edit, {"change": f"{count} left out", **_weights(edit)}, left)


def _least_missed(edit: Trial, limits: Limits, following: Following) -> list[Neuron]:
    """The neurons of an edit in the order of giving them back."""
    count = len(edit.neurons)
    recipe = _recipe_like(edit, -count, count, **_weighed(edit, limits))
    return list(dict.fromkeys([*following(recipe), *edit.neurons]))  # those of another kind behind


def _attempt(
    evaluator: Evaluator, log: TrialLog, base: Trial, what: Mapping[str, Any], neurons: Callable[[], Sequence[Neuron]]
) -> Trial | None:
    """Try a changed edit; None where there is no time left for it."""
    if log.is_over("refine"):
        return None
    recipe = {"from": base.number, **what}
    return log.run(
        lambda: Proposal("refine", recipe, tuple(neurons()), base.scale),
        lambda number, proposal: evaluator.attempt(number, proposal, [log.trials[0], base], race=True),
    )


def _no_worse(trial: Trial, best: Trial, limits: Limits) -> bool:
    figures = trial.figures
    return (
        trial.complete
        and figures.within(limits)
        and figures.gain >= best.figures.gain
        and (figures.loss <= max(best.figures.loss, 0.0))
    )
