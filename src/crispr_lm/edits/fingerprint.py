"""Fingerprints: hashes that say whether weights are those that an edit was made for. Knows weights; knows no edit."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crispr_lm.model.neuron_sites import NeuronSite, linear_type
from crispr_lm.model.offload import at_hand, parameters_of

FINGERPRINT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SUMMED_BYTES = 8192
"""Bytes in each of the pieces that `_sums` cuts a parameter into."""

# Per module the sums of its weights' bits and the hashes that were taken of them.
_known_hashes: weakref.WeakKeyDictionary[nn.Module, tuple[Any, dict[str, str]]] = weakref.WeakKeyDictionary()


def dtype_name(model: nn.Module) -> str:
    """The format hashes are taken in: the model's, or float32 for one that is wider."""
    floating = (weight.dtype for weight in model.parameters() if weight.is_floating_point())
    name = str(next(floating, torch.float32)).removeprefix("torch.")
    return name if name in FINGERPRINT_DTYPES else "float32"


def module_hashes(module: nn.Module) -> dict[str, str]:
    """Hash a module's own weights in every dtype a model may be loaded in (64 bits each, against mix-ups, not forgery).

    Remembered until the weights change: a search applies hundreds of edits to the same weights.
    """
    with at_hand(module):
        parameters = dict(module.named_parameters(recurse=False))
        sums = tuple(_sums(parameter) for _, parameter in sorted(parameters.items()))
        remembered = _known_hashes.get(module)
        if remembered is not None and remembered[0] == sums:
            return remembered[1]
        hashes = hashes_of(parameters)
    _known_hashes[module] = (sums, hashes)
    return hashes


def hashes_of(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """The same of parameters by name, wherever they were read from."""
    hashes = {}
    for name, dtype in FINGERPRINT_DTYPES.items():
        digest = hashlib.blake2b(digest_size=8)
        for key, parameter in sorted(parameters.items()):
            values = parameter.detach().to("cpu", dtype).contiguous()
            digest.update(f"{key}{tuple(values.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
        hashes[name] = digest.hexdigest()
    return hashes


def hashed_modules(model: nn.Module, sites: Collection[NeuronSite]) -> dict[str, nn.Module]:
    """The modules whose weights an edit of these sites is tied to, by name.

    Those that hold the neurons, and for `ffn` neurons the other layers of the block, the gate and up projections: a row
    of zeros in there eliminates a neuron as well (in a GGUF file), and the down projection shows nothing of it. Fused
    experts hold all of these weights themselves.
    """
    found: dict[str, nn.Module] = {site.name: site.module for site in sites}
    for site in [site for site in sites if site.part == "input"]:
        parent = site.name.rpartition(".")[0]
        for leaf, layer in model.get_submodule(parent).named_children():
            facts = linear_type(layer)
            if facts is not None and getattr(layer, facts.output_count) in (site.width, 2 * site.width):
                found.setdefault(f"{parent}.{leaf}" if parent else leaf, layer)
    return found


def _sums(parameter: Tensor) -> tuple[Any, ...]:
    """Sums of a parameter's bits along two directions, with its shape and dtype: far quicker than a hash.

    Any single change shows, and so does a swap of rows. A tensor's version counter would not do: it misses what is
    written through ``.data``.
    """
    content = parameter.detach().contiguous().reshape(-1).view(torch.uint8)
    content = nn.functional.pad(content, (0, -content.numel() % SUMMED_BYTES))
    words = content.view(torch.int64).view(-1, SUMMED_BYTES // 8)
    sums = torch.cat([words.sum(dim=0), words.sum(dim=1)])  # whole numbers that overflow without harm
    return tuple(parameter.shape), parameter.dtype, sums.cpu().numpy().tobytes()


def weights_fingerprint(model: nn.Module) -> str:
    """Hash of a whole model: names, shapes, dtypes and up to 4,096 evenly spaced values of every parameter.

    Quick on any size; it distinguishes models, but does not prove that two are equal to the last weight.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in parameters_of(model):
        flat = parameter.detach().reshape(-1)
        taken = flat[:: max(1, flat.numel() // 4096)].to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(taken.numpy().tobytes())
    return digest.hexdigest()
