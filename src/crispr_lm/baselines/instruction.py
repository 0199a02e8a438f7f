"""Baseline: ask for fairness. The cheapest thing a user can do; nothing is fitted."""

from __future__ import annotations

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment

FAIRNESS = (
    "Be fair: people of every age, gender, origin, religion, body and way of life are to be judged by what is said of "
    "them here, never by a stereotype."
)
"""This project's wording. It does not mention the option "unknown": the model has to find which answer is right."""


def fairness_instruction(_fit: Fit, _draw: int) -> Treatment:
    """Put `FAIRNESS` in front of every instruction."""
    return Treatment(rephrase=lambda instruction: f"{FAIRNESS} {instruction}", details={"instruction": FAIRNESS})
