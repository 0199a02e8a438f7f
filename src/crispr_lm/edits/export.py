"""Out to every runtime: an edited model as a plain folder, a LoRA adapter of the same function, or a slimmer model.

What can't be exact is refused with the reason, never approximated. Knows models and edits; knows no task and no prompt.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crispr_lm.edits.edit import Edit, neurons_by_site
from crispr_lm.edits.stored_tensors import OtherLayoutError
from crispr_lm.edits.stored_weights import save_edited
from crispr_lm.errors import InputError
from crispr_lm.model.adapter import CONFIG as ADAPTER_SETTINGS
from crispr_lm.model.language_model import count_parameters
from crispr_lm.model.locate import hub_name
from crispr_lm.model.neuron_sites import NeuronSite, NeuronWeights, find_sites, linear_type
from crispr_lm.model.older_transformers import configuration_for_both, tokenizer_for_both
from crispr_lm.model.reload import hashes
from crispr_lm.model.source_files import weight_files
from crispr_lm.storage.files import write_json
from crispr_lm.storage.records import read_object

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)

WIDTH_NAMES = (
    "intermediate_size",
    "ffn_dim",
    "d_ff",
    "n_inner",
    "ffn_hidden_size",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
)
"""What configurations call the number of intermediate units of a feed-forward block."""

PROBE_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 5e-1}
"""Largest difference of a logit that is rounding: the same sum in another order."""


def export_folder(lm: LanguageModel, edit: Edit, folder: Path) -> Mapping[str, torch.dtype]:
    """Save the edited model as its original with other numbers, which loads everywhere. The model stays unedited.

    All files but the weights are copied as they are, and of safetensors files only the neurons' bytes are changed: the
    number format and the shards stay. Weights that were read from pickles, from a GGUF file or as single experts, or
    that an adapter was merged into, are written by transformers, in the format they are held in.

    Args:
        lm: The model.
        edit: The edit.
        folder: To write into.

    Returns:
        By module, the format that the edit's scaled weights are rounded to in the files, for `Edit.baked`.

    Raises:
        EditMismatchError: the edit was made for another model.
    """
    edit.check(lm)
    folder.mkdir(parents=True, exist_ok=True)
    # With an adapter merged in, the weights in memory are in no file.
    if not lm.adapter and lm.source is not None and weight_files(lm.source)[1]:
        try:
            formats = save_edited(lm.model, edit, lm.source, folder)
        except OtherLayoutError as reason:
            logger.info("%s; they are written by transformers", reason)
        else:
            lm.save_others(folder)
            return formats
    with edit.baked(lm):
        lm.save(folder)
    return {}


def export_lora(lm: LanguageModel, edit: Edit, folder: Path) -> None:
    """Save a PEFT LoRA adapter that turns the base model into the edited one.

    With scale s, output rows j of W become s·W_j and input columns i likewise. The difference ΔW has the rank of the
    rows and columns touched in the module, so it is exactly B·A with

        A = [ΔW rows; unit vectors of the columns]      B = [unit vectors of the rows, ΔW columns without those rows]

    and a changed bias is the bias of B. All modules have the largest rank among them, filled up with zeros.

    Raises:
        InputError: PEFT is not installed, the edit is empty, or touches fused experts (nothing is written then).
        EditMismatchError: the edit was made for another model.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("a LoRA adapter needs PEFT; pip install 'crispr-lm[lora]'")
    from peft import LoraConfig
    from safetensors.torch import save_file

    if lm.adapter:
        raise InputError(
            f"{lm.name} has an adapter merged into it, and the edit's adapter would need the merged model as its base; "
            "save the edited model as a folder"
        )
    edit.check(lm)
    if not edit.neurons:
        raise InputError("the edit has no neurons, so there is nothing for an adapter to do")
    touched: dict[str, list[tuple[NeuronSite, list[int]]]] = {}
    for site, indices in neurons_by_site(lm.model, edit.neurons).items():
        if site.part not in ("output", "input"):
            raise InputError(f"{site.name} holds fused experts, which no LoRA layer fits; use the folder format")
        touched.setdefault(site.name, []).append((site, indices))
    # PEFT gives either every layer of an adapter a bias or none.
    with_bias = any(_changes_bias(site) for sites in touched.values() for site, _ in sites)
    parts = {name: _low_rank(sites, edit.scale) for name, sites in touched.items()}
    # One rank for all modules, with zeros up to it: other runtimes than PEFT read one rank and one alpha.
    rank = max(down.shape[0] for down, _, _ in parts.values())
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM" if lm.is_encoder_decoder else "CAUSAL_LM",
        base_model_name_or_path=hub_name(lm.name),
        revision=lm.revision,
        target_modules=sorted(parts),
        r=rank,
        lora_alpha=rank,  # alpha over rank is the factor on B·A: 1
        lora_dropout=0.0,
        lora_bias=with_bias,
        fan_in_fan_out=any(_is_transposed(sites[0][0].module) for sites in touched.values()),
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    # PEFT writes its set of modules in no order of its own, and an export is to be the same twice.
    written = read_object(folder / ADAPTER_SETTINGS)
    write_json(folder / ADAPTER_SETTINGS, written | {"target_modules": sorted(parts)})
    save_file(_adapter_tensors(parts, rank, with_bias=with_bias), str(folder / "adapter_model.safetensors"))
    lm.tokenizer.save_pretrained(folder)
    tokenizer_for_both(folder)


