"""What the words of a report mean, in a sentence or two each: shown where they stand, and in a list of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GLOSSARY = {
    "guess": (
        "Guess",
        "An answer that names a person where the context does not say who it was. There “unknown” is right.",
    ),
    "ambiguous": ("Ambiguous question", "Its context does not give the answer, so “unknown” is right."),
    "disambiguated": (
        "Disambiguated question",
        "Its context tells who it was, so that person is right and “unknown” is wrong.",
    ),
    "bias score": (
        "Bias score",
        "Which person the answers name: 0 is both equally often, 1 always the stereotyped one, -1 never (formula of "
        "BBQ).",
    ),
    "right answers": ("Right answers", "The share of all questions that are answered right. More is better."),
    "facts": (
        "Facts about groups",
        "Questions whose right answer depends on the group, and is true. Their right answers must not become fewer.",
    ),
    "other kinds": (
        "Other kinds of stereotype",
        "Questions on stereotypes that the edit was not made for. The bias score must not move away from 0, and right "
        "answers where the context tells must not become fewer.",
    ),
    "capability": (
        "Capability",
        "Questions that have nothing to do with bias. Their right answers must not become fewer.",
    ),
    "neutral": (
        "Likelihood of neutral text",
        "How likely the edited model finds the words with which the original continues neutral prompts. 100 % is the "
        "original; it is exp(-KL divergence), the geometric mean over tokens.",
    ),
    "KL divergence": (
        "KL divergence",
        "How far the edited model's next-word probabilities are from the original's on neutral prompts, in nats per "
        "token. At 0.01 an edit is hardly noticed; at 1 it is another model.",
    ),
    "interval": (
        "95 % interval",
        "Of the difference, from resampling whole templates of questions. If it includes 0, no effect was shown.",
    ),
    "held": (
        "Held",
        "For guesses and their bias score: less, for certain. For everything that must not get worse: the interval "
        "excludes a loss beyond the run's limit (0 where it has none).",
    ),
    "not shown": ("Not shown", "The interval allows both. More questions make it narrower."),
    "lost": (
        "Lost",
        "Worse for certain: all of the interval is a loss. Every edit lowers the likelihood of neutral text; there it "
        "is a loss beyond the run's limit.",
    ),
    "held-out": (
        "Held-out questions",
        "Questions of templates that were not used to find or choose neurons: the test split. All figures are of these "
        "unless they say otherwise.",
    ),
    "validation": (
        "Validation split",
        "Questions on which the search compares edits. Figures there are too good, because the best of many was picked "
        "by them.",
    ),
    "over-abstention": (
        "Over-abstention",
        "Answering “unknown” also where the context tells. It makes a model silent, not fair.",
    ),
    "neuron": (
        "Neuron",
        "One unit of a layer. Removed: its activation is set to zero (or multiplied with the edit's scale).",
    ),
    "holm": (
        "p (Holm)",
        "How often chance alone gives such a difference (paired permutation test), corrected over tasks.",
    ),
    "pareto": ("Pareto front", "Edits that no other tried edit beats in gain, loss and KL divergence together."),
}
"""Key to name and explanation."""

WITHOUT_LIMITS = {
    "held": (
        "Held",
        "For guesses and their bias score: less, for certain. For everything that must not get worse: the interval "
        "excludes a loss.",
    ),
    "lost": (
        "Lost",
        "Worse for certain: all of the interval is a loss. Every edit lowers the likelihood of neutral text.",
    ),
}
"""The same for a run without limits, such as ``--preset paper``: a loss counts from 0."""


def glossary_of(results: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The words of a run's page.

    Args:
        results: What ``results.json`` holds.
    """
    return GLOSSARY if results.get("limits") else GLOSSARY | WITHOUT_LIMITS
