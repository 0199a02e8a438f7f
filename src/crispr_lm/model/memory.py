"""Memory: what a model's weights need (from its configuration alone), what a device has free, what says it is full.

Knows configurations and devices; reads no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.model.classes import auto_class

GIB = 2**30

FULL = (
    "can't allocate memory",  # PyTorch on a CPU
    "not enough memory",  # the same on macOS and Windows
    "out of memory",  # MPS, and CUDA where it is not PyTorch that allocates
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN
    "std::bad_alloc",
)
"""What errors say, of no type of their own, where there is no memory left."""

ADVICE = (
    "use shorter prompts, a shorter format (--dtype bfloat16), a smaller model or a device with more memory; "
    "`crispr-lm doctor MODEL` says what fits"
)


def empty_model(config: Any, trust_remote_code: bool = False) -> Any:
    """The model of a configuration without any weights (on PyTorch's meta device): its modules and their shapes.

    Raises:
        InputError: transformers can't build it.
    """
    try:
        with torch.device("meta"):
            model = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
            model.tie_weights()  # not every release of transformers does so without weights
            return model
    except Exception as error:  # of many types
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"transformers can't build a model of this configuration: {reason}") from error


def weight_bytes(model: Any, dtype: torch.dtype, bits: int | None = None) -> int:
    """Bytes of all parameters and buffers in a number format; shared ones count once.

    Args:
        model: As loaded, or as `empty_model` gives it.
        dtype: Of what is no whole number.
        bits: That the weights of linear layers are shortened to, embeddings and LM head left as they are.
    """
    kept = {id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer}
    linear = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)} - kept
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return sum(
        tensor.numel() * bits // 8
        if bits is not None and key in linear
        else tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
        for key, tensor in tensors.items()
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device: of a CPU what the system and the process's control group leave."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")  # in a container
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(available, max(0, int(limit) - int(used)))
    except (OSError, ValueError):  # no such files, or no limit ("max")
        return available


def measures_allocation(device: torch.device) -> bool:
    """Whether PyTorch counts what is allocated on a device."""
    return device.type == "cuda"


@contextmanager
def peak_allocation(devices: Iterable[torch.device]) -> Iterator[list[int]]:
    """Measure what a block allocates on devices that `measures_allocation` accepts.

    Yields:
        An empty list; when the block has ended, the most bytes that were allocated at once on one of the devices,
        beyond what was there before.
    """
    before = {}
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
        before[device] = torch.cuda.memory_allocated(device)
    found: list[int] = []
    yield found
    found.append(max(torch.cuda.max_memory_allocated(device) - size for device, size in before.items()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is full, of the device or of the system."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and not isinstance(error, CrisprError) and any(x in text for x in FULL)


@contextmanager
def explain_out_of_memory(where: str) -> Iterator[None]:
    """Where memory runs out in the block although it takes as little as can be, say so and what to do.

    Args:
        where: What was being done, for example "on a single prompt".

    Raises:
        CrisprError: memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise CrisprError(f"memory runs out {where}; {ADVICE}") from error


def place_of_copy(needed: int, device: torch.device) -> torch.device | None:
    """Where a second copy of a model fits: beside the first, else in the system's memory; None if nowhere."""
    places = dict.fromkeys([device, torch.device("cpu")])
    return next((place for place in places if needed <= free_memory(place)), None)


def check_fits(
    name: str, model: Any, dtype: torch.dtype, *devices: torch.device, twice: bool = False, bits: int | None = None
) -> None:
    """Refuse a model whose weights alone are larger than what is free, before they are read.

    Args:
        name: Of the model.
        model: As `empty_model` gives it.
        dtype: To be loaded in.
        devices: To be loaded on; spread over them, where there are several.
        twice: Whether the edited model is loaded beside it in the end, on this device or in the system's memory. Of a
            model that is spread that is only known when it is loaded.
        bits: As of `weight_bytes`.

    Raises:
        InputError: they are; both figures are given.
    """
    needed, free = weight_bytes(model, dtype, bits), sum(map(free_memory, devices))
    fits, twice = needed <= free, twice and len(devices) == 1
    if fits and twice:
        fits = 2 * needed <= free or (devices[0].type != "cpu" and needed <= free_memory(torch.device("cpu")))
    if not fits:
        format_name = str(dtype).removeprefix("torch.") if bits is None else f"{bits} bits"
        shorter = "" if dtype.itemsize <= 2 or bits is not None else "--dtype bfloat16 (half of that), "
        again = " and as much again to load the edited model beside it and compare" if twice else ""
        other = (
            "another --device: balanced spreads it over accelerators, offload brings layers in from disk in turn"
            if len(devices) == 1
            else "--device cpu, --device offload (layers are brought in from disk in turn), or a smaller model"
        )
        raise InputError(
            f"model {name} needs {needed / GIB:.1f} GiB for its weights in {format_name}{again}, but {free / GIB:.1f} "
            f"GiB are free on {' and '.join(map(str, devices))}; give {shorter}{other}"
        )