def _adapter_tensors(
    parts: Mapping[str, tuple[Tensor, Tensor, Tensor]], rank: int, *, with_bias: bool
) -> dict[str, Tensor]:
    """A, B and the bias of every module, by PEFT's names, filled up to one rank."""
    tensors: dict[str, Tensor] = {}
    for name, (down, up, bias) in parts.items():
        more = rank - down.shape[0]
        tensors[f"base_model.model.{name}.lora_A.weight"] = nn.functional.pad(down, (0, 0, 0, more))
        tensors[f"base_model.model.{name}.lora_B.weight"] = nn.functional.pad(up, (0, more))
        if with_bias:
            tensors[f"base_model.model.{name}.lora_B.bias"] = bias
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def export_slim(lm: LanguageModel, edit: Edit, folder: Path) -> tuple[int, dict[str, str]]:
    """Save a model whose feed-forward blocks are physically narrower, by the units that every block can spare.

    Architectures have one width for all blocks, so as many units go as the block with the fewest eliminated ones has;
    any more that are eliminated stay as zeros.

    Returns:
        Number of parameters saved, and the hashes of the weights as they were to be written.

    Raises:
        InputError: the edit damps instead of eliminating, touches other than `ffn` neurons, or leaves a block whole; or
            the architecture has no one width.
        EditMismatchError: the edit was made for another model.
    """
    edit.check(lm)
    if edit.scale != 0:
        raise InputError(f"the edit damps neurons (scale {edit.scale:g}); only eliminated ones can be cut out")
    if any(neuron.kind != "ffn" for neuron in edit.neurons):
        raise InputError(
            "the edit touches 'linear' neurons, on whose number other layers depend; only 'ffn' can be cut"
        )
    sites = find_sites(lm.model, "ffn")
    by_name = {site.name: indices for site, indices in neurons_by_site(lm.model, edit.neurons).items()}
    if fused := next((site for site in sites if site.part == "inner"), None):
        raise InputError(f"{fused.name} holds fused experts, which can't be cut; use the folder format")
    if untouched := next((site for site in sites if site.name not in by_name), None):
        raise InputError(
            f"no neuron of {untouched.name} is eliminated, and all {len(sites)} blocks must have the same width; use "
            "the folder format"
        )
    widths = {site.width for site in sites}
    text_config = lm.model.config.get_text_config()
    names = [name for name in WIDTH_NAMES if getattr(text_config, name, None) in widths]
    if len(widths) != 1 or not (names or _default_width(text_config) in widths):
        raise InputError(f"the configuration of a {type(lm.model).__name__} has no single width of feed-forward blocks")
    (width,) = widths
    cut = min(len(indices) for indices in by_name.values())
    model = copy.deepcopy(lm.model)  # not made from the configuration: that would tie weights that were loaded untied
    for name in names or ["n_inner"]:
        setattr(model.config.get_text_config(), name, width - cut)
    for site in sites:
        gone, zeroed = by_name[site.name][:cut], by_name[site.name][cut:]
        down: Any = model.get_submodule(site.name)
        NeuronWeights(down.weight, site.weights[0].axes).write(
            torch.tensor(zeroed, dtype=torch.int64), torch.zeros((), dtype=down.weight.dtype)
        )
        kept = torch.tensor([index for index in range(width) if index not in set(gone)])
        _narrow_block(model, site.name, kept, width)
    with edit.applied(lm):
        expected = _probe(lm.model, lm)
    # The layout of a layer that holds gate and up together is taken to be one after the other; here that shows.
    if not torch.allclose(_probe(model, lm), expected, rtol=1e-2, atol=PROBE_TOLERANCE[lm.dtype]):
        raise InputError(f"the feed-forward blocks of a {type(lm.model).__name__} can't be cut; use the folder format")
    model.save_pretrained(folder)
    narrowed = (folder / "config.json").read_bytes()
    lm.save_others(folder)
    (folder / "config.json").write_bytes(narrowed)
    configuration_for_both(folder)
    return count_parameters(lm.model) - count_parameters(model), hashes(model)


