"""Where an architecture keeps its neurons.

A `linear` neuron is one output unit of any linear layer except embeddings and LM head (the paper's definition). An
`ffn` neuron is one intermediate unit of a feed-forward block, that is one input of the block's down projection. In a
mixture of experts a neuron is one unit of one expert; where experts are stored as one tensor, the units of expert e
have the indices from e · (units per expert) on. All knowledge about architectures is in the tables at the top; the code
below does not look at a model's name.
"""

from __future__ import annotations

import copy
import logging
import re
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crispr_lm.errors import InputError, nearest
from crispr_lm.runtime.plugins import load_installed

logger = logging.getLogger(__name__)

_logged: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models whose blocks that are left alone were named in the log

NeuronKind = Literal["linear", "ffn"]
NEURON_KINDS: tuple[NeuronKind, ...] = get_args(NeuronKind)

SearchedNeurons = Literal["linear", "ffn", "both"]
"""Kinds of neurons that a search may eliminate."""


def searched_kinds(neurons: SearchedNeurons) -> tuple[NeuronKind, ...]:
    """The kinds themselves; of the first the published ranking is, which ranks one kind."""
    return NEURON_KINDS if neurons == "both" else (neurons,)


LayerPart = Literal["output", "input", "up", "inner", "down"]
"""What of a module the neurons are: a layer's output or input; in fused experts the up projection's output, the
intermediate units, or the down projection's output."""


@dataclass(frozen=True)
class LinearType:
    """Facts about a type of linear layer: where its weight counts outputs and inputs, how their numbers are called."""

    output_axis: int
    input_axis: int
    output_count: str
    input_count: str


LINEAR_TYPES: dict[type[nn.Module], LinearType] = {
    nn.Linear: LinearType(0, 1, "out_features", "in_features"),
    Conv1D: LinearType(1, 0, "nf", "nx"),
}

DOWN_PROJECTIONS = (
    r"down_proj",  # Llama, Mistral, Qwen, Gemma, Phi-3, OLMo, Granite, Cohere, SmolLM3, StableLM, MPT, most others
    r"dense_4h_to_h",  # GPT-NeoX, BLOOM, Falcon
    r"(mlp|ffn)\.c_proj",  # GPT-2, StarCoder2
    r"fc2",  # OPT, BART, mBART, Pegasus, LED, Marian, M2M100, Phi, NLLB's experts
    r"fc_out",  # GPT-J, CodeGen
    r"wo",  # T5, mT5, UMT5, Switch's experts
    r"mlp\.Wo",  # ModernBERT
    r"(feed_forward|mlp)\.w2",  # LFM2, InternLM
    r"output\.dense",  # BERT and its kin
    r"output_linear",  # Granite's shared experts
    r"feed_forward\.(output|value)",  # ProphetNet, RWKV
    r"ffn\.2",  # CTRL
    r"ffn\.w_out",  # CPM-Ant
    r"ffn\.proj_down",  # xLSTM
    r"ff\.layer_2",  # XLNet
    r"lin2",  # XLM, Flaubert
)
"""How the name of a feed-forward block's last linear layer ends (regular expressions for whole parts of the name)."""

_registered: list[str] = []  # further down projections, of `register_architecture`

NOT_FEED_FORWARD = re.compile(r"attn|attention|router|^gate$|(^|_)(layer)?norm$")
"""What marks a parent's name as something else than a feed-forward block. (A "gate" that holds layers is a router.)"""

OTHER_MODALITY_MARKS = ("vision", "image", "img", "visual", "audio", "speech")
"""Parts of a module's name that mark it as one for another modality than text."""


@dataclass(frozen=True, order=True)
class Neuron:
    """One unit: its module's name as in ``model.named_modules()``, its index there, and its kind."""

    module: str
    index: int
    kind: NeuronKind = "linear"


@dataclass(frozen=True, eq=False)
class NeuronWeights:
    """A parameter and the axes along which neurons lie in it: one axis, or (expert, unit) in fused experts."""

    parameter: nn.Parameter
    axes: tuple[int, ...]

    def read(self, indices: Tensor) -> Tensor:
        """Copy of the weights of the neurons `indices` (int64, one-dimensional)."""
        return self.parameter.detach()[self._places(indices)].clone()

    def write(self, indices: Tensor, values: Tensor) -> None:
        """Set the weights of the neurons `indices` to what `read` gives, changed or not."""
        with torch.no_grad():
            self.parameter[self._places(indices)] = values

    def _places(self, indices: Tensor) -> tuple[slice | Tensor, ...]:
        places: list[slice | Tensor] = [slice(None)] * self.parameter.dim()
        counts = [self.parameter.shape[axis] for axis in self.axes]
        for axis, index in zip(self.axes, torch.unravel_index(indices, counts), strict=True):
            places[axis] = index.to(self.parameter.device)
        return tuple(places)


