"""Tiny random models of every text architecture that transformers knows.

`architectures()` lists them, `build()` makes one from a shrunken config in about a second.

All knowledge about architectures is in the tables at the top: sizes by the name of a config's field, exceptions by
model type, and what is left out. This file knows transformers and torch only: no tokenizer, no task, nothing of
crispr_lm, and it never downloads anything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, fields
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

VOCABULARY, HIDDEN, LAYERS, HEADS, KEY_VALUE_HEADS, HEAD = 160, 32, 2, 4, 2, 8
FEED_FORWARD, EXPERT, SHARED_EXPERT, EXPERTS, ACTIVE_EXPERTS = 48, 24, 40, 4, 2
"""Widths that differ from each other, so that a shape tells what a weight is for."""

MOST_LAYERS = 6
"""A model gets one layer of each kind that its default config has, but no more than this."""

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")

WEIGHT_STD, PERTURBATION = 0.15, 0.05

DEFAULT = object()
"""In `EXCEPTIONS`: leave this field at the config's own default."""

SIZES: dict[str, Any] = {
    # widths
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_dim", "embedding_size"), HIDDEN),
    **dict.fromkeys(("word_embed_proj_dim", "input_embedding_size", "output_embedding_size"), HIDDEN),
    "hidden_size_global": HIDDEN,
    **dict.fromkeys(("vocab_size", "src_vocab_size", "tgt_vocab_size", "decoder_vocab_size"), VOCABULARY),
    "vocab_size_per_layer_input": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    # layers
    **dict.fromkeys(LAYER_COUNTS, LAYERS),
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
    # else logits hardly differ from each other
    "logit_scale": 1.0,
    # feed-forward blocks
    **dict.fromkeys(
        ("intermediate_size", "d_ff", "ffn_dim", "dim_ff", "dff", "d_inner", "ffn_hidden_size"), FEED_FORWARD
    ),
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
    # vision towers, which are kept but never run
    "depth": LAYERS,
    **dict.fromkeys(("embed_dim", "out_hidden_size"), HIDDEN),
    # small tables beside the vocabulary, and low ranks
    **dict.fromkeys(("pronunciation_vocab_size", "shape_vocab_size", "char_vocab_size"), VOCABULARY),
    **dict.fromkeys(("pronunciation_embed_dim", "shape_embed_dim"), 16),
    **dict.fromkeys(("adapter_rank", "laurel_rank", "gated_norm_rank", "d_rel", "hc_lowrank"), 4),
    "router_hidden_size": 16,
    "encoder_hash_byte_group_vocab": 64,
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size"), HIDDEN),
    "prompt_mid_dim": 16,
}
"""Field of a config -> its tiny value; applies where the field's own default is not None (None means: derive it)."""

TOKEN_IDS = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": 2,
}
"""Every other field that names a token gets an id of its own from the end of the vocabulary."""

