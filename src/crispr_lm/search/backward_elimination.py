"""Backward elimination: how few of the best edit's neurons keep most of its gain.

Neurons are given back in the order of what their return would cost, by the gradient with the whole edit in place; how
many is found by bisection. Every number is a trial, and so a candidate. Knows trials and an evaluator; runs no model.
"""

from __future__ import annotations

from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Limits, Trial
from crispr_lm.search.trial_log import TrialLog

KEPT = 0.9
"""Share of the gain that the smaller edit must keep."""

HALVINGS = 2
"""Trials: the number is known to a quarter of the edit's neurons."""


def eliminate_backward(evaluator: Evaluator, log: TrialLog, best: Trial, limits: Limits) -> Trial:
    """Find the smallest beginning of the edit that keeps its gain within the limits.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        best: The edit, its neurons in order.
        limits: On the cost of an edit.

    Returns:
        The trial of the smallest edit that keeps `KEPT` of the gain, `best` itself if no smaller one does.
    """
    smallest, too_few = best, 0
    for _ in range(HALVINGS):
        count = (too_few + len(smallest.neurons)) // 2
        if count == too_few or log.is_over("elimination"):
            break
        recipe = {"change": "fewer neurons", "of": best.number}
        proposal = Proposal("elimination", recipe, best.neurons[:count], best.scale)
        trial = log.attempt(evaluator, proposal)
        enough = trial.figures.gain >= KEPT * best.figures.gain
        if trial.complete and enough and trial.figures.within(limits):
            smallest = trial
        else:
            too_few = count
    return smallest
