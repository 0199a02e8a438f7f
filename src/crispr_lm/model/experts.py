"""Fused experts, watched: the forward function of a mixture of experts whose weights are 3-D parameters.

Inside such a module there is no layer to hook. transformers lets the forward function be chosen by name; ours computes
the same as the eager one, expert by expert, and shows every expert's activations to those who watch. Knows no prompt.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crispr_lm.model.neuron_sites import LayerPart

try:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
except ImportError:  # releases without fused experts have nothing to register for
    ALL_EXPERTS_FUNCTIONS = None

IMPLEMENTATION = "crispr_lm_watched"

ExpertWatcher = Callable[[int, Tensor, Tensor, int], Tensor]
"""(expert, activations (n, units), flat indices (n,) of their tokens, number of tokens in all) -> activations."""

_watchers: weakref.WeakKeyDictionary[nn.Module, list[tuple[LayerPart, ExpertWatcher]]] = weakref.WeakKeyDictionary()


@contextmanager
def watching_experts(watched: Iterable[tuple[nn.Module, LayerPart, ExpertWatcher]]) -> Iterator[None]:
    """Let watchers see the activations of fused experts while the block runs, each after those added before it."""
    added: list[tuple[nn.Module, tuple[LayerPart, ExpertWatcher]]] = []
    implementations: dict[int, tuple[Any, Any]] = {}
    try:
        for module, part, watcher in watched:
            entry = (part, watcher)
            _watchers.setdefault(module, []).append(entry)
            added.append((module, entry))
            config: Any = module.config  # one object for all layers, as a rule
            if id(config) not in implementations:
                implementations[id(config)] = (config, config._experts_implementation)
                config._experts_implementation = IMPLEMENTATION
        yield
    finally:
        for module, entry in added:
            _watchers[module].remove(entry)
        for config, implementation in implementations.values():
            config._experts_implementation = implementation


def _watched_forward(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Compute the experts' output, (tokens, width); arguments are those of every experts function in transformers.

    Args:
        self: The experts module.
        hidden_states: (tokens, width).
        top_k_index: int64 (tokens, k), the experts of each token; numbers past the last expert mean none.
        top_k_weights: (tokens, k), the weight of each.
    """
    watchers = _watchers.get(self, [])
    count = hidden_states.shape[0]
    up_name = "gate_up_proj" if self.has_gate else "up_proj"
    output = torch.zeros_like(hidden_states)

    def project(name: str, states: Tensor, expert: int) -> Tensor:
        weight = getattr(self, name)[expert]
        projected: Tensor = states @ (weight if self.is_transposed else weight.T)
        return projected + getattr(self, f"{name}_bias")[expert] if self.has_bias else projected

    for expert in top_k_index.unique().tolist():
        if expert >= self.down_proj.shape[0]:
            continue
        tokens, slots = torch.where(top_k_index == expert)

        def seen(part: LayerPart, values: Tensor, expert: int = expert, tokens: Tensor = tokens) -> Tensor:
            for watched, watcher in watchers:
                if watched == part:
                    values = watcher(expert, values, tokens, count)
            return values

        states = seen("up", project(up_name, hidden_states[tokens], expert))
        states = seen("inner", self._apply_gate(states) if self.has_gate else self.act_fn(states))
        states = seen("down", project("down_proj", states, expert))
        if self.has_post_expert_norm:
            states = self.post_expert_norm(states)
        weighted = states * top_k_weights[tokens, slots, None]
        output = output.index_add(0, tokens, weighted.to(output.dtype))
    return output


if ALL_EXPERTS_FUNCTIONS is not None:
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _watched_forward)