@dataclass(frozen=True, eq=False)
class NeuronSite:
    """A layer that holds neurons.

    Attributes:
        name: As in ``model.named_modules()``; for `ffn` neurons the block's down projection; for fused experts the name
            of the parameter.
        modules: The linear layer, or the module that owns the fused experts; several where layers share one weight.
        kind: Which neurons.
        part: What of the module the neurons are.
        width: Number of neurons.
        weights: Every parameter that an edit of these neurons touches. Eliminating a `linear` neuron zeroes its weights
            and its bias, so that its output is zero; eliminating an `ffn` neuron zeroes what the down projection reads
            of it.
    """

    name: str
    modules: tuple[nn.Module, ...]
    kind: NeuronKind
    part: LayerPart
    width: int
    weights: tuple[NeuronWeights, ...]

    @property
    def module(self) -> nn.Module:
        """The first of the modules."""
        return self.modules[0]


def register_architecture(down_projection: str) -> None:
    r"""Add a name by which feed-forward blocks call their last linear layer, so that their `ffn` neurons are found.

    Args:
        down_projection: Regular expression for one or more whole parts of a module's name, matched at its end, for
            example ``mixer\.shrink`` for ``model.layers.0.mixer.shrink``. Layers inside a module that is named as
            attention, router or normalisation are passed over (`NOT_FEED_FORWARD`).

    Raises:
        InputError: no regular expression, or one that is there already.
    """
    try:
        re.compile(down_projection)
    except (re.error, TypeError) as error:
        raise InputError(f"{down_projection!r} is no regular expression ({error}); give a module's name") from error
    if not down_projection or down_projection in (*DOWN_PROJECTIONS, *_registered):
        raise InputError(f"{down_projection!r} names no further down projection; give one that is not known yet")
    _registered.append(down_projection)


def find_sites(model: nn.Module, kind: NeuronKind) -> list[NeuronSite]:
    """List the layers that hold neurons of `kind`, in the order of ``model.named_modules()``.

    Raises:
        InputError: unknown kind, or the model has no such neurons.
    """
    if kind not in NEURON_KINDS:
        kinds = ", ".join(NEURON_KINDS)
        raise InputError(f"unknown neuron kind {kind!r}{nearest(str(kind), NEURON_KINDS)}; kinds: {kinds}")
    load_installed()
    sites: dict[tuple[int, LayerPart], NeuronSite] = {}
    left_alone: list[str] = []
    for name, module in _text_modules(model):
        found: Iterator[NeuronSite] = iter(())
        if is_fused_experts(module):
            found = _expert_sites(name, module, kind)
        elif any(parameter is not None and parameter.dim() == 3 for parameter in module._parameters.values()):
            left_alone.append(f"{name} ({type(module).__name__}: 3-D weights that transformers gives no way to watch)")
        elif (facts := linear_type(module)) is not None:
            found = _linear_sites(name, module, facts, kind)
        for site in found:
            key = (id(site.weights[0].parameter), site.part)
            # Layers that share their weights share their neurons: an edit of the weights is one of all these layers.
            sites[key] = replace(sites[key], modules=(*sites[key].modules, module)) if key in sites else site
    left_alone += [f"{name} (state-space mixer)" for name, module in model.named_modules() if is_state_space(module)]
    if left_alone and model not in _logged:
        _logged.add(model)
        more = f" and {len(left_alone) - 1} more" if len(left_alone) > 1 else ""
        logger.info("no neurons are looked for in %s%s", left_alone[0], more)
    if not sites:
        raise InputError(_why_none(model, kind))
    return list(sites.values())


