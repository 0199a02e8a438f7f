"""The original model, and this library's method as one row among the others."""

from __future__ import annotations

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment


def original(_fit: Fit, _draw: int) -> Treatment:
    """Nothing is done."""
    return Treatment()


def published(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B, as many and as strongly as in CRISPR's edit."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind).values)))


def crispr(fit: Fit, _draw: int) -> Treatment:
    """The edit that ``crispr-lm run`` would make for this task."""
    chosen = fit.chosen
    return Treatment(edit=fit.edit(chosen.neurons), details={"reason": chosen.reason}, recommended=chosen.recommended)
