"""Tiny random models of every text architecture that transformers knows, and a survey of where they keep their weights.

`architectures()` lists them, `build()` makes one from a shrunken config in about a second, and

    python benchmarks/tiny_models.py --survey FILE.json [--only MODEL_TYPE ...]

writes for each one whether it can be built and run, which of its modules hold weights and how a forward pass uses them.

All knowledge about architectures is in the tables at the top: sizes by the name of a config's field, exceptions by model
type, and what is left out. This file knows transformers and torch only: no tokenizer, no task, nothing of crispr_lm, and it
never downloads anything.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import json
import re
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

VOCABULARY, HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD = 160, 32, 2, 4, 2, 8
FEED_FORWARD, EXPERT, SHARED_EXPERT, EXPERTS, ACTIVE_EXPERTS = 48, 24, 40, 4, 2
"""Widths that differ from each other, so that a shape tells what a weight is for."""

MOST_LAYERS = 6
"""A model gets one layer of each kind that its default config has, but no more than this."""

WEIGHT_STD, PERTURBATION = 0.15, 0.05

DEFAULT = object()
"""In `EXCEPTIONS`: leave this field at the config's own default."""

SIZES: dict[str, Any] = {
    # widths
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_dim", "embedding_size"), HIDDEN),
    **dict.fromkeys(("word_embed_proj_dim", "input_embedding_size", "output_embedding_size"), HIDDEN),
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "decoder_vocab_size"), VOCABULARY),
    "vocab_size_per_layer_input": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    # layers
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    "num_kv_shared_layers": 0,
    "num_nextn_predict_layers": 1,
    # attention
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "num_query_groups"), KEY_VALUE_HEADS),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "kv_channels", "attention_head_size", "dim_head"), HEAD),
    **dict.fromkeys(("global_head_dim", "swa_head_dim", "swa_v_head_dim"), HEAD),
    **dict.fromkeys(("swa_num_attention_heads",), HEADS),
    **dict.fromkeys(("swa_num_key_value_heads", "num_global_key_value_heads"), KEY_VALUE_HEADS),
    "q_lora_rank": 20,
    "kv_lora_rank": 12,
    "o_lora_rank": 12,
    "o_groups": 2,
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), HEAD),
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 64,
    "rotary_dim": HEAD,
    # Longer than the inputs of these models: a window that hides nothing leaves scores comparable.
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "attention_window"), 64),
    **dict.fromkeys(("attention_chunk_size", "local_attention", "window_size", "local_attention_window_len"), 64),
    "query_pre_attn_scalar": HEAD,
    # feed-forward blocks
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "dim_ff", "dff", "d_inner", "ffn_hidden_size"), FEED_FORWARD),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size", "intermediate_size_mlp"), FEED_FORWARD),
    **dict.fromkeys(("dense_intermediate_size", "prefix_dense_intermediate_size"), FEED_FORWARD),
    # mixtures of experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k"), ACTIVE_EXPERTS),
    **dict.fromkeys(("moe_k", "top_k_experts"), ACTIVE_EXPERTS),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), EXPERT),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), SHARED_EXPERT),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), SHARED_EXPERT),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    "expert_capacity": 64,
    # state spaces and linear attention
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "mamba_state_dim"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), HEADS),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 16),
    "linear_num_heads": HEADS,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), HEAD),
    **dict.fromkeys(("lru_width", "attention_hidden_size"), HIDDEN),
    # positions
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), 256),
    **dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), 256),
    **dict.fromkeys(("max_target_positions", "max_source_positions", "original_max_position_embeddings"), 256),
    # small tables beside the vocabulary, and low ranks
    **dict.fromkeys(("pronunciation_vocab_size", "shape_vocab_size", "char_vocab_size"), VOCABULARY),
    **dict.fromkeys(("pronunciation_embed_dim", "shape_embed_dim"), 16),
    **dict.fromkeys(("adapter_rank", "laurel_rank", "gated_norm_rank", "d_rel", "hc_lowrank"), 4),
    "router_hidden_size": 16,
    "prompt_mid_dim": 16,
}
"""Field of a config -> its tiny value; applies where the field's own default is not None (None means: derive it)."""

TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0, "forced_eos_token_id": 2}
"""Every other field that names a token gets an id of its own from the end of the vocabulary."""

TOKEN_FIELD = re.compile(r"(_token_id|_token_index)$")
DROPOUT_FIELD = re.compile(r"dropout|pdrop|layerdrop|jitter_noise")
TEXT_TOKENS = range(8, 120)
"""Ids that tests may use: none of them is special in any tiny model."""

EXCEPTIONS: dict[str, dict[str, Any]] = {}
"""Model type of a config or sub-config -> fields that the rules above get wrong."""

LEFT_OUT: dict[str, str] = {}
"""Model type -> why it's no text model that answers from token ids alone."""


@dataclass(frozen=True)
class Architecture:
    """One entry of transformers' tables of language models."""

    model_type: str
    class_name: str
    is_encoder_decoder: bool


