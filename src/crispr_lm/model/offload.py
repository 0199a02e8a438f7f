"""Layers brought in turn, for a model larger than memory: its weights stay on disk until a layer runs.

accelerate's hooks bring a module's weights in before it runs, and let them go after. Here is what goes beyond that:
where such a model is placed, its weights for who reads them, and gradients, for which every layer is computed again in
the backward pass, so that one layer's weights and activations are in memory at a time. Knows modules; knows no prompt.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.model.memory import free_memory
from crispr_lm.model.tensor_parallel import whole_weight, whole_weights_of

FOR_WEIGHTS = 0.5
"""Share of a device's free memory that weights may take; the rest is for activations, and layers brought in."""

MMAP_THRESHOLD = -3, 2**16
"""Number of glibc's setting (``M_MMAP_THRESHOLD``), and bytes of an allocation from which memory is given back at once.

By default the threshold grows with what is freed, up to 32 MB, and layers that come and go leave holes: 280 MB in place
of 53 MB at the peak, of 16 layers of 16 MB. It takes time: a gradient of SmolLM2, whose matrices are small, took 1.8
times as long (with ``MALLOC_MMAP_THRESHOLD_=65536`` in the environment).
"""


def give_memory_back() -> None:
    """Have the C library give memory back when a tensor is freed, for the rest of the process; nothing but on glibc."""
    try:
        ctypes.CDLL(None).mallopt(*MMAP_THRESHOLD)
    except (OSError, AttributeError, TypeError):  # another C library; Windows
        return


def offload_arguments(folder: str) -> dict[str, Any]:
    """What transformers is called with: accelerators first, then the system's memory; without any, all on disk.

    Args:
        folder: For weights that the files hold in another way than the model: experts that it has in one tensor.
    """
    arguments: dict[str, Any] = {"device_map": {"": "disk"}}
    if torch.cuda.is_available():
        places = {number: torch.device("cuda", number) for number in range(torch.cuda.device_count())}
        room: dict[int | str, int] = {key: int(FOR_WEIGHTS * free_memory(place)) for key, place in places.items()}
        room["cpu"] = int(FOR_WEIGHTS * free_memory(torch.device("cpu")))
        arguments = {"device_map": "auto", "max_memory": room}
    return arguments | {"offload_folder": folder}


def check_on_accelerators(name: str, model: Any) -> None:
    """Refuse a spread model whose weights are not all on accelerators: that is slow, and was not asked for.

    Raises:
        InputError: some are elsewhere.
    """
    if offloaded := sorted({str(place) for place in model.hf_device_map.values()} & {"disk", "cpu"}):
        raise InputError(
            f"model {name} does not fit on the devices: parts of it would lie on {offloaded[0]}; "
            "give --device offload for that"
        )


def is_offloaded(model: nn.Module) -> bool:
    """Whether weights of a model are brought in when they are needed."""
    from accelerate.utils import has_offloaded_params

    return any(map(has_offloaded_params, model.modules()))


def execution_device(module: nn.Module) -> torch.device | None:
    """Where a module whose weights are brought in computes; None where they are there always."""
    from accelerate.utils import has_offloaded_params

    hook: Any = getattr(module, "_hf_hook", None)
    return torch.device(hook.execution_device) if has_offloaded_params(module) else None


@contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Have a module's own weights in memory while the block runs, wherever they are kept."""
    from accelerate.utils import align_module_device

    with whole_weights_of(module), align_module_device(module):
        yield


def parameters_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """As ``named_parameters``, each of them at hand until the next is asked for."""
    for name, known in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if not known.is_meta:
            yield name, whole_weight(known)
            continue
        with at_hand(module):
            yield name, module._parameters[leaf]  # type: ignore[misc]


def recomputed_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that `recomputed` computes again; none where all weights are in memory."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not is_offloaded(model):
        return []
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Compute every layer again in the backward pass while the block runs, where weights are brought in.

    A hook then must not keep an activation but as a saved tensor.

    Raises:
        CrisprError: transformers does not say what the model's layers are.
    """
    if not is_offloaded(model):
        yield
        return
    layers = recomputed_layers(model)
    if not layers:
        raise CrisprError(
            f"the layers of a {type(model).__name__} can't be computed again one by one, so its gradients need all its "
            "weights in memory; give another --device"
        )
    forwards = [layer.forward for layer in layers]
    # A layer that is computed again must run to its end, where its last weights are let go.
    with set_checkpoint_early_stop(False):
        try:
            for layer, forward in zip(layers, forwards, strict=True):
                layer.forward = _again(forward)
            yield
        finally:
            for layer, forward in zip(layers, forwards, strict=True):
                layer.forward = forward


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)

    return run
