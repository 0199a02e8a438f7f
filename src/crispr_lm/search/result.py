"""What a search hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crispr_lm.model.neuron_sites import Neuron


@dataclass(frozen=True)
class Searched:
    """What the search step hands on.

    Attributes:
        neurons: Of the edit, in order of rank; none where no edit is recommended (or picked).
        scale: What their activations are multiplied with.
        reason: Why, in one sentence.
        verdict: "recommended", "untested" or "none" (`crispr_lm.search.selection`).
        rows: Everything that was tried, short, for ``results.json``.
        told: Further entries of ``results.json``.
    """

    neurons: tuple[Neuron, ...]
    scale: float
    reason: str
    verdict: str
    rows: list[dict[str, Any]]
    told: Mapping[str, Any] = field(default_factory=dict)
