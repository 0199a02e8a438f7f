"""Watching and scaling neurons while a model runs, without touching its weights. Knows no task and no prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from crispr_lm.model.experts import watching_experts
from crispr_lm.model.neuron_sites import NeuronSite
from crispr_lm.model.tensor_parallel import seeing_whole


@dataclass(frozen=True)
class Seen:
    """Activations of a site's neurons in one call of its module.

    Attributes:
        site: Where.
        values: (..., units): of all the site's neurons, or of one expert's.
        first: Index within the site of the first of these units.
        tokens: None if all tokens are there; for an expert the flat indices (n,) of those it was given.
        token_count: Number of tokens in all, where `tokens` is given.
    """

    site: NeuronSite
    values: Tensor
    first: int = 0
    tokens: Tensor | None = None
    token_count: int = 0


See = Callable[[Seen], Tensor]
"""Looks at activations and returns what the model continues with, often the same tensor."""


@contextmanager
def watching(sites: Iterable[NeuronSite], see: See) -> Iterator[None]:
    """Call `see` whenever a site's neurons run; all hooks are gone when the block is left, also by an exception."""
    experts = []
    with ExitStack() as stack:
        for site in sites:
            for module in site.modules:
                if site.part == "output":
                    stack.callback(module.register_forward_hook(partial(_after, site, see)).remove)
                elif site.part == "input":
                    stack.callback(module.register_forward_pre_hook(partial(_before, site, see)).remove)
                else:
                    experts.append((module, site.part, partial(_in_expert, site, see)))
        stack.enter_context(watching_experts(experts))
        yield


@contextmanager
def scaling(neurons: Mapping[NeuronSite, list[int]], scale: float) -> Iterator[None]:
    """Multiply the activations of the given neurons by `scale` while the block runs."""
    chosen = {site: torch.tensor(indices) for site, indices in neurons.items()}

    def scaled(seen: Seen) -> Tensor:
        values, indices = seen.values, chosen[seen.site] - seen.first
        indices = indices[(indices >= 0) & (indices < values.shape[-1])].to(values.device)
        if scale == 0:
            return values.index_fill(-1, indices, 0)  # also right where an activation is infinite
        return values.index_copy(-1, indices, values.index_select(-1, indices) * scale)

    with watching(neurons, scaled):
        yield


def _after(site: NeuronSite, see: See, module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return seeing_whole(module, "output", output, lambda values: see(Seen(site, values)))


def _before(site: NeuronSite, see: See, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (seeing_whole(module, "input", arguments[0], lambda values: see(Seen(site, values))), *arguments[1:])


def _in_expert(site: NeuronSite, see: See, expert: int, values: Tensor, tokens: Tensor, count: int) -> Tensor:
    return see(Seen(site, values, expert * values.shape[-1], tokens, count))
