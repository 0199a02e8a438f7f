"""Models: how to load one, where it keeps its neurons, how to watch and scale them. Knows no task."""

from __future__ import annotations

from crispr_lm.model.hooks import scaling, watching
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.load import load_model, open_model
from crispr_lm.model.neuron_sites import NEURON_KINDS, Neuron, NeuronKind, NeuronSite, find_sites

__all__ = [
    "NEURON_KINDS",
    "LanguageModel",
    "Neuron",
    "NeuronKind",
    "NeuronSite",
    "find_sites",
    "load_model",
    "open_model",
    "scaling",
    "watching",
]
