"""Backward elimination: neurons of an edit are given back to find how few of them suffice.

How many is found by bisection. Every number is a trial, and so a candidate. Knows trials and an evaluator; runs no
model.
"""

from __future__ import annotations

from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Limits, Trial
from crispr_lm.search.trial_log import TrialLog

KEPT = 0.9
"""Share of the gain that the smaller edit must keep."""

HALVINGS = 2
"""Trials: how few suffice is known to a quarter of the edit's neurons."""


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
