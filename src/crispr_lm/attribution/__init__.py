"""What neurons contribute to answers: bias influence (the paper), and gate gradients with an edit in place.

Knows prompts and a model; knows no benchmark, no settings and no folder.
"""

from __future__ import annotations

from crispr_lm.attribution.bias_influence import BiasInfluence, biased_answers, score_neurons
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.attribution.neuron_scores import NeuronScores

__all__ = [
    "BiasInfluence",
    "Gates",
    "NeuronScores",
    "biased_answers",
    "score_neurons",
]
