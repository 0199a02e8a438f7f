"""Backward elimination: neurons of an edit are given back, to keep the limits, and to find how few of them suffice.

How many is found by bisection. Every number is a trial, and so a candidate. Knows trials and an evaluator; runs no
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Limits, Trial
from crispr_lm.search.trial_log import TrialLog

KEPT = 0.9
"""Share of the gain that the smaller edit must keep."""

HALVINGS, RETURNS = 2, 4
"""Trials: how few suffice is known to a quarter of the edit's neurons, how many must return to a sixteenth."""


def return_to_limits(
    evaluator: Evaluator, log: TrialLog, over: Trial, order: Callable[[], Sequence[Neuron]], limits: Limits
) -> None:
    """Give neurons of an edit back until it keeps the limits, as few as it takes.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        over: An edit beyond the limits.
        order: Its neurons, those first that are to return first.
        limits: On the cost of an edit.
    """
    limits = limits.without_caution  # what keeps them is re-evaluated, with caution
    few, many = 0, len(over.neurons)  # that must return: more than few, less than many
    for _ in range(RETURNS):
        count = (few + many + 1) // 2
        if not few < count < many or log.is_over("elimination"):
            return
        trial = log.take_known("elimination", of=over.number, returned=count)
        if trial is None:
            recipe = {"change": "neurons returned", "of": over.number, "returned": count}
            trial = log.attempt(evaluator, Proposal("elimination", recipe, tuple(order()[count:]), over.scale))
        within = trial.complete and trial.figures.within(limits)
        few, many = (few, count) if within else (count, many)


def eliminate_backward(evaluator: Evaluator, log: TrialLog, best: Trial, limits: Limits) -> None:
    """Find the smallest beginning of the edit that keeps `KEPT` of its gain within the limits.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        best: The edit, its neurons in order.
        limits: On the cost of an edit.
    """
    limits = limits.without_caution
    too_few, enough = 0, len(best.neurons)
    for _ in range(HALVINGS):
        count = (too_few + enough) // 2
        if count == too_few or log.is_over("elimination"):
            return
        recipe = {"change": "fewer neurons", "of": best.number}
        proposal = Proposal("elimination", recipe, best.neurons[:count], best.scale)
        trial = log.attempt(evaluator, proposal)
        kept = trial.complete and trial.figures.within(limits) and trial.figures.gain >= KEPT * best.figures.gain
        too_few, enough = (too_few, count) if kept else (count, enough)
