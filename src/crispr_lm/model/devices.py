"""Number formats, devices and quantization by name, checked before anything is read."""

from __future__ import annotations

import importlib.util

import torch

from crispr_lm.errors import InputError, first_line, nearest
from crispr_lm.runtime.distributed import is_divided

SPREAD = ("balanced", "sequential")
"""Ways to spread a model over several accelerators (accelerate's names)."""

OFFLOAD = "offload"
"""Weights stay on disk, and layers are brought in turn (`crispr_lm.model.offload`)."""

TENSOR_PARALLEL = "tensor-parallel"
"""Every layer's weights are divided among processes (`crispr_lm.model.tensor_parallel`)."""

PLACES = (*SPREAD, OFFLOAD, TENSOR_PARALLEL)
"""What is no single device."""


QUANTIZATIONS = ("none", "8bit", "4bit")


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_dtype(dtype: str) -> None:
    """Check that a number format, or "auto", has that name.

    Raises:
        InputError: unknown name.
    """
    if dtype not in (*DTYPES, "auto"):
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}; dtypes: {', '.join(DTYPES)}, auto")


def computes(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has instructions for a number format; where it emulates one it is slower than float32.

    SmolLM2's matrices took 8 times as long in bfloat16 as in float32 on a processor without (AMD EPYC 7003, one core).
    """
    if dtype not in (torch.bfloat16, torch.float16) or (device.type != "cpu" and dtype == torch.float16):
        return True
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Not public, but PyTorch has no other way to ask a CPU; absent ones count as no.
    names = {
        torch.bfloat16: ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported"),
        torch.float16: ("_is_amx_fp16_supported",),
    }[dtype]
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in names)


def parse_device(device: str) -> torch.device:
    """Return the torch device of that name; "auto" is an accelerator where there is one.

    Raises:
        InputError: unknown or absent device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        parsed = torch.device(device)
        torch.empty(1, device=parsed)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} can't be used ({first_line(error)}); give auto, cpu, cuda, cuda:1, mps, balanced, "
            "offload or tensor-parallel"
        ) from error
    return parsed


def check_quantize(quantize: str) -> None:
    """Check that weights can be shortened here, before anything is read.

    Raises:
        InputError: unknown way, or bitsandbytes or the device for it is missing.
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(f"unknown quantization {quantize!r}{nearest(quantize, QUANTIZATIONS)}; give 8bit or 4bit")
    if quantize != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"quantize={quantize} needs bitsandbytes; pip install 'crispr-lm[quantize]', or load without")
    if quantize == "4bit" and not torch.cuda.is_available():  # it warns that they may be silently wrong
        raise InputError("bitsandbytes has no gradients of 4-bit weights on a CPU; give 8bit, or use a CUDA device")


def check_device(device: str) -> None:
    """Check that a device can be used, before anything is read.

    Raises:
        InputError: unknown or absent device, nothing to spread a model over, or no processes to divide it among.
    """
    if device not in PLACES:
        parse_device(device)
    elif device == TENSOR_PARALLEL and not is_divided():
        raise InputError(
            f"device {device!r} divides a model among processes; start crispr-lm run, evaluate or score with torchrun "
            "--nproc-per-node N -m crispr_lm, or give another device"
        )
    elif device in SPREAD and not torch.cuda.is_available():
        raise InputError(f"device {device!r} spreads a model over accelerators, but there is none; give cpu or auto")
