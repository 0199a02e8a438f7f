"""Backward elimination: neurons of an edit are given back, to keep the limits, and to find how few of them suffice.

The last of an edit's neurons return first (`search.loop.Loop.edit`). How many is found by bisection of its logarithm:
the first few that return often change more than all others. Every number is a trial, and so a candidate. Knows trials
and an evaluator; runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Limits, Trial
from crispr_lm.search.trial_log import TrialLog

KEPT = 0.9
"""Share of the gain that the smaller edit must keep."""

TO_LIMITS, TO_FEWER = 4, 2
"""Trials: of 100 neurons the number that return is known to a third then, and to a factor of three."""


def keep_within_limits(evaluator: Evaluator, log: TrialLog, over: Trial, limits: Limits) -> None:
    """Find how few neurons of an edit beyond the limits must return.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        over: The edit, its neurons in order.
        limits: On the cost of an edit.
    """
    limits = limits.with_doubt
    _bisect(evaluator, log, over, TO_LIMITS, lambda trial: not trial.figures.within(limits))


def eliminate_backward(evaluator: Evaluator, log: TrialLog, best: Trial, limits: Limits) -> None:
    """Find the smallest beginning of an edit that keeps `KEPT` of its gain within the limits.

    Args:
        evaluator: Where edits are tried.
        log: The trials, to which these are added.
        best: The edit, its neurons in order.
        limits: On the cost of an edit.
    """
    limits, enough = limits.with_doubt, KEPT * best.figures.gain
    _bisect(evaluator, log, best, TO_FEWER, lambda trial: trial.figures.within(limits) and trial.figures.gain >= enough)


def _bisect(evaluator: Evaluator, log: TrialLog, of: Trial, trials: int, more: Callable[[Trial], bool]) -> None:
    """Try the edit with some neurons given back: more of them while that is asked for, else fewer."""
    recipe = {"change": "fewer neurons", "of": of.number}
    few, many = 1, len(of.neurons)
    for _ in range(trials):
        returned = round(math.sqrt(few * many))
        if log.went_on_from("elimination") or not 0 < returned < len(of.neurons):
            return
        trial = log.attempt(evaluator, Proposal("elimination", recipe, of.neurons[:-returned], of.scale))
        few, many = (returned, many) if not trial.complete or more(trial) else (few, returned)
