"""Importance: how much ordinary answers depend on each neuron, to first and second order.

Computed from the same effects as those on contrasts (`crispr_lm.attribution.effects`), here on the model's own answers
to neutral prompts. Knows prompts and a model; knows no task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from crispr_lm.attribution.effects import weighted_effects
from crispr_lm.errors import InputError
from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.neuron_sites import NeuronKind, find_sites

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Importance:
    """How much ordinary answers depend on each neuron of one kind, modules side by side as in `Effects.values`.

    Attributes:
        slope: float64 (neurons,), nats per token that the answers lose when the neuron goes, to first order. 0 for a
            model that has not been edited: its own answers are where the divergence from it is least.
        curvature: float64 (neurons,), the diagonal of the Fisher information, F: what they lose to second order, twice.
    """

    slope: NDArray[np.float64]
    curvature: NDArray[np.float64]

    def harm(self, scale: float) -> NDArray[np.float64]:
        """KL divergence that scaling each neuron adds, nats per token: (1 − σ) · max(slope, 0) + (1 − σ)² · F / 2.

        What seems to take from the divergence is not counted in a neuron's favour: the most negative of many thousand
        slopes, measured on a few prompts, is noise.
        """
        return (1 - scale) * np.maximum(self.slope, 0) + (1 - scale) ** 2 * self.curvature / 2

    def since(self, original: Importance) -> Importance:
        """With the slope of the unedited model as 0: greedy answers are likelier than drawn ones, in both alike."""
        return Importance(self.slope - original.slope, self.curvature)


def measure_importance(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    kinds: Sequence[NeuronKind],
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> dict[NeuronKind, Importance]:
    """Measure how much ordinary answers depend on each neuron: about the KL divergence that its removal causes.

    With E_i = Σ over t of h_i,t · ∂ log P(continuation) / ∂h_i,t on a prompt, and n tokens in the continuation,

        slope_i = mean over prompts of E_i / n,        F_i = mean over prompts of E_i² / n.

    The continuation is the original model's own, greedy where the definition samples it, so F is rather too small. For
    the unedited model itself the slope is that bias alone: take it off with `Importance.since`.

    Args:
        lm: The model, with or without an edit in place; its weights are not touched.
        prompts: Neutral prompts with the unedited model's continuation as their only option
            (`ReferenceDistribution.prompts`).
        kinds: Kinds of neurons.
        batch_size: Prompts in one pass, or "auto".
        progress: Called with the number of prompts just finished.

    Raises:
        InputError: no prompts, or a model without such neurons.
        CrisprError: an effect is not finite (the module that begins with it is named).
    """
    if not prompts:
        raise InputError("importance can't be measured without prompts; give at least one")
    sites = {kind: find_sites(lm.model, kind) for kind in kinds}
    _, values = weighted_effects(lm, prompts, [torch.ones(1, 1)] * len(prompts), sites, batch_size, progress)
    tokens = np.array([len(prompt.option_ids[0]) for prompt in prompts], dtype=np.float64)[:, None]
    effects = {kind: of_kind[:, 0].astype(np.float64) for kind, of_kind in values.items()}
    return {kind: Importance((of / tokens).mean(0), (of**2 / tokens).mean(0)) for kind, of in effects.items()}
