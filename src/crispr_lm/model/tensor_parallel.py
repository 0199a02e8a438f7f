"""Tensor parallelism: the weights of every layer divided among processes, for a model larger than one accelerator.

transformers divides the weights by its plan for the architecture, and joins what the processes compute. Here is what
goes beyond that: whether a model can be divided so, its weights for who reads them, and activations of all neurons of a
layer for who watches them, although each process computes a part. Knows modules; knows no prompt.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as group
from torch import Tensor, nn

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.runtime.distributed import is_divided, rank, ranks

Side = Literal["output", "input"]

STYLES: dict[str, Side | None] = {
    "colwise": "output",
    "rowwise": "input",
    # These take and give whole activations.
    "colwise_gather_output": None,
    "rowwise_split_input": None,
    "embedding_rowwise": None,
    "embedding_colwise": None,
    "replicated_with_grad_allreduce": None,
}
"""The styles of transformers' plans that are known here, and what of such a layer a process has a part of: a contiguous
range of its outputs or of its inputs. In the others (fused and packed layers, experts) parts lie in another way."""

COMPARED = {
    "apertus", "apertus1p5_text", "arcee", "bamba", "codegen", "cohere", "cohere2", "cohere_compass_text", "cwm",
    "dbrx", "diffllama", "dory", "emu3", "ernie4_5", "exaone", "exaone4", "falcon_h1", "gemma", "gemma2", "gemma3",
    "gemma3_text", "gemma4_unified", "gemma4_unified_text", "glm", "glm4", "gpt_neox", "gpt_oss", "gptj", "granite",
    "helium", "hunyuan_v1_dense", "hyperclovax", "internlm3", "iquestcoder", "jais2", "lfm2", "lfm3", "llama",
    "ministral", "ministral3", "mistral", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "phi",
    "phi3", "phi4_multimodal", "qwen2", "qwen3", "qwen3_5", "qwen3_5_text", "seed_oss", "smollm3", "starcoder2",
    "t5gemma", "t5gemma2", "vaultgemma", "youtu",
}  # fmt: skip
"""Model types whose divided models were found to be the whole ones (``benchmarks/tensor_parallel.py``). Others have a
plan as well, but some give other numbers: Gemma 3n takes a statistic over neurons of which a process has a part."""

RELEASE = (5, 24)
"""The first release of transformers that this was tried with; earlier ones divide models in other ways."""

_divided: weakref.WeakKeyDictionary[nn.Module, tuple[Side, int]] = weakref.WeakKeyDictionary()
"""Layers of which a process has a part: of what, and how many neurons the whole has."""


def check_divisible(name: str, model: Any, count: int) -> None:
    """Check that a model's layers can be divided among processes, before its weights are read.

    Args:
        name: Of the model.
        model: Modules and shapes.
        count: Number of processes.

    Raises:
        InputError: transformers has no plan for it or is too old, the plan has styles that are not known here, heads or
            units can't be divided by the number of processes, or these have fewer accelerators on this machine.
    """
    import transformers

    if tuple(map(int, re.findall(r"\d+", transformers.__version__)[:2])) < RELEASE:
        needed = ".".join(map(str, RELEASE))
        raise InputError(f"--device tensor-parallel needs transformers {needed}, not {transformers.__version__}")
    if 0 < torch.cuda.device_count() < count:
        raise InputError(
            f"{count} processes need as many accelerators, but {torch.cuda.device_count()} are there; start fewer"
        )
    what, other = f"model {name} can't be divided among {count} processes", "give --device balanced or offload"
    if not getattr(model, "tp_plan", None):
        raise InputError(f"{what}: transformers has no plan for a {type(model).__name__}; {other}")
    named = [place for place, _ in (*model.named_modules(), *model.named_parameters())]
    if unknown := next((place for place in named if _style(model, place) not in {*STYLES, None}), None):
        raise InputError(f"{what}: {unknown} is divided as {_style(model, unknown)!r}, which hides neurons; {other}")
    config, counts = model.config.get_text_config(), {}
    for heads in ("num_attention_heads", "num_key_value_heads"):
        if isinstance(number := getattr(config, heads, None), int):
            counts[f"{number} {heads}"] = number
    counts |= {f"{width} {side}s of {place}": width for place, (side, width) in _sides(model).items()}
    if uneven := next((words for words, number in counts.items() if number % count), None):
        raise InputError(f"{what}: it has {uneven}; start a number of processes that divides this, or {other}")


def check_compared(name: str, model: Any) -> None:
    """Check that transformers' plan for a model was found to give the numbers of an undivided one.

    Raises:
        InputError: it was not.
    """
    if (kind := model.config.model_type) not in COMPARED:
        raise InputError(
            f"model {name} is a {kind}, which was not compared with an undivided one; give --device balanced or offload"
        )


def division_arguments(count: int) -> dict[str, Any]:
    """What transformers is called with, to divide the weights among so many processes."""
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=count)}


def prepare_divided(model: Any) -> None:
    """Note which layers of a loaded model are divided, so that `seeing_whole` joins their parts."""
    for name, found in _sides(model).items():
        _divided[model.get_submodule(name)] = found
    model.register_forward_pre_hook(_refuse_alone)


def has_parts(model: nn.Module) -> bool:
    """Whether the weights of a model are divided among processes."""
    return getattr(model, "_tp_size", None) not in (None, 1)


def seeing_whole(module: nn.Module, side: Side, values: Tensor, see: Callable[[Tensor], Tensor]) -> Tensor:
    """Let `see` look at the activations of all neurons of a layer, (..., neurons), and give back this process's part.

    Args:
        module: The layer.
        side: Which of its activations these are.
        values: As the module has them in this process: (..., neurons), or a part where it is divided.
        see: Returns what the model continues with; it must do the same in every process.

    Raises:
        CrisprError: a divided layer has other than its part of the neurons.
    """
    divided, width = _divided.get(module, (None, 0))
    if divided != side:
        return see(values)
    if values.shape[-1] * ranks() != width:
        raise CrisprError(f"a process has {values.shape[-1]} of {width} {side}s of a layer, not one in {ranks()}")
    whole: Tensor = _Whole.apply(values)  # type: ignore[no-untyped-call]
    own: Tensor = _Own.apply(see(whole))  # type: ignore[no-untyped-call]
    return own


def whole_weight(weight: Tensor) -> Tensor:
    """A weight of which each process may have a part, whole: every process must ask for it.

    Raises:
        CrisprError: this process asks alone, and would wait for ever.
    """
    gather: Callable[[], Tensor] | None = getattr(weight, "full_tensor", None)  # of a DTensor alone
    if gather is None:
        return weight
    _refuse_alone()
    return gather()


@contextmanager
def whole_weights_of(module: nn.Module) -> Iterator[None]:
    """Have a module's own weights whole while the block runs; every process must do so."""
    own = dict(module._parameters)
    try:
        for name, weight in own.items():
            if weight is not None and (whole := whole_weight(weight)) is not weight:
                module._parameters[name] = nn.Parameter(whole, requires_grad=False)
        yield
    finally:
        module._parameters.update(own)


