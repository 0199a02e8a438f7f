"""What stood in the way of an edit: of those that gain, the one nearest to the limits, and what it exceeds by how much.

For a reader of a run that recommends none. Knows trials and limits; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crispr_lm.search.trial import TOLERANCE, Figures, Limits, Trial

OPTIONS = {
    "accuracy_loss": "--max-accuracy-loss",
    "overabstention": "--max-overabstention",
    "kl": "--max-kl",
    "bias_rise": "--max-bias-rise",
    "fact_loss": "--max-fact-loss",
    "spillover": "--max-spillover",
}
"""Limit to the option that sets it."""


def costs(figures: Figures, limits: Limits) -> dict[str, float]:
    """What is compared with each limit, by the limit's name, as `Figures.within` compares it."""
    return {
        "accuracy_loss": figures.loss_beyond(limits) + limits.accuracy_loss,
        "overabstention": figures.overabstention,
        "kl": figures.kl,
        "bias_rise": figures.bias_rise - limits.caution * figures.bias_doubt,
        "fact_loss": figures.fact_loss - limits.caution * figures.fact_doubt,
        "spillover": figures.spillover - limits.caution * figures.spillover_doubt,
    }


def nearest_edit(trials: Sequence[Trial], limits: Limits) -> dict[str, Any] | None:
    """The edit that gains and exceeds its limits by the least share of them; None where none gains anything.

    Args:
        trials: Complete trials that were asked the same questions.
        limits: What an edit may cost.

    Returns:
        Its number, neurons, gain and questions, and under `beyond` a row for each limit that it exceeds, with the
        option that sets it; none where it is within all of them.
    """
    gaining = [trial for trial in trials if trial.neurons and trial.complete and trial.figures.gain > TOLERANCE]
    if not gaining:
        return None

    def excess(trial: Trial) -> tuple[float, float]:
        rows = _beyond(trial.figures, limits)
        return sum(row["value"] / max(row["limit"], TOLERANCE) - 1 for row in rows), -trial.figures.gain

    best = min(gaining, key=excess)
    return {
        "trial": best.number,
        "neurons": len(best.neurons),
        "gain": best.figures.gain,
        "questions": sum(map(len, best.answers.values())),
        "beyond": _beyond(best.figures, limits),
    }


def _beyond(figures: Figures, limits: Limits) -> list[dict[str, Any]]:
    return [
        {"what": name, "value": value, "limit": getattr(limits, name), "option": OPTIONS[name]}
        for name, value in costs(figures, limits).items()
        if value > getattr(limits, name) + TOLERANCE
    ]
