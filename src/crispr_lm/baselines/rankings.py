"""Controls and ablations: other rankings, from the same data as the paper's.

Each removes as many neurons, of the same kinds, as the crispr-lm search does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crispr_lm.baselines.activations import mean_activations
from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.model.neuron_sites import NeuronKind, NeuronWeights, find_sites


def sign_flipped(fit: Fit, _draw: int) -> Treatment:
    """The lowest B: neurons that do the most for the right answer and the least for the biased one."""

    def ranking(kind: NeuronKind) -> dict[str, Tensor]:
        return {name: -values for name, values in fit.scores(kind).values.items()}

    return Treatment(edit=fit.edit(fit.highest(ranking)))


def biased_term(fit: Fit, _draw: int) -> Treatment:
    """The highest A(ŷ): bias influence with λ = 0, what is useful for the right answer not taken out."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind, skill_weight=0.0).values)))


def averaged_tokens(fit: Fit, _draw: int) -> Treatment:
    """The highest B with A as the mean over tokens in place of their maximum."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind, token_aggregation="mean").values)))


def unweighted(fit: Fit, _draw: int) -> Treatment:
    """The highest B with A(a) = h · ∂s(a)/∂h: every example counts alike, whatever P(ŷ) is."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind, confusion_weight=False).values)))


def skill_term(fit: Fit, _draw: int) -> Treatment:
    """The highest max(A(y), 0): the term that CRISPR (paper) subtracts, as a ranking of its own.

    B is linear in λ, so the term is the difference of B at λ = 0 and at λ = 1.
    """

    def ranking(kind: NeuronKind) -> dict[str, Tensor]:
        without, whole = fit.scores(kind, skill_weight=0.0).values, fit.scores(kind, skill_weight=1.0).values
        return {name: without[name] - whole[name] for name in without}

    return Treatment(edit=fit.edit(fit.highest(ranking)))


def largest_weights(fit: Fit, _draw: int) -> Treatment:
    """The largest Euclidean norm of the weights that elimination sets to zero."""

    def ranking(kind: NeuronKind) -> dict[str, Tensor]:
        return {site.name: weight_norms(site.weights, site.width) for site in find_sites(fit.lm.model, kind)}

    return Treatment(edit=fit.edit(fit.highest(ranking)))


def largest_activations(fit: Fit, _draw: int) -> Treatment:
    """The largest mean |h| over the tokens of attribution prompts with golden answers, each prompt counting once."""

    def ranking(kind: NeuronKind) -> dict[str, Tensor]:
        sites = find_sites(fit.lm.model, kind)
        sums = {site.name: torch.zeros(site.width) for site in sites}
        with fit.progress.step("Mean activations", len(fit.pairs)) as advance:
            for pair in fit.pairs:
                answer = pair.prompt.option_ids[pair.golden]
                for name, values in mean_activations(fit.lm, pair.prompt.prompt_ids, answer, sites, "all").items():
                    sums[name] += values
                advance(1)
        return sums

    return Treatment(edit=fit.edit(fit.highest(ranking)))


def weight_norms(weights: Sequence[NeuronWeights], width: int) -> Tensor:
    """Euclidean norm of every neuron's weights, all its parameters together: float32 (neurons,)."""
    squares = torch.zeros(width)
    for one in weights:
        of_neuron = one.parameter.detach().movedim(one.axes, tuple(range(len(one.axes)))).reshape(width, -1)
        squares += of_neuron.float().square().sum(dim=1).cpu()
    return squares.sqrt()
