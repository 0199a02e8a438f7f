"""Tiny GGUF files, written as llama.cpp's converters write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Type
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from .helpers import CHAT_TEMPLATE, VOCABULARY, chat_tokenizer, fill

LAYERS, WIDTH, UNITS, HEADS, KEY_HEADS, EXPERTS = 2, 64, 96, 4, 2, 3
"""Multiples of 32, the block of the formats that rows are quantised in."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": UNITS,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "max_position_embeddings": 512,
    "rope_theta": 500.0,
}

EXPERT_UNITS = 768  # Qwen3's default, which transformers takes for what a GGUF file says

MIXED = {"attn": Type.Q8_0, "ffn": Type.Q4_1}
"""Parts of a tensor's name to its format; all others are float32."""


def write_llama(path: Path, formats: Mapping[str, Type] = MIXED, *, bias: bool = False) -> None:
    """Rows of q and k are permuted within each head, as in `LlamaModel` of llama.cpp's converter."""
    model = LlamaForCausalLM(LlamaConfig(**_SIZES, attention_bias=bias, mlp_bias=bias))
    fill(model, 0, 0.15)

    def permuted(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        heads = HEADS if "q_proj" in name else KEY_HEADS if "k_proj" in name else None
        if heads is None:
            return values
        return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)

    _write(path, "llama", model, permuted, formats)


def write_gpt2(path: Path) -> None:
    """Weights of linear layers are transposed."""
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 1024}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, **sizes))
    fill(model, 0, 0.15)

    def transposed(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values.T if values.ndim == 2 and ".h." in name else values

    _write(path, "gpt2", model, transposed, {})


def write_mixture(path: Path) -> None:
    """Experts as one tensor of each part."""
    sizes = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT_UNITS, "head_dim": 16}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**_SIZES, **sizes, norm_topk_prob=True))
    fill(model, 0, 0.15)
    _write(path, "qwen3moe", model, lambda _name, values: values, {})


def _write(
    path: Path,
    architecture: str,
    model: Any,
    stored: Callable[[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]],
    formats: Mapping[str, Type],
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    _settings(writer, architecture)
    _vocabulary(writer)
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(known, LAYERS)
    for name, tensor in _tensors(model):
        short = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert short is not None, name
        values = np.ascontiguousarray(stored(name, tensor.float().numpy()))
        kind = next((kind for part, kind in formats.items() if part in short and values.ndim > 1), Type.F32)
        writer.add_tensor(short, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model: Any) -> list[tuple[str, torch.Tensor]]:
    found = []
    for name, tensor in model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.detach().chunk(2, dim=1)
            found += [(name.replace("gate_up_proj", "gate_proj.weight"), gate)]
            found += [(name.replace("gate_up_proj", "up_proj.weight"), up)]
        else:
            whole = f"{name}.weight" if name.endswith("experts.down_proj") else name
            found.append((whole, tensor.detach()))
    return found


def _settings(writer: Any, architecture: str) -> None:
    writer.add_context_length(1024 if architecture == "gpt2" else 512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(UNITS)
    writer.add_head_count(HEADS)
    writer.add_vocab_size(VOCABULARY)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(1e-5)
        return
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(500.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    if architecture == "qwen3moe":
        writer.add_key_length(16)
        writer.add_value_length(16)
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(EXPERT_UNITS)


def _vocabulary(writer: Any) -> None:
    model = json.loads(chat_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
