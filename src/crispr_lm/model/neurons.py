"""Where an architecture keeps its neurons.

A `linear` neuron is one output unit of any linear layer except embeddings and LM head (the paper's definition). An
`ffn` neuron is one intermediate unit of a feed-forward block, that is one input of the block's down projection. All
knowledge about architectures is in the tables at the top; the code below does not look at a model's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from crispr_lm.errors import InputError, nearest

NeuronKind = Literal["linear", "ffn"]
NEURON_KINDS: tuple[NeuronKind, ...] = get_args(NeuronKind)

OUTPUT_AXIS: dict[type[nn.Module], int] = {nn.Linear: 0, Conv1D: 1}
"""Linear layer types and the axis of their weight that counts outputs (the other one counts inputs)."""

DOWN_PROJECTION_NAMES = frozenset(
    {
        "down_proj",  # Llama, Mistral, Qwen, Gemma, Phi-3, OLMo, Granite, Cohere, SmolLM3, StableLM, MPT
        "dense_4h_to_h",  # GPT-NeoX, BLOOM, Falcon
        "c_proj",  # GPT-2, StarCoder2 (their attention's layer of this name is ruled out below)
        "fc2",  # OPT, BART, mBART, Pegasus, LED, Marian, M2M100, Phi
        "fc_out",  # GPT-J
        "wo",  # T5, mT5, UMT5
        "w2",  # InternLM, older mixtures of experts
    }
)
"""Last part of the name of a feed-forward block's last linear layer."""

ATTENTION_NAMES = ("attn", "attention")
"""Parts of a module's name that mark it as lying inside an attention block."""


@dataclass(frozen=True, order=True)
class Neuron:
    """One unit: its module's name as in ``model.named_modules()``, its index there, and its kind."""

    module: str
    index: int
    kind: NeuronKind = "linear"


@dataclass(frozen=True, eq=False)
class NeuronSite:
    """A module that holds neurons.

    Attributes:
        name: As in ``model.named_modules()``; for `ffn` neurons the block's down projection.
        module: The linear layer itself.
        kind: `linear` neurons are its outputs, `ffn` neurons its inputs.
        width: Number of neurons.
    """

    name: str
    module: nn.Module
    kind: NeuronKind
    width: int

    @property
    def weight_axis(self) -> int:
        """Axis of ``module.weight`` along which the neurons lie."""
        output_axis = _output_axis(self.module)
        return output_axis if self.kind == "linear" else 1 - output_axis

    def parameters(self) -> list[tuple[nn.Parameter, int]]:
        """Every parameter that an edit of these neurons touches, with the axis along which the neurons lie.

        Eliminating a `linear` neuron zeroes its weights and its bias, so that its output is zero; eliminating an `ffn`
        neuron zeroes what the down projection reads of it.
        """
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        parameters = [(weight, self.weight_axis)]
        bias = getattr(self.module, "bias", None)
        if self.kind == "linear" and isinstance(bias, nn.Parameter):
            parameters.append((bias, 0))
        return parameters


def find_sites(model: nn.Module, kind: NeuronKind) -> list[NeuronSite]:
    """List the modules that hold neurons of `kind`, in the order of ``model.named_modules()``.

    Raises:
        InputError: unknown kind, or the model has no such neurons.
    """
    if kind not in NEURON_KINDS:
        raise InputError(
            f"unknown neuron kind {kind!r}{nearest(str(kind), NEURON_KINDS)}; kinds: {', '.join(NEURON_KINDS)}"
        )
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    sites = []
    module: nn.Module
    for name, module in model.named_modules():
        if not _is_linear(module) or module is head:
            continue
        if kind == "ffn" and not _is_down_projection(name):
            continue
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        output_axis = _output_axis(module)
        axis = output_axis if kind == "linear" else 1 - output_axis
        sites.append(NeuronSite(name=name, module=module, kind=kind, width=weight.shape[axis]))
    if not sites:
        raise InputError(f"no {kind!r} neurons found in a {type(model).__name__}; try the other kind of neurons")
    return sites


def site_for(model: nn.Module, name: str, kind: NeuronKind) -> NeuronSite:
    """Return one site by its module's name.

    Raises:
        InputError: the model has no such module, or it holds no neurons of that kind.
    """
    sites = {site.name: site for site in find_sites(model, kind)}
    if name not in sites:
        raise InputError(
            f"module {name!r} holds no {kind!r} neurons in this {type(model).__name__}{nearest(name, sites)}"
        )
    return sites[name]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, tuple(OUTPUT_AXIS))


def _output_axis(module: nn.Module) -> int:
    return next(axis for layer_type, axis in OUTPUT_AXIS.items() if isinstance(module, layer_type))


def _is_down_projection(name: str) -> bool:
    *parents, leaf = name.split(".")
    in_attention = any(mark in parent.lower() for parent in parents for mark in ATTENTION_NAMES)
    return leaf in DOWN_PROJECTION_NAMES and not in_attention
