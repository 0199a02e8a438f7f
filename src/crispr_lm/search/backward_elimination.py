"""Backward elimination: neurons of an edit are given back, to keep the limits, and to find how few of them suffice.

The last of an edit's neurons return first (`search.loop.Loop.edit`); how many is found by bisection. Every number is a
trial, and so a candidate. Knows trials and an evaluator; runs no model.
"""

from __future__ import annotations

from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Limits, Trial
from crispr_lm.search.trial_log import TrialLog

KEPT = 0.9
"""Share of the gain that the smaller edit must keep."""

TO_LIMITS, TO_FEWER = 4, 2
"""Trials: how many may stay is known to a sixteenth of the edit's neurons, how few suffice to a quarter."""


def keep_within_limits(evaluator: Evaluator, log: TrialLog, over: Trial, limits: Limits) -> None:
    """Find how many neurons of an edit beyond the limits may stay.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        over: The edit, its neurons in order.
        limits: On the cost of an edit.
    """
    limits = limits.without_caution  # what keeps them is re-evaluated, with caution
    few, many = 0, len(over.neurons)
    for _ in range(TO_LIMITS):
        count = (few + many) // 2
        trial = _beginning(evaluator, log, over, count) if few < count < many else None
        if trial is None:
            return
        few, many = (count, many) if trial.complete and trial.figures.within(limits) else (few, count)


def eliminate_backward(evaluator: Evaluator, log: TrialLog, best: Trial, limits: Limits) -> None:
    """Find the smallest beginning of an edit that keeps `KEPT` of its gain within the limits.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        best: The edit, its neurons in order.
        limits: On the cost of an edit.
    """
    limits = limits.without_caution
    too_few, enough = 0, len(best.neurons)
    for _ in range(TO_FEWER):
        count = (too_few + enough) // 2
        trial = _beginning(evaluator, log, best, count) if too_few < count < enough else None
        if trial is None:
            return
        kept = trial.complete and trial.figures.within(limits) and trial.figures.gain >= KEPT * best.figures.gain
        too_few, enough = (too_few, count) if kept else (count, enough)


def _beginning(evaluator: Evaluator, log: TrialLog, of: Trial, count: int) -> Trial | None:
    """Try the first neurons of an edit; None where the search is over."""
    if log.is_over("elimination"):
        return None
    recipe = {"change": "fewer neurons", "of": of.number}
    return log.attempt(evaluator, Proposal("elimination", recipe, of.neurons[:count], of.scale))