def _text_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the text path, with their names: no head, no other modality, no state-space mixer."""
    body = _body(model)
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    left_alone: tuple[str, ...] = ()
    inside = {id(module) for module in body.modules()}
    for name, module in model.named_modules():
        if is_state_space(module) or any(mark in name.rpartition(".")[2].lower() for mark in OTHER_MODALITY_MARKS):
            left_alone = (*left_alone, f"{name}.")
        if id(module) in inside and module is not head and not f"{name}.".startswith(left_alone):
            yield name, module


def _body(model: nn.Module) -> Any:
    """The model without its head; of one with a language model within it (and a vision tower beside it), that alone.

    What stands between the two (projector, connector, aligner) bears no mark of another modality in its name.
    """
    config = getattr(model, "config", None)
    if getattr(config, "text_config", None) is not None and not getattr(config, "is_encoder_decoder", False):
        return model.get_decoder()  # type: ignore[operator]
    return getattr(model, "base_model", model)


def is_state_space(module: nn.Module) -> bool:
    """Whether a module is a state-space (Mamba) mixer: only these have both of its parameters.

    They are left alone: their kernels read weights without running the layers, so there is nothing to watch.
    """
    return "A_log" in module._parameters and "D" in module._parameters


def _why_none(model: nn.Module, kind: NeuronKind) -> str:
    architecture = type(model).__name__
    if any(is_state_space(module) for module in model.modules()):
        return f"no {kind!r} neurons found in a {architecture}: its blocks are state-space mixers, which are left alone"
    other = next(name for name in NEURON_KINDS if name != kind)
    advice = "; or name its feed-forward blocks' last layers with crispr_lm.register_architecture" * (kind == "ffn")
    return f"no {kind!r} neurons found in a {architecture}; try {other!r} neurons{advice}"


def is_fused_experts(module: nn.Module) -> bool:
    """Whether a module holds all experts of a layer in 3-D parameters and takes another forward function.

    Such modules are marked by transformers' ``use_experts_implementation``, which sets these attributes.
    """
    down = module._parameters.get("down_proj")
    return down is not None and down.dim() == 3 and hasattr(module, "_apply_gate") and hasattr(module, "is_transposed")


def linear_type(module: nn.Module) -> LinearType | None:
    """Facts about a linear layer, None if the module is none.

    A subclass of a model's own making is none if it computes something else (a router, a grouped projection): its
    outputs are then not its weight's rows.
    """
    facts = next((facts for layer_type, facts in LINEAR_TYPES.items() if isinstance(module, layer_type)), None)
    own_making = type(module).__module__.startswith("transformers.models.")
    if facts is None or (own_making and not _computes_linear(module)):
        return None
    return facts


def _computes_linear(module: nn.Module) -> bool:
    """Whether a subclass of `nn.Linear` with a forward function of its own does what `nn.Linear` does."""
    if isinstance(module.weight, Tensor) and module.weight.is_meta:  # shapes alone: any numbers show what it computes
        module = copy.deepcopy(module).to_empty(device="cpu")
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor)
    probe = torch.linspace(-1, 1, weight.shape[1], device=weight.device, dtype=weight.dtype).reshape(1, 1, -1)
    with torch.no_grad():
        expected = nn.functional.linear(probe, weight, bias if isinstance(bias, Tensor) else None)
        try:
            output = module(probe)
        except (RuntimeError, TypeError, ValueError):
            return False
    return isinstance(output, Tensor) and output.shape == expected.shape and torch.allclose(output, expected, rtol=1e-2)


def _linear_sites(name: str, module: nn.Module, facts: LinearType, kind: NeuronKind) -> Iterator[NeuronSite]:
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, nn.Parameter)
    if kind == "linear":
        weights = [NeuronWeights(weight, (facts.output_axis,))]
        if isinstance(bias, nn.Parameter):
            weights.append(NeuronWeights(bias, (0,)))
        yield NeuronSite(name, (module,), kind, "output", int(getattr(module, facts.output_count)), tuple(weights))
    elif _is_down_projection(name):
        weights = [NeuronWeights(weight, (facts.input_axis,))]
        yield NeuronSite(name, (module,), kind, "input", int(getattr(module, facts.input_count)), tuple(weights))


def _expert_sites(name: str, module: nn.Module, kind: NeuronKind) -> Iterator[NeuronSite]:
    """Fused experts: weights (experts, outputs, inputs), or (experts, inputs, outputs) where transposed."""
    parameters = module._parameters
    output_axis, input_axis = (2, 1) if module.is_transposed else (1, 2)

    def site(parameter_name: str, part: LayerPart, axis: int) -> NeuronSite:
        weight = parameters[parameter_name]
        assert weight is not None
        weights = [NeuronWeights(weight, (0, axis))]
        bias = parameters.get(f"{parameter_name}_bias")
        if part != "inner" and bias is not None:
            weights.append(NeuronWeights(bias, (0, 1)))
        return NeuronSite(
            f"{name}.{parameter_name}", (module,), kind, part, weight.shape[0] * weight.shape[axis], tuple(weights)
        )

    if kind == "ffn":
        yield site("down_proj", "inner", input_axis)
    else:
        yield site("gate_up_proj" if module.has_gate else "up_proj", "up", output_axis)
        yield site("down_proj", "down", output_axis)


def _is_down_projection(name: str) -> bool:
    elsewhere = any(NOT_FEED_FORWARD.search(parent) for parent in name.lower().split(".")[:-1])
    return not elsewhere and re.search(rf"(^|\.)({'|'.join((*DOWN_PROJECTIONS, *_registered))})$", name) is not None
