"""What neurons contribute to answers: bias influence (the paper), and first-order effects of removing them.

Knows prompts and a model; knows no benchmark, no settings and no folder.
"""

from __future__ import annotations

from crispr_lm.attribution.bias_influence import BiasInfluence, biased_answers, score_neurons
from crispr_lm.attribution.effects import Effects, measure_effects
from crispr_lm.attribution.importance import Importance, measure_importance
from crispr_lm.attribution.neuron_scores import NeuronScores

__all__ = [
    "BiasInfluence",
    "Effects",
    "Importance",
    "NeuronScores",
    "biased_answers",
    "measure_effects",
    "measure_importance",
    "score_neurons",
]