class _Whole(torch.autograd.Function):
    """The parts of all processes side by side; a process's part of the gradient is its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return _joined(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _own_part(gradient)


class _Own(torch.autograd.Function):
    """A process's part of the whole, whose gradient is made whole again for who watches it."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return _own_part(whole)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _joined(gradient)


def _joined(part: Tensor) -> Tensor:
    part = part.contiguous()
    parts = [torch.empty_like(part) for _ in range(ranks())]
    group.all_gather(parts, part)
    return torch.cat(parts, dim=-1)


def _own_part(whole: Tensor) -> Tensor:
    return whole.chunk(ranks(), dim=-1)[rank()].contiguous()


def _refuse_alone(*_: object) -> None:
    """Refuse to run a divided model, or to read its weights, in one process while the others do something else."""
    if not is_divided():
        raise CrisprError("a model that is divided among processes can be used by all of them together alone")


def _style(model: Any, name: str) -> str | None:
    """How the plan divides a module, or a parameter of its own."""
    style: str | None = model.tp_plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
    return style


def _sides(model: Any) -> dict[str, tuple[Side, int]]:
    """Layers of which a process has a part, by name: of what, and how many neurons the whole has."""
    found: dict[str, tuple[Side, int]] = {}
    for name, module in model.named_modules():
        if side := STYLES.get(_style(model, name) or ""):
            found[name] = (side, module.out_features if side == "output" else module.in_features)
    return found
