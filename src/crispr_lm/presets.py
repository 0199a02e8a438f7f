"""Presets: settings that belong together, under one name. ``paper`` is the procedure of the paper's authors.

No other procedure bears the paper's name: a run with one of these settings changed says which (`procedure_name`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        # Attribution: 20 random rows of both conditions, under ten instructions; the mean over several draws.
        "neurons": "linear",
        "examples": 20,
        "attribute_on": "both",
        "sampling": "random",
        "seeds": (0, 1, 2),
        "skill_weight": 1.0,
        "token_aggregation": "max",
        "confusion_weight": True,
        "instructions": ("10",),
        # The number of neurons: golden section in [0, 500] on the whole validation split, as the results are measured.
        "search": "golden-section",
        "max_neurons": 500,
        "validation_examples": "all",
        "scoring": "generate",
    }
)
"""The settings of ``--preset paper`` (Yang et al., ACL 2024, and their published code, commit 27f93d1)."""

ALSO_THEIRS: Mapping[str, tuple[Any, ...]] = MappingProxyType({"scoring": ("sum",)})
"""Other values that their code offers as its own: answers by the highest option probability."""

SEARCHES = {
    "tuned": "crispr-lm search",
    "sweep": "published ranking, sweep",
    "golden-section": "published ranking, golden section",
}
"""What an edit is called by the search that made it, where no preset was used."""


def deviations(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not those of the paper, with their values.

    Seeds may be any: they only draw other rows. So may the texts of the ten instructions.

    Args:
        settings: Names to values; of instructions how many, also where they are those of a file.
    """
    found = {}
    for name, theirs in PAPER.items():
        value = settings[name]
        if value != theirs and value not in ALSO_THEIRS.get(name, ()) and name != "seeds":
            found[name] = value
    return found


def procedure_name(settings: Mapping[str, Any]) -> str:
    """What the edit of a run with these settings is called: "CRISPR (paper)" where it is the whole procedure.

    Args:
        settings: As for `deviations`.
    """
    if settings["preset"] is None:
        return SEARCHES[settings["search"]]
    changed = [f"{name.replace('_', ' ')} {_text(value)}" for name, value in deviations(settings).items()]
    return "CRISPR (paper)" + (f", except for {', '.join(changed)}" if changed else "")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