def all_entries() -> list[Architecture]:
    """Every entry of transformers' two tables, those left out included."""
    tables = ((MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, False), (MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, True))
    entries = [
        Architecture(model_type, class_name, is_encoder_decoder)
        for table, is_encoder_decoder in tables
        for model_type, names in table.items()
        for class_name in ([names] if isinstance(names, str) else names)
    ]
    return list(dict.fromkeys(entries))


def architectures() -> list[Architecture]:
    """Every text architecture, causal ones first; see `LEFT_OUT` for the others."""
    return [entry for entry in all_entries() if entry.model_type not in LEFT_OUT]


def tiny_config(architecture: Architecture) -> PretrainedConfig:
    """The architecture's default config with everything that costs memory made small."""
    config_class = CONFIG_MAPPING[architecture.model_type]
    seed_overrides = EXCEPTIONS.get(architecture.model_type, {}).get("__init__", {})
    overrides = _shrink(config_class(**copy.deepcopy(seed_overrides)))
    if not architecture.is_encoder_decoder and "is_decoder" in _field_names(config_class):
        overrides["is_decoder"] = True  # without it, models of BERT's family look at later tokens
    return config_class(**overrides)


def build(architecture: Architecture, seed: int = 0) -> PreTrainedModel:
    """Build a tiny random model: float32, on the CPU, in eval mode, the same weights for the same seed."""
    model_class = getattr(transformers, architecture.class_name)
    config = tiny_config(architecture)
    if not isinstance(config, model_class.config_class):
        config = config.get_text_config()  # as AutoModelForCausalLM does for the text part of a larger model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        _randomise(model)
    assert isinstance(model, PreTrainedModel)
    return model.float().eval()


def _shrink(config: PretrainedConfig) -> dict[str, Any]:
    """Arguments for the config's class that make it tiny; derived fields are left to the class."""
    exceptions = EXCEPTIONS.get(config.model_type, {})
    overrides: dict[str, Any] = {}
    for item in fields(config):
        default = item.default_factory() if callable(item.default_factory) else item.default
        value = getattr(config, item.name, None)
        if isinstance(value, PretrainedConfig):
            overrides[item.name] = {"model_type": value.model_type, **_shrink(value)}
        elif default is None:
            continue
        elif item.name in SIZES:
            overrides[item.name] = SIZES[item.name]
        elif DROPOUT_FIELD.search(item.name) and isinstance(value, float):
            overrides[item.name] = 0.0
    names = _field_names(type(config))
    tokens = [name for name in names if TOKEN_FIELD.search(name) and getattr(config, name, None) is not None]
    overrides |= {name: TOKEN_IDS.get(name, VOCABULARY - 1 - index) for index, name in enumerate(tokens)}
    overrides |= _one_layer_of_each_kind(config, overrides)
    overrides |= {name: value for name, value in exceptions.items() if name != "__init__"}
    return {name: value for name, value in overrides.items() if value is not DEFAULT}


def _one_layer_of_each_kind(config: PretrainedConfig, overrides: dict[str, Any]) -> dict[str, Any]:
    """Shorten the lists that say what each layer is, so that every combination the default has is still there."""
    layers = next((getattr(config, n) for n in ("num_hidden_layers", "n_layers") if getattr(config, n, None)), None)
    if not isinstance(layers, int) or layers <= LAYERS:
        return {}
    per_layer: dict[str, list[Any]] = {}
    reset = {}
    for name in _field_names(type(config)):
        value = getattr(config, name, None)
        if not isinstance(value, (list, tuple)) or not value:
            continue
        if len(value) == layers and len({str(entry) for entry in value}) < layers:
            per_layer[name] = list(value)
        elif all(type(entry) is int for entry in value) and len(set(value)) == len(value) and max(value) >= LAYERS:
            reset[name] = None  # a list of layer numbers: derived anew
    kinds = list(zip(*per_layer.values(), strict=True))
    first = {str(kind): index for index, kind in reversed(list(enumerate(kinds)))}
    kept = sorted(first.values())[:MOST_LAYERS]
    kept += [index for index in range(layers) if index not in kept][: LAYERS - len(kept)]
    layer_field = next(n for n in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if n in overrides)
    shortened = {name: [values[index] for index in sorted(kept)] for name, values in per_layer.items()}
    return {**reset, **shortened, **({layer_field: len(kept)} if per_layer else {})}


def _field_names(config_class: type[PretrainedConfig]) -> list[str]:
    return [item.name for item in fields(config_class)]


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Give weights a spread at which logits differ clearly; move scales and biases a little off their initial values.

    What isn't a matrix of weights keeps its initial value as centre, because that value has a meaning (a norm's 1, a state
    space's decay).
    """
    matrices = (nn.Linear, Conv1D, nn.Embedding, nn.modules.conv._ConvNd)
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.is_floating_point():
                continue
            seen.add(id(parameter))
            is_matrix = parameter.dim() > 1 and (isinstance(module, matrices) or parameter.dim() == 3 or name == "weight")
            if is_matrix:
                parameter.normal_(0.0, WEIGHT_STD)
            else:
                parameter.add_(torch.randn_like(parameter) * PERTURBATION)
