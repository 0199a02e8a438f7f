"""Baseline: neurons that differ most between a biased and a right answer to the same prompt.

    D_i = mean over prompts of [ mean over tokens of ŷ of h_i  −  mean over tokens of y of h_i ]

A contrast of activations on minimal pairs, as used to find neurons and features of a behaviour without gradients (for
example Rimsky et al., 2024, there for the residual stream). The neurons of highest D are eliminated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crispr_lm.baselines.activations import mean_activations
from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.model.neuron_sites import NeuronKind, find_sites


def minimal_pairs(fit: Fit, _draw: int) -> Treatment:
    """Eliminate the neurons that are most active on biased answers, compared with right ones."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: activation_differences(fit, kind))))


def activation_differences(fit: Fit, kind: NeuronKind) -> dict[str, Tensor]:
    """D of every neuron; module name to float32 (neurons,)."""
    sites = find_sites(fit.lm.model, kind)
    sums = {site.name: torch.zeros(site.width) for site in sites}
    with fit.progress.step("Activations on minimal pairs", len(fit.pairs)) as advance:
        for pair in fit.pairs:
            for option, sign in ((pair.biased, 1), (pair.golden, -1)):
                answer = pair.prompt.option_ids[option]
                for name, values in mean_activations(fit.lm, pair.prompt.prompt_ids, answer, sites, "answer").items():
                    sums[name] += sign * values
            advance(1)
    return {name: values / len(fit.pairs) for name, values in sums.items()}
