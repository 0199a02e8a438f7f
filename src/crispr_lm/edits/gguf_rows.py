"""Where in a GGUF file the neurons of an edit are: rows whose bytes eliminate them when they are set to zero.

A row of zero bytes is exactly 0 in every format that the gguf package reads. An `ffn` neuron is eliminated by its row
of ``ffn_up``, by which its value is multiplied or from which it is computed; a `linear` neuron by its output row and
bias. How the rows lie is confirmed by the edit's hashes of the weights that they make, so that nothing is guessed:
as in the model, permuted within each head (llama), transposed (GPT-2), experts one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

from crispr_lm.edits.edit import Edit, neurons_by_site
from crispr_lm.edits.fingerprint import hashed_modules, hashes_of
from crispr_lm.errors import EditMismatchError, InputError
from crispr_lm.model.neuron_sites import NeuronSite, linear_type

ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "dense_act_fn")
"""Where configurations name the activation function of feed-forward blocks."""


@dataclass(frozen=True)
class Row:
    """Bytes of a file that become zero: `length` of them from `begin` on, a row of the tensor `tensor`."""

    tensor: str
    index: int
    begin: int
    length: int


class GgufWeights:
    """The tensors of a GGUF file by name, and what it calls the layers of a model."""

    def __init__(self, path: Path) -> None:
        self.reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.architecture = str(self._field("general.architecture"))
        known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
        if self.architecture not in known:
            raise InputError(
                f"{path} is of the architecture {self.architecture!r}, which the gguf package doesn't know"
            )
        blocks = int(self._field(f"{self.architecture}.block_count"))
        self.names = gguf.get_tensor_name_map(known[self.architecture], blocks)

    def _field(self, name: str) -> Any:
        field = self.reader.fields.get(name)
        if field is None:
            raise InputError(f"the GGUF file has no {name}; it is damaged")
        return field.contents()

    def layer(self, module: str) -> str:
        """What the file calls a layer of the model, for example ``blk.0.ffn_up``.

        Raises:
            InputError: it has none.
        """
        parts = module.split(".")
        for first in range(len(parts)):
            found = self.names.get_name(".".join(parts[first:]))
            if found is not None and f"{found}.weight" in self.tensors:
                return str(found)
        raise InputError(
            f"module {module} is not in the GGUF file by a name that is known ({self.architecture}), so its neurons "
            "can't be eliminated there"
        )

    def read(self, name: str) -> torch.Tensor:
        """A tensor as float32, in the shape of the model's: (outputs, inputs), with experts before."""
        tensor = self.tensors[name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        return torch.from_numpy(np.array(values, dtype=np.float32))  # a copy: the file is mapped, and not to be written

    def row(self, name: str, index: int) -> Row:
        """The bytes of one row; of a tensor of one dimension, of one element.

        Raises:
            InputError: zero bytes would be no zeros in its format.
        """
        tensor = self.tensors[name]
        count = int(np.prod(tensor.shape[1:])) if len(tensor.shape) > 1 else int(tensor.shape[0])
        length = int(tensor.n_bytes) // count
        zeros = np.zeros(length, dtype=np.uint8)
        try:
            made = gguf.dequantize(zeros.view(tensor.data.dtype), tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise InputError(
                f"tensor {name} is stored as {tensor.tensor_type.name}, whose rows can't be read"
            ) from error
        if np.any(made):
            raise InputError(f"zero bytes are no zeros in the format of tensor {name} ({tensor.tensor_type.name})")
        return Row(name, index, int(tensor.data_offset) + index * length, length)


def rows_of(path: Path, model: nn.Module, edit: Edit) -> list[Row]:
    """The rows of a GGUF file that eliminate an edit's neurons.

    Args:
        path: The file, its header checked (`crispr_lm.model.gguf_header`).
        model: The model that transformers makes of it: modules and shapes are enough.
        edit: Made for the weights in the file.

    Returns:
        Without repetitions, in the order of the bytes.

    Raises:
        InputError: the edit damps, or touches what can't be eliminated by rows of this file.
        EditMismatchError: it was made for other weights.
    """
    if edit.scale != 0:
        raise InputError(
            f"the edit damps neurons (scale {edit.scale:g}); in a GGUF file they can only be eliminated, with scale 0"
        )
    try:
        sites = neurons_by_site(model, edit.neurons)
    except InputError as error:
        raise EditMismatchError(f"the edit was made for another model than {path.name}: {error}") from error
    weights = GgufWeights(path)
    orders: dict[str, np.ndarray[Any, Any]] = {}
    by_name = {site.name: site for site in sites}
    for name, module in hashed_modules(model, sites).items():
        site = by_name.get(name)
        if site is not None and site.part in ("up", "inner", "down"):
            _check_experts(weights, site, edit)
        else:
            orders[name] = _row_order(weights, name, module, model, edit)
    found = {row for site, indices in sites.items() for row in _rows(weights, site, indices, orders, model)}
    return sorted(found, key=lambda row: row.begin)


def _rows(
    weights: GgufWeights,
    site: NeuronSite,
    indices: list[int],
    orders: Mapping[str, np.ndarray[Any, Any]],
    model: nn.Module,
) -> Iterator[Row]:
    """The rows that eliminate neurons of one site."""
    if site.part == "output":
        base = weights.layer(site.name)
        for index in indices:
            yield from _with_bias(weights, base, int(orders[site.name][index]))
    elif site.part == "input":
        base = _up_layer(weights, site, orders, model)
        count = int(weights.tensors[f"{base}.weight"].shape[1])
        first = count - site.width  # of gate and up in one tensor the second half
        for index in indices:
            yield from _with_bias(weights, base, first + index)
    else:
        down = _experts_layer(weights, site)
        up, gate = down.replace("ffn_down", "ffn_up"), down.replace("ffn_down", "ffn_gate")
        width = int(weights.tensors[f"{up}.weight"].shape[1])
        for index in indices:
            if site.part == "up":
                expert, unit = divmod(index, 2 * width)
                yield from _with_bias(weights, gate if unit < width else up, expert * width + unit % width)
            else:
                yield from _with_bias(weights, up if site.part == "inner" else down, index)


def _with_bias(weights: GgufWeights, base: str, index: int) -> Iterator[Row]:
    yield weights.row(f"{base}.weight", index)
    if f"{base}.bias" in weights.tensors:
        if len(weights.tensors[f"{base}.bias"].shape) > 1:
            raise InputError(f"the biases of {base} are of several experts, which can't be eliminated one by one here")
        yield weights.row(f"{base}.bias", index)


def _up_layer(
    weights: GgufWeights, site: NeuronSite, orders: Mapping[str, np.ndarray[Any, Any]], model: nn.Module
) -> str:
    """What the file calls the layer whose rows are a feed-forward block's neurons."""
    down = weights.layer(site.name)
    up = down.replace("ffn_down", "ffn_up")
    count = int(weights.tensors[f"{up}.weight"].shape[1]) if f"{up}.weight" in weights.tensors else 0
    parent = site.name.rpartition(".")[0]
    known = {weights.layer(name) for name in orders if name.rpartition(".")[0] == parent}
    if "ffn_down" not in down or up not in known or count not in (site.width, 2 * site.width):
        raise InputError(
            f"the GGUF file has no layer beside {down} whose rows are the neurons of {site.name}, so they can't be "
            "eliminated there"
        )
    gated = count == 2 * site.width or f"{up.replace('ffn_up', 'ffn_gate')}.weight" in weights.tensors
    if not gated and not _zero_stays_zero(model):
        raise InputError(
            f"the neurons of {site.name} are not zero where their row is zero (the activation function is not known to "
            "be 0 at 0), so they can't be eliminated in a GGUF file"
        )
    return up


def _zero_stays_zero(model: Any) -> bool:
    """Whether the activation function of a model's feed-forward blocks is 0 at 0."""
    from transformers.activations import ACT2FN

    config = model.config.get_text_config()
    names = [getattr(config, name) for name in ACTIVATIONS if getattr(config, name, None) is not None]
    return bool(names) and all(
        isinstance(name, str) and name in ACT2FN and float(ACT2FN[name](torch.zeros(1))) == 0 for name in names
    )


def _row_order(weights: GgufWeights, name: str, module: nn.Module, model: Any, edit: Edit) -> np.ndarray[Any, Any]:
    """For each output of a layer its row in the file: in the order that makes weights of the hash that the edit has."""
    base = weights.layer(name)
    facts = linear_type(module)
    assert facts is not None
    parameters = [key for key, value in module._parameters.items() if value is not None]
    if missing := next((key for key in parameters if f"{base}.{key}" not in weights.tensors), None):
        raise InputError(f"the GGUF file has no {base}.{missing}, so the neurons of {name} can't be found there")
    stored = {key: weights.read(f"{base}.{key}") for key in parameters}
    for order in _orders(len(stored["weight"]), model):
        ordered = {key: tensor[torch.from_numpy(order)] for key, tensor in stored.items()}
        if facts.output_axis == 1:
            ordered["weight"] = ordered["weight"].T.contiguous()
        if hashes_of(ordered)[edit.made_in] == _known(edit, name):
            return order
    raise EditMismatchError(_differ(edit, name))


def _orders(rows: int, model: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Orders that rows may have in a file: as they are, or each head's halves interleaved, by which llama rotates."""
    yield np.arange(rows)
    config = model.config.get_text_config()
    counts = [getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads")]
    for heads in dict.fromkeys(counts):
        if isinstance(heads, int) and heads > 0 and rows % (2 * heads) == 0:
            yield np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _experts_layer(weights: GgufWeights, site: NeuronSite) -> str:
    down = weights.layer(f"{site.name.rpartition('.')[0]}.down_proj")
    needed = [down, down.replace("ffn_down", "ffn_up"), down.replace("ffn_down", "ffn_gate")]
    if any(f"{name}.weight" not in weights.tensors for name in needed):
        raise InputError(f"the GGUF file holds the experts of {site.name} in a form that is not known")
    return down


def _check_experts(weights: GgufWeights, site: NeuronSite, edit: Edit) -> None:
    """Check that the experts' tensors, gate before up, are the weights that the edit was made for."""
    down = _experts_layer(weights, site)
    gate, up = (weights.read(f"{down.replace('ffn_down', part)}.weight") for part in ("ffn_gate", "ffn_up"))
    made = {"gate_up_proj": torch.cat([gate, up], dim=1), "down_proj": weights.read(f"{down}.weight")}
    if hashes_of(made)[edit.made_in] != _known(edit, site.name):
        raise EditMismatchError(_differ(edit, site.name))


def _known(edit: Edit, module: str) -> str:
    known = edit.fingerprint.get(module)
    if known is None:
        raise InputError(
            f"the edit has no hash of module {module}, without which its rows in a GGUF file can't be found; make the "
            "edit again with this release"
        )
    return known[edit.made_in]


def _differ(edit: Edit, module: str) -> str:
    return (
        f"the edit was made for {edit.base_model.get('name')} in {edit.made_in}; the weights of module {module} differ "
        "in the GGUF file, or lie in it in an order that is not known; give the file it was made for"
    )
