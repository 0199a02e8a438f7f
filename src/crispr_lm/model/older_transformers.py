"""What transformers 5 writes into a model's folder, said in the words of 4.x as well, so that both read the same model.

Only for folders that transformers 5 has written anew (models out of a GGUF file or of memory): the files of any other
model are copied as they are. Compared with the configuration classes of transformers 4.57.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crispr_lm.storage.files import write_json
from crispr_lm.storage.untrusted import parse_json, read_bytes

ROTARY_NAMES = ("rope_theta", "partial_rotary_factor")
"""Entries of ``rope_parameters`` that 4.x has at the top level."""

OLD_NAMES: dict[str, dict[str, str]] = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    "qwen3_moe": {"num_local_experts": "num_experts"},
}
"""By model type, further names that 4.x has for entries at the top level."""

ADDED = frozenset({"torch_dtype", "rope_scaling", "rope_local_base_freq", *ROTARY_NAMES}).union(
    *(names.values() for names in OLD_NAMES.values())
)
"""All that is added to a configuration."""

TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Classes of tokenizers that 4.x does not know, to the name by which both know them."""

PASSING = ("backend", "is_local", "local_files_only")
"""What a tokenizer's configuration says of how it was read."""


def configuration_for_both(folder: Path) -> None:
    """Rewrite a folder's configuration so that transformers 4.x and 5.x read the same."""
    file = folder / "config.json"
    write_json(file, _configuration(parse_json(read_bytes(file))))


def tokenizer_for_both(folder: Path) -> None:
    """Rewrite the configuration of a folder's tokenizer so that transformers 4.x and 5.x read the same."""
    file = folder / "tokenizer_config.json"
    write_json(file, _tokenizer(parse_json(read_bytes(file))))


def _configuration(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with both names of every entry, those within it (of a text part) included."""
    both = {
        key: _configuration(value) if key.endswith("_config") and value else value for key, value in content.items()
    }
    if "dtype" in both:
        both.setdefault("torch_dtype", both["dtype"])
    if both.get("scale_decoder_outputs") is False:  # T5 1.1: what 4.x, and 5.x of any other folder, tell it by
        both["tie_word_embeddings"] = False
    rotary = both.get("rope_parameters")
    both = (_rotary(rotary) if isinstance(rotary, Mapping) else {}) | both
    for new, old in OLD_NAMES.get(str(both.get("model_type")), {}).items():
        if new in both:
            both.setdefault(old, both[new])
    return both


def _rotary(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary embeddings as 4.x has them: at the top level, and ``rope_scaling`` for what is not the default."""
    if "full_attention" in parameters:  # Gemma 3: one set for each type of layer
        sliding = parameters.get("sliding_attention", {})
        local = {"rope_local_base_freq": sliding["rope_theta"]} if "rope_theta" in sliding else {}
        return _rotary(parameters["full_attention"]) | local
    top = {key: value for key, value in parameters.items() if key in ROTARY_NAMES}
    scaling = {key: value for key, value in parameters.items() if key not in ROTARY_NAMES}
    return top | ({} if scaling.get("rope_type", "default") == "default" else {"rope_scaling": scaling})


def _tokenizer(content: Mapping[str, Any]) -> dict[str, Any]:
    named = {key: value for key, value in content.items() if key not in PASSING}
    if (kind := named.get("tokenizer_class")) in TOKENIZER_CLASSES:
        named["tokenizer_class"] = TOKENIZER_CLASSES[kind]
    if isinstance(named.get("extra_special_tokens"), list):  # in 4.x a mapping of names
        named["additional_special_tokens"] = named.pop("extra_special_tokens")
    return named
