"""Controls: as many neurons as the crispr-lm search removes, drawn at random."""

from __future__ import annotations

from collections import Counter

import torch

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.model.neuron_sites import Neuron, NeuronKind, find_sites


def random_neurons(fit: Fit, draw: int) -> Treatment:
    """Neurons of the same kinds from anywhere in the model, every one equally likely."""
    generator = _generator(fit, draw)
    neurons: list[Neuron] = []
    for kind, count in fit.counts.items():
        every = [Neuron(name, index, kind) for name, width in _widths(fit, kind).items() for index in range(width)]
        neurons += [every[place] for place in torch.randperm(len(every), generator=generator)[:count].tolist()]
    return Treatment(edit=fit.edit(neurons))


def random_in_same_layers(fit: Fit, draw: int) -> Treatment:
    """In every module as many neurons as the search removes there: tests the choice of neurons given the layers."""
    generator = _generator(fit, draw)
    widths = {kind: _widths(fit, kind) for kind in fit.counts}
    neurons = []
    for (kind, module), count in Counter((neuron.kind, neuron.module) for neuron in fit.chosen.neurons).items():
        places = torch.randperm(widths[kind][module], generator=generator)[:count].tolist()
        neurons += [Neuron(module, place, kind) for place in places]
    return Treatment(edit=fit.edit(neurons))


def _widths(fit: Fit, kind: NeuronKind) -> dict[str, int]:
    return {site.name: site.width for site in find_sites(fit.lm.model, kind)}


def _generator(fit: Fit, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(1_000 * fit.settings.seed + draw)
