"""Watching and scaling neurons while a model runs, without touching its weights. Knows no task and no prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crispr_lm.model.neurons import NeuronSite


def watch(site: NeuronSite, see: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Call `see` with the activations of a site's neurons, shape (..., width), whenever the module runs.

    The model goes on with what `see` returns (which may be the same tensor).
    """
    if site.kind == "linear":

        def after(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            return see(output)

        return site.module.register_forward_hook(after)

    def before(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (see(arguments[0]), *arguments[1:])

    return site.module.register_forward_pre_hook(before)


@contextmanager
def watching(sites: Iterable[NeuronSite], see: Callable[[NeuronSite, Tensor], Tensor]) -> Iterator[None]:
    """Watch many sites; all hooks are gone when the block is left, also by an exception."""
    with ExitStack() as stack:
        for site in sites:
            # The default argument binds this turn's site, not the loop's last one.
            stack.callback(watch(site, lambda values, site=site: see(site, values)).remove)  # type: ignore[misc]
        yield


@contextmanager
def scaling(neurons: Mapping[NeuronSite, list[int]], scale: float) -> Iterator[None]:
    """Multiply the activations of the given neurons by `scale` while the block runs."""
    indices: dict[tuple[NeuronSite, torch.device], Tensor] = {}

    def scaled(site: NeuronSite, values: Tensor) -> Tensor:
        key = (site, values.device)
        if key not in indices:
            indices[key] = torch.tensor(neurons[site], device=values.device)
        if scale == 0:
            return values.index_fill(-1, indices[key], 0)  # also right where an activation is infinite
        return values.index_copy(-1, indices[key], values.index_select(-1, indices[key]) * scale)

    with watching(neurons, scaled):
        yield