TOKEN_FIELD = re.compile(r"(_token_id|_token_index)$")
DROPOUT_FIELD = re.compile(r"dropout|pdrop|layerdrop|jitter_noise")
LATENT_ATTENTION = (
    *("axk1", "axk2", "bailing_hybrid", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear"),
    *("longcat_flash", "minicpm3", "youtu", "dots3_note_text", "hy_v4", "deepseek_v2"),
)
"""Multi-head latent attention has as many key heads as query heads."""

EXCEPTIONS: dict[str, dict[str, Any]] = defaultdict(
    dict,
    {
        "bamba": {"attn_layer_indices": [1]},
        "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
        "dbrx": {"attn_config": {"kv_n_heads": KEY_VALUE_HEADS, "rope_theta": 10000.0, "clip_qkv": 8.0}},
        "dots3_note_text": {
            **{"swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS, "swa_head_dim": 2 * HEAD},
            **{"swa_q_lora_rank": 20, "swa_kv_lora_rank": 12, "swa_qk_nope_head_dim": HEAD, "swa_v_head_dim": HEAD},
            "head_dim": 2 * HEAD,
        },
        # short enough that the test's inputs fill a compressed block
        "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}},
        "deepseek_v2": {
            "num_experts_per_tok": ACTIVE_EXPERTS,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": EXPERT,
        },
        "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": ACTIVE_EXPERTS},
        # without it, the decoder never looks at what the encoder made
        "encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
        "falcon_h1": {"mamba_d_ssm": 64},
        "flint": {"mlp_only_layers": [0]},
        "gemma4_text": {
            **{"global_head_dim": HEAD, "enable_moe_block": True, "num_experts": EXPERTS},
            **{"top_k_experts": ACTIVE_EXPERTS, "moe_intermediate_size": EXPERT},
        },
        "gemma4_unified_text": {"global_head_dim": HEAD},
        "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
        "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
        "hunyuan_v1_dense": {"head_dim": HEAD},
        "hunyuan_v1_moe": {"head_dim": HEAD},
        "inkling_text": {"logits_mup_width_multiplier": 1.0},
        # hybrids need an attention layer, and their default puts the first one later than the last tiny layer
        "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
        "laguna": {"num_attention_heads_per_layer": DEFAULT},
        "lfm2": {"layer_types": ["conv", "full_attention"]},
        "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
        # a dense layer beside one with experts
        "llama4_text": {"interleave_moe_layer_step": 2},
        "longcat_flash": {"zero_expert_num": 2},
        "mamba2": {"num_heads": 8},
        "ministral": {"head_dim": HEAD},
        "nemotron": {"num_key_value_heads": KEY_VALUE_HEADS, "head_dim": HEAD},
        # with the default step, two layers would have no experts
        "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
        "phi4_multimodal_audio": {"nemo_conv_channels": 8, "ext_pw_out_channel": 8},
        "qwen4_exp_text": {
            **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 2 * HEAD},
            **{"indexer_budget": 64, "indexer_compress_ratio": 4},
            **{"ple_layer_ids": [1], "ple_embed_dim": HIDDEN, "heads_per_ngram": 2, "ngram_vocab_size_base": 64},
            "eos_token_id": TOKEN_IDS["eos_token_id"],
            **{"make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 2},
        },
        "recurrent_gemma": {"num_hidden_layers": 3},
        "reformer": {
            **{"attn_layers": ["local", "lsh"], "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [8, 24]},
            "hash_seed": 0,  # else its buckets differ from call to call
        },
        "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        "xlm": {"causal": True},
        "xlstm": {"hidden_size": 128},  # its inner widths are multiples of 64
        "xmod": {"default_language": "en_XX"},
        # hybrid layers share their weights, and one alone can't
        "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
        "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
        "zaya": {"num_experts_per_tok": 1},
    },
)
"""Model type of a config or sub-config -> fields that the rules above get wrong."""

for _model_type in LATENT_ATTENTION:
    EXCEPTIONS[_model_type] = {"num_key_value_heads": HEADS, **EXCEPTIONS[_model_type]}

for _model_type in (
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "qwen3_vl_moe_text",
    "glm4v_text",
    "glm_ocr_text",
):
    # Rotary positions in three axes: their parts add up to half a head.
    EXCEPTIONS[_model_type]["rope_parameters"] = {
        **{"rope_type": "default", "rope_theta": 10000.0},
        "mrope_section": [1, 1, 2],
    }

_HEARS = "turns speech or other sound into text"
_SINGS = "writes audio codes, not text"
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("audioflamingo3", "glmasr", "granite_speech", "granite_speech_plus", "musicflamingo"), _HEARS),
    **dict.fromkeys(("moss_transcribe_diarize", "nemo_speechlm", "qwen2_audio", "qwen3_asr", "vibevoice_asr"), _HEARS),
    **dict.fromkeys(("voxtral", "voxtral_realtime"), _HEARS),
    **dict.fromkeys(("musicgen", "musicgen_melody", "moshi"), _SINGS),
    "got_ocr2": "turns images into text",
    "gemma3n": "its vision tower needs the package timm; its text model is gemma3n_text",
    "gemma4_assistant": "drafts tokens from the hidden states of another model",
    "gemma4_unified_assistant": "drafts tokens from the hidden states of another model",
}
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


