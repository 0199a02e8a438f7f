"""A loaded model with its tokenizer, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from crispr_lm.model.capabilities import Capabilities
from crispr_lm.model.in_memory import check_in_memory
from crispr_lm.model.locate import shared_name
from crispr_lm.model.offload import execution_device
from crispr_lm.model.older_transformers import configuration_for_both, tokenizer_for_both
from crispr_lm.model.source_files import copy_other_files, source_folder

CONTEXT_LENGTH_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length")
"""Where configurations keep the largest number of positions. Models without (T5's are relative) have no limit."""


def is_encoder_decoder(config: Any) -> bool:
    """Whether a configuration is of an encoder and a decoder."""
    return bool(getattr(config, "is_encoder_decoder", False))


def context_length(config: Any) -> int | None:
    """Largest number of tokens of a sequence, None if the configuration sets no limit."""
    text_config = config.get_text_config()
    values = (getattr(text_config, name, None) for name in CONTEXT_LENGTH_NAMES)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


@dataclass(eq=False)
class LanguageModel:
    """A model ready to be scored and edited: in evaluation mode. From `load_model`, or a model object of the user's.

    Attributes:
        model: The transformers model.
        tokenizer: Its tokenizer.
        name: What it is called: its hub id or built-in name, or the last part of a local path. It may be shared.
        revision: The hub's commit, None for local files.
        location: The folder or hub id it was read from; empty for a model made in memory.
        given: What the user asked for, to load it again: never written into what is shared. Empty as `location`.
        gguf_file: The GGUF file there, None if it is no GGUF.
        adapter: Name and hash of the PEFT adapter that was merged into it, and name of its base; empty where none was.
        quantized: Whether its weights are shortened to 8 or 4 bits.
        is_encoder_decoder: Whether options are written by a decoder that reads an encoder.
        context_length: Largest number of tokens of a sequence, None if there is no limit.
        capabilities: How it can be batched; None until `inference.layouts.capabilities_of` has found it out.
        bytes_per_token: What a token of a batch takes of a CUDA device's memory, by kind of pass ("scores",
            "gradients"); empty until `inference.batching` has measured it.
        evaluation_dtype: Number format that answers are measured in (`autocast`); None for the weights' own.
        prompt_format: "chat": prompts go through the tokenizer's chat template, if it has one; "plain": never.
        moment: What a chat template that writes the date takes for now; the same for every prompt.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None = None
    location: str = ""
    given: str = ""
    gguf_file: str | None = None
    adapter: Mapping[str, str] = field(default_factory=dict)
    quantized: bool = False
    is_encoder_decoder: bool = False
    context_length: int | None = None
    capabilities: Capabilities | None = field(default=None, repr=False)
    bytes_per_token: dict[str, float] = field(default_factory=dict, repr=False)
    evaluation_dtype: torch.dtype | None = field(default=None, repr=False)
    prompt_format: Literal["chat", "plain"] = "chat"
    moment: datetime = field(default_factory=datetime.now, repr=False)

    @property
    def device(self) -> torch.device:
        """Where inputs go (the embedding's device, for a model spread over several)."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings.weight, torch.Tensor)
        return execution_device(embeddings) or embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        dtype = self.model.dtype
        assert isinstance(dtype, torch.dtype)
        return dtype

    @staticmethod
    def from_transformers(
        model: Any, tokenizer: Any, *, name: str | None = None, prompt_format: Literal["chat", "plain"] = "chat"
    ) -> LanguageModel:
        """Take a transformers model that is in memory already; it stays the user's object, nothing is copied.

        Of the model one thing is changed: it is put into evaluation mode (``model.eval()``), since dropout would make
        every score random. After training it further, call ``model.eval()`` again; scoring in training mode is
        refused. Whether parameters require gradients is left as it is: attribution freezes them while it runs and puts
        them back. (`load_model` freezes for good, but there the object is ours.)

        Args:
            model: What ``AutoModelForCausalLM`` or ``AutoModelForSeq2SeqLM`` gives, on any device.
            tokenizer: Its tokenizer.
            name: For messages and records, best the hub id; by default where the model was loaded from.
            prompt_format: "chat": prompts go through the chat template, if there is one; "plain": they never do.

        Raises:
            InputError: the model writes no text, carries an adapter, or is not wholly in memory; or the tokenizer is
                none, or that of another model.
        """
        check_in_memory(model, tokenizer)
        model.eval()
        return LanguageModel(
            model=model,
            tokenizer=tokenizer,
            name=name or shared_name(model.name_or_path or f"{type(model).__name__} (in memory)"),
            given=name or model.name_or_path,
            revision=getattr(model.config, "_commit_hash", None),
            quantized=bool(getattr(model, "is_quantized", False)),
            is_encoder_decoder=is_encoder_decoder(model.config),
            context_length=context_length(model.config),
            prompt_format=prompt_format,
        )

    @property
    def embedded_tokens(self) -> int | None:
        """Number of tokens that the model has an embedding of, None where it is not known."""
        embedding = self.model.get_input_embeddings()
        return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None

    def save(self, folder: Path) -> None:
        """Save model and tokenizer as transformers does, with all other files of the folder it was read from.

        Configuration and tokenizer files are the original's to the byte. Of a model that has none (out of a GGUF file
        or of memory) they are written so that transformers 4.x and 5.x read the same.
        """
        self.model.save_pretrained(folder)
        self.save_others(folder)

    def save_others(self, folder: Path) -> None:
        """Write all but the weights, as `save` does; a ``config.json`` that is there is replaced by the original's."""
        if self.source is not None:
            copy_other_files(self.source, folder)
            if self.adapter:  # it may have brought a tokenizer of its own
                self.tokenizer.save_pretrained(folder)
                tokenizer_for_both(folder)
            return
        configuration_for_both(folder)
        self.tokenizer.save_pretrained(folder)
        tokenizer_for_both(folder)

    @cached_property
    def source(self) -> Path | None:
        """The Hugging Face folder that it was read from; None out of a GGUF file or of memory."""
        return None if self.gguf_file else source_folder(self.location, self.revision)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