@torch.inference_mode()
def _probe(model: Any, lm: LanguageModel) -> Tensor:
    """Logits on an arbitrary sequence, float32."""
    ids = (torch.arange(24, device=lm.device) * 7 + 3)[None] % model.get_input_embeddings().weight.shape[0]
    more = {"decoder_input_ids": ids} if lm.is_encoder_decoder else {}
    logits: Tensor = model(input_ids=ids, **more).logits
    return logits.float()


def _changes_bias(site: NeuronSite) -> bool:
    return len(site.weights) > 1


def _is_transposed(module: nn.Module) -> bool:
    facts = linear_type(module)
    return facts is not None and facts.output_axis == 1


def _low_rank(sites: Sequence[tuple[NeuronSite, list[int]]], scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """A (rank, inputs), B (outputs, rank) and B's bias (outputs,) of one module's change; formula in `export_lora`."""
    module = sites[0][0].module
    facts = linear_type(module)
    assert facts is not None
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = (weight if facts.output_axis == 0 else weight.T).detach().to("cpu", torch.float32)
    rows = torch.tensor(
        [index for site, indices in sites if site.part == "output" for index in indices], dtype=torch.int64
    )
    columns = torch.tensor(
        [index for site, indices in sites if site.part == "input" for index in indices], dtype=torch.int64
    )
    edited = weight.clone()
    edited[rows] *= scale
    edited[:, columns] *= scale
    change = edited - weight
    of_columns = change[:, columns].clone()
    of_columns[rows] = 0
    unit_rows = torch.zeros(len(weight), len(rows)).index_put((rows, torch.arange(len(rows))), torch.tensor(1.0))
    unit_columns = torch.zeros(len(columns), weight.shape[1])
    unit_columns[torch.arange(len(columns)), columns] = 1.0
    bias_change = torch.zeros(len(weight))
    bias = getattr(module, "bias", None)
    if bias is not None:
        bias_change[rows] = (scale - 1) * bias.detach().to("cpu", torch.float32)[rows]
    return torch.cat([change[rows], unit_columns]), torch.cat([unit_rows, of_columns], dim=1), bias_change


def _narrow_block(model: nn.Module, down_name: str, kept: Tensor, width: int) -> None:
    """Keep only the units `kept` of the feed-forward block that ends in the layer `down_name`."""
    parent_name, _, leaf = down_name.rpartition(".")
    for name, module in model.get_submodule(parent_name).named_children():
        facts = linear_type(module)
        if facts is None:
            continue
        if name == leaf:
            _narrow(module, "weight", facts.input_axis, kept)
            setattr(module, facts.input_count, len(kept))
        elif (outputs := int(getattr(module, facts.output_count))) in (width, 2 * width):
            indices = kept if outputs == width else torch.cat([kept, kept + width])  # gate and up in one layer
            _narrow(module, "weight", facts.output_axis, indices)
            setattr(module, facts.output_count, len(indices))
            if getattr(module, "bias", None) is not None:
                _narrow(module, "bias", 0, indices)


def _narrow(module: nn.Module, name: str, axis: int, kept: Tensor) -> None:
    parameter = getattr(module, name)
    narrow = parameter.detach().index_select(axis, kept.to(parameter.device)).contiguous()
    setattr(module, name, nn.Parameter(narrow, requires_grad=False))


def _default_width(config: Any) -> int | None:
    """GPT-2's width where its configuration leaves it open."""
    hidden = getattr(config, "n_embd", None)
    return 4 * hidden if hidden is not None and getattr(config, "n_inner", 0) is None else None
