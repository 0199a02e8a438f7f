"""Whether a model and a tokenizer that are in memory already can be scored and edited. Loads and changes nothing."""

from __future__ import annotations

from typing import Any

from crispr_lm.errors import InputError, on_one_line
from crispr_lm.model.offload import is_offloaded


def check_in_memory(model: Any, tokenizer: Any) -> None:
    """Check that these are a transformers model that writes text, with all its weights, and a tokenizer that fits it.

    Raises:
        InputError: they are not; the message says what to give instead.
    """
    _check_model(model)
    _check_tokenizer(tokenizer, model)


def _check_model(model: Any) -> None:
    from transformers import PreTrainedModel

    what = type(model).__name__
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        # Its layers compute more than their weights, so that a neuron would not be eliminated with them.
        raise InputError(f"the {what} carries an adapter (PEFT); give what its merge_and_unload() returns")
    if not isinstance(model, PreTrainedModel):
        compiled = " (of a compiled model its _orig_mod)" if hasattr(model, "_orig_mod") else ""
        raise InputError(f"a {what} is no transformers model; give what from_pretrained returns{compiled}")
    if not model.can_generate():
        raise InputError(
            f"a {what} writes no text; load the checkpoint with AutoModelForCausalLM or AutoModelForSeq2SeqLM"
        )
    if getattr(model, "_tp_size", None) not in (None, 1):  # a layer's neurons are then in several processes
        raise InputError(
            f"the {what} is split by tensor parallelism; load it with device_map, or whole in each process"
        )
    absent = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if absent is not None and not is_offloaded(model):
        raise InputError(f"weights of the {what} are not in memory (first: {absent}): never loaded; load all of them")


def _check_tokenizer(tokenizer: Any, model: Any) -> None:
    from transformers import PreTrainedTokenizerBase

    what = type(tokenizer).__name__
    if isinstance(getattr(tokenizer, "tokenizer", None), PreTrainedTokenizerBase):
        raise InputError(f"a {what} is a processor; give its .tokenizer")
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or what.startswith("MistralCommon"):
        # The latter, of mistral-common, knows neither chat templates nor plain prompts.
        raise InputError(f"a {what} is no transformers tokenizer; give what AutoTokenizer.from_pretrained returns")
    try:
        can_encode = bool(tokenizer("word").input_ids) and len(tokenizer) > 1
    except Exception as error:  # a tokenizer that is only half there may fail in any way
        raise InputError(f"the {what} can't encode a word ({on_one_line(error)}); load it with its files") from error
    if not can_encode:
        raise InputError(f"the {what} has no vocabulary; load it with its files (tokenizer.json, ...)")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens, but the {type(model).__name__} embeds {rows}; give the "
            "model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))"
        )
