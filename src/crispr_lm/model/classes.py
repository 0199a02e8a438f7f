"""With which of transformers' classes a model is loaded, and which models are refused as none that writes text.

Vision-language models are used through their text part: prompts hold no images, neurons are those of the language
model, and the vision tower is kept as it is. Knows configurations; reads no weights.
"""

from __future__ import annotations

from typing import Any

from crispr_lm.errors import InputError

TEXT_PARTS = frozenset({
    "aria", "aya_vision", "cohere2_vision", "cohere_compass", "deepseek_vl", "exaone4_5", "glm46v", "glm4v",
    "hyperclovax_vision_v2", "idefics2", "idefics3", "internvl", "kimi_k25", "lfm2_vl", "llava", "llava_next",
    "llava_next_video", "llava_onevision", "minicpmv4_6", "minimax_m3_vl", "mistral3", "mllama",
    "muse_glimmer", "ovis2", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe",
    "smolvlm", "video_llama_3", "video_llava", "vipllava",
})  # fmt: skip
"""Model types of vision-language models that pass every check of ``benchmarks/architectures.py`` on text alone."""


def auto_class(config: Any) -> Any:
    """The class of transformers that loads, or builds, a model of this configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    if getattr(config, "is_encoder_decoder", False):
        return AutoModelForSeq2SeqLM
    return AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM


def sees_images(config: Any) -> bool:
    """Whether a configuration is of a vision-language model that is no entry of transformers' causal ones.

    A type may be in both tables (Qwen3.5): then the class that the weights were saved of decides.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    brings_own_class = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if brings_own_class or config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return False
    causal, architectures = _causal_table(), getattr(config, "architectures", None) or []
    own = _names(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[config.model_type]) - _names(
        causal.get(config.model_type, ())
    )
    return config.model_type not in causal or bool(own & set(architectures))


def check_writes_text(config: Any, name: str) -> None:
    """Refuse what can't answer in text from text alone, before its weights are read.

    Args:
        config: The model's configuration.
        name: As the user gave it, for messages.

    Raises:
        InputError: neither a causal nor a sequence-to-sequence language model, nor a vision-language model of
            `TEXT_PARTS`.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    auto_map = getattr(config, "auto_map", None) or {}
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    if not encoder_decoder and sees_images(config):
        _check_text_part(config, name)
        return
    mapping = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES if encoder_decoder else _causal_table()
    if config.model_type not in mapping and not {"AutoModelForCausalLM", "AutoModelForSeq2SeqLM"} & set(auto_map):
        raise InputError(f"model {name}: a {config.model_type!r} model is not a language model that writes text")
    writers = set().union(*(_names(classes) for classes in mapping.values()))
    architectures = getattr(config, "architectures", None) or []
    if architectures and not auto_map and not writers & set(architectures):
        raise InputError(
            f"model {name}: its weights are those of a {architectures[0]}, which is not a language model that writes "
            "text"
        )


def _check_text_part(config: Any, name: str) -> None:
    if config.model_type in TEXT_PARTS:
        return
    what = f"model {name}: a {config.model_type!r} model is a vision-language model"
    if config.model_type in _causal_table():
        raise InputError(
            f"{what} that transformers does not run on text alone; save its language model (load it with transformers' "
            "AutoModelForCausalLM, then save_pretrained, and the tokenizer beside it) and give that folder"
        )
    raise InputError(
        f"{what} whose text part is not known to work alone; give a language model, or a vision-language one of: "
        f"{', '.join(sorted(TEXT_PARTS))}"
    )


def _causal_table() -> dict[str, Any]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _names(classes: Any) -> set[str]:
    """Class names of an entry of transformers' tables: one, or several."""
    return {classes} if isinstance(classes, str) else set(classes)