def vision_language() -> list[Architecture]:
    """Every entry of transformers' table of models that read images and text, but for those that `all_entries` has."""
    entries = [
        Architecture(model_type, class_name, False)
        for model_type, names in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()
        for class_name in ([names] if isinstance(names, str) else names)
    ]
    known = {(entry.model_type, entry.class_name) for entry in all_entries()}
    return [entry for entry in entries if (entry.model_type, entry.class_name) not in known]


def tiny_config(architecture: Architecture) -> PretrainedConfig:
    """The architecture's default config with everything that costs memory made small."""
    config_class = CONFIG_MAPPING[architecture.model_type]
    overrides = _shrink(config_class())
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
        value = vars(config).get(item.name)
        if isinstance(value, PretrainedConfig):
            overrides[item.name] = {"model_type": value.model_type, **_shrink(value)}
        elif default is None:
            continue
        elif item.name in SIZES:
            overrides[item.name] = SIZES[item.name]
        elif DROPOUT_FIELD.search(item.name) and isinstance(value, float):
            overrides[item.name] = 0.0
    names = _field_names(type(config))
    tokens = [name for name in names if TOKEN_FIELD.search(name) and vars(config).get(name) is not None]
    overrides |= {name: TOKEN_IDS.get(name, VOCABULARY - 1 - index) for index, name in enumerate(tokens)}
    overrides |= _one_layer_of_each_kind(config)
    for name, value in exceptions.items():
        nested = isinstance(value, dict) and isinstance(vars(config).get(name), PretrainedConfig)
        overrides[name] = {**overrides[name], **value} if nested else value
    return {name: value for name, value in overrides.items() if value is not DEFAULT}


def _one_layer_of_each_kind(config: PretrainedConfig) -> dict[str, Any]:
    """Shorten the lists that say what each layer is, so that every combination the default has is still there."""
    layer_field = next((name for name in LAYER_COUNTS if vars(config).get(name)), None)
    layers = vars(config)[layer_field] if layer_field else 0
    per_layer = {
        name: value
        for name in _field_names(type(config))
        if isinstance(value := vars(config).get(name), (list, tuple))
        and len(value) == layers > LAYERS
        and len({str(entry) for entry in value}) < layers  # else it numbers the layers
        and name not in SIZES
    }
    if layer_field is None or not per_layer:
        return {}
    kinds = list(zip(*per_layer.values(), strict=True))
    first = {str(kind): index for index, kind in reversed(list(enumerate(kinds)))}
    kept = sorted(first.values())[:MOST_LAYERS]
    kept += [index for index in range(layers) if index not in kept][: max(0, LAYERS - len(kept))]
    return {layer_field: len(kept)} | {
        name: [value[index] for index in sorted(kept)] for name, value in per_layer.items()
    }


def _field_names(config_class: type[PretrainedConfig]) -> list[str]:
    return [item.name for item in fields(config_class)]


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Give weights a spread at which logits differ clearly; move scales and biases a little off their initial values.

    What isn't a matrix of weights keeps its initial value as centre, because that value has a meaning (a norm's 1, a
    state space's decay).
    """
    matrices = (nn.Linear, Conv1D, nn.Embedding, nn.modules.conv._ConvNd)
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.is_floating_point():
                continue
            seen.add(id(parameter))
            is_matrix = parameter.dim() > 1 and (
                isinstance(module, matrices) or parameter.dim() == 3 or name == "weight"
            )
            if is_matrix:
                parameter.normal_(0.0, WEIGHT_STD)
            else:
                parameter.add_(torch.randn_like(parameter) * PERTURBATION)
