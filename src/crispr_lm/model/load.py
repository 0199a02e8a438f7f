"""Loading a model: hub id, local folder, PEFT adapter, GGUF file, or the built-in one. Knows no task.

Opening is in two steps, so that mistakes show before the long part: `open_model` reads configuration and tokenizer
(seconds), `ModelSource.load` reads the weights.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from crispr_lm.errors import InputError
from crispr_lm.model.adapter import Adapter, adapter_named, check_mergeable, merged
from crispr_lm.model.checkpoint import check_checkpoint, check_complete, check_tokenizer_files, read_tokenizer, refused
from crispr_lm.model.classes import auto_class, check_writes_text
from crispr_lm.model.devices import (
    DTYPES,
    OFFLOAD,
    PLACES,
    TENSOR_PARALLEL,
    check_device,
    check_dtype,
    check_quantize,
    computes,
    parse_device,
)
from crispr_lm.model.gguf_header import check_gguf, dequantizing, forget_parsed, parsed_once
from crispr_lm.model.language_model import LanguageModel, context_length, is_encoder_decoder
from crispr_lm.model.locate import is_only_cached, locate, shared_name
from crispr_lm.model.memory import check_fits, empty_model, explain_out_of_memory
from crispr_lm.model.offload import check_on_accelerators, give_memory_back, offload_arguments
from crispr_lm.model.source_files import weight_files
from crispr_lm.model.tensor_parallel import check_compared, check_divisible, division_arguments, prepare_divided
from crispr_lm.model.trust import check_configuration, check_index, check_indices
from crispr_lm.model.vetting import vet
from crispr_lm.runtime.distributed import ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """A model whose configuration and tokenizer are read, and whose weights are not yet."""

    name: str
    location: str
    gguf_file: str | None
    config: Any
    tokenizer: Any
    trust_remote_code: bool = False
    local_files_only: bool = False
    prompt_format: Literal["chat", "plain"] = "chat"
    moment: datetime = field(default_factory=datetime.now, repr=False)
    adapter: Adapter | None = None

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the architecture has an encoder and a decoder."""
        return is_encoder_decoder(self.config)

    @property
    def context_length(self) -> int | None:
        """Largest number of tokens of a sequence, None if there is no limit."""
        return context_length(self.config)

    @property
    def embedded_tokens(self) -> int | None:
        """Number of tokens that the model has an embedding of, None where the configuration does not say."""
        size = getattr(self.config.get_text_config(), "vocab_size", None)
        return size if isinstance(size, int) and size > 0 else None

    @property
    def _stored_dtype(self) -> torch.dtype:
        """The format that weights are stored in, as far as the configuration says; for a GGUF file bfloat16."""
        if self.gguf_file is not None:
            return torch.bfloat16
        dtype = getattr(self.config.get_text_config(), "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    def check_indices(self, *, allow_pickle: bool = False) -> None:
        """Check that what says which weights are in which file names nothing else than files of the model.

        Raises:
            InputError: it does, or can't be read.
        """
        if Path(self.location).is_dir():
            check_indices(Path(self.location), self.name, allow_pickle=allow_pickle)
            return
        from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, cached_file

        own = getattr(self.config, "transformers_weights", None)
        for file in {SAFE_WEIGHTS_INDEX_NAME, own or SAFE_WEIGHTS_INDEX_NAME}:
            if not file.endswith(".index.json"):
                continue
            try:
                index = cached_file(
                    self.location,
                    file,
                    local_files_only=self.local_files_only,
                    _raise_exceptions_for_gated_repo=False,
                    _raise_exceptions_for_missing_entries=False,
                )
            except Exception as error:  # of many types
                raise InputError(refused(self.name, "weights can't be loaded", error)) from error
            if index is not None:
                check_index(Path(index), self.name, allow_pickle=allow_pickle)

    def format_for(self, dtype: str, device: torch.device) -> torch.dtype:
        """The number format of that name; "auto" is the stored one, or float32 where the device has to emulate it.

        Raises:
            InputError: unknown name.
        """
        check_dtype(dtype)
        if dtype != "auto":
            return DTYPES[dtype]
        return self._stored_dtype if computes(self._stored_dtype, device) else torch.float32

    def _check_fits(self, dtype: torch.dtype, target: torch.device | None, quantize: str, *, twice: bool) -> None:
        accelerators = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        try:
            empty = self.without_weights()
        except InputError as error:
            logger.info("whether model %s fits is not known: %s", self.name, error)
            return
        bits = None if quantize == "none" else int(quantize.removesuffix("bit"))
        check_fits(self.name, empty, dtype, *(accelerators if target is None else [target]), twice=twice, bits=bits)

    def without_weights(self) -> Any:
        """Modules and shapes alone, on PyTorch's meta device.

        Raises:
            InputError: transformers can't build it.
        """
        return empty_model(self.config, self.trust_remote_code)

    @parsed_once()
    def load(
        self,
        dtype: str = "float32",
        device: str = "auto",
        *,
        allow_pickle: bool = False,
        quantize: str = "none",
        twice: bool = False,
    ) -> LanguageModel:
        """Read the weights.

        Args:
            dtype: "float32", "bfloat16", "float16", or "auto" (as in `format_for`).
            device: "auto" (an accelerator if there is one), a torch device such as "cpu" or "cuda:1", or one of
                `devices.PLACES`.
            allow_pickle: Also read weights stored as pickle (``.bin``), which can run code hidden in the file.
            quantize: "none", or "8bit" or "4bit" to load the weights shortened (bitsandbytes), for a model that does
                not fit otherwise. An edit that is made so is tied to the whole weights in the model's files.
            twice: Refuse a model of which no second copy fits, which is what checking a saved one takes.

        Raises:
            InputError: does not fit, or weights missing, unreadable, or not those of this architecture.
        """
        self._check_files(device, quantize, allow_pickle=allow_pickle)
        target = None if device in PLACES else parse_device(device)
        torch_dtype = self.format_for(dtype, parse_device("auto") if target is None else target)
        arguments = self._arguments(torch_dtype, quantize, allow_pickle=allow_pickle)
        if device == OFFLOAD:
            offloaded = TemporaryDirectory(prefix="crispr-lm-")  # removed with the model, or when this fails
            arguments |= offload_arguments(offloaded.name)
            give_memory_back()
        elif device == TENSOR_PARALLEL:
            arguments |= self._division_arguments(torch_dtype)
        else:
            if target is None or quantize != "none":
                arguments["device_map"] = device if target is None else {"": target}
            self._check_fits(torch_dtype, target, quantize, twice=twice)
        try:
            model, report = auto_class(self.config).from_pretrained(
                self.location, config=self.config, output_loading_info=True, **arguments
            )
        except Exception as error:  # many types: OSError, SafetensorError, RuntimeError on other shapes, ...
            hint = "" if allow_pickle else " (weights stored as pickle need --allow-pickle)"
            raise InputError(refused(self.name, "weights can't be loaded", error) + hint) from error
        finally:
            forget_parsed()
        check_complete(self.name, model, report["missing_keys"])
        if device == OFFLOAD:
            weakref.finalize(model, offloaded.cleanup)
        elif device == TENSOR_PARALLEL:
            prepare_divided(model)
        elif target is None:
            check_on_accelerators(self.name, model)
        elif quantize == "none":
            with explain_out_of_memory(f"while model {self.name} is moved to {target}"):
                model.to(target)
        model.eval().requires_grad_(False)
        lm = self.holding(model, quantized=quantize != "none")
        return lm if self.adapter is None else _with_merged(lm, self.adapter)

    def holding(self, model: Any, *, quantized: bool = False) -> LanguageModel:
        """The language model around a transformers model of this source, with its weights or without."""
        return LanguageModel(
            model=model,
            tokenizer=self.tokenizer,
            name=shared_name(self.name),
            given=self.name,
            revision=getattr(self.config, "_commit_hash", None),
            location=self.location,
            gguf_file=self.gguf_file,
            quantized=quantized,
            is_encoder_decoder=self.is_encoder_decoder,
            context_length=self.context_length,
            prompt_format=self.prompt_format,
            moment=self.moment,
        )

    def _division_arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """What transformers is called with, to divide the weights among processes, after checks of what can be."""
        empty = self.without_weights()
        check_divisible(self.name, empty, ranks())
        check_compared(self.name, empty)
        self._check_fits(dtype, None if torch.cuda.is_available() else torch.device("cpu"), "none", twice=False)
        return division_arguments(ranks())

    def _arguments(self, dtype: torch.dtype, quantize: str, *, allow_pickle: bool) -> dict[str, Any]:
        """What transformers is called with, but for the place of the weights."""
        arguments: dict[str, Any] = {
            "dtype": dtype,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.local_files_only,
        }
        if self.gguf_file is not None:
            arguments |= {"gguf_file": self.gguf_file} | dequantizing()
        elif not allow_pickle:
            arguments["use_safetensors"] = True
        if quantize != "none":
            from transformers import BitsAndBytesConfig

            bits = {"load_in_8bit": True} if quantize == "8bit" else {"load_in_4bit": True}
            arguments["quantization_config"] = BitsAndBytesConfig(**bits)
        return arguments

    def _check_files(self, device: str, quantize: str, *, allow_pickle: bool) -> None:
        """Check what the weights are read from.

        Where they are not whole in memory, edits are tied to the safetensors files, so these must be there.
        """
        check_quantize(quantize)
        if self.adapter is not None:
            check_mergeable(self.adapter, quantize, allow_pickle=allow_pickle)
        if self.gguf_file is None:
            self.check_indices(allow_pickle=allow_pickle)
        placed = device in (OFFLOAD, TENSOR_PARALLEL)
        if not placed and quantize == "none":
            return
        option = f"--device {device}" if placed else f"--quantize {quantize}"
        if placed and quantize != "none":
            raise InputError(f"--quantize {quantize} does not go with {option}; leave one of them away")
        pickles = Path(self.location).is_dir() and not weight_files(Path(self.location))[1]
        if self.gguf_file is not None or self.adapter is not None or pickles:
            what = "a GGUF file" if self.gguf_file else "an adapter" if self.adapter else "without safetensors files"
            raise InputError(
                f"model {self.name} is {what}, and {option} needs whole weights in safetensors files; give such a "
                "folder, or leave the option away"
            )


def load_model(
    source: str | Path,
    dtype: str = "float32",
    device: str = "auto",
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    quantize: str = "none",
) -> LanguageModel:
    """Load a model and its tokenizer.

    Prompts go through the model's chat template, if it has one. Set ``prompt_format`` of the model to "plain" to
    have them read as they are.

    Args:
        source: A hub id, a local folder, a PEFT adapter (merged into its base model), a ``.gguf`` file,
            ``ollama:NAME``, or ``builtin:smollm2``.
        dtype: "float32", "bfloat16", "float16", or "auto": as stored (a GGUF file in bfloat16), but float32 on a
            processor that has no instructions for that format.
        device: "auto" (an accelerator if there is one), a torch device such as "cpu" or "cuda:1", or "balanced" or
            "sequential": spread over all accelerators, or "offload": layers are brought in from disk in turn.
            ("tensor-parallel" is for the commands that torchrun starts.)
        trust_remote_code: Run Python code that comes with the model. Only for code you have read.
        allow_pickle: Also read weights stored as pickle, which can run code hidden in the file.
        quantize: "8bit" or "4bit" to load the weights shortened (bitsandbytes).

    Raises:
        InputError: not found, not readable, without tokenizer, or not a language model.
    """
    check_dtype(dtype)
    check_device(device)
    check_quantize(quantize)
    opened = open_model(source, trust_remote_code=trust_remote_code)
    return opened.load(dtype, device, allow_pickle=allow_pickle, quantize=quantize)


@parsed_once()
def open_model(
    source: str | Path,
    *,
    trust_remote_code: bool = False,
    prompt_format: Literal["chat", "plain"] = "chat",
    moment: datetime | None = None,
) -> ModelSource:
    """Read a model's configuration and tokenizer, and check that it is a language model.

    Args:
        source: As in `load_model`.
        trust_remote_code: As in `load_model`.
        prompt_format: "chat": prompts go through the model's chat template, if it has one; "plain": they never do.
        moment: What a chat template that writes the date takes for now; by default now.

    Raises:
        InputError: not found, not readable, without tokenizer, or not a language model.
    """
    from transformers import AutoConfig

    name = str(source)
    location, gguf_file = locate(name)
    if gguf_file is None and (adapter := adapter_named(name, location)) is not None:
        return _with_base(adapter, trust_remote_code, prompt_format, moment)
    arguments: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not Path(location).exists():
        arguments["local_files_only"] = is_only_cached(location)
    if gguf_file is not None:
        arguments["gguf_file"] = gguf_file
        check_configuration(check_gguf(Path(location, gguf_file)), name, trust_remote_code=trust_remote_code)
    else:
        vet(name, location, arguments)
        check_checkpoint(name, location, arguments)
    try:
        config = AutoConfig.from_pretrained(location, **arguments)
    except Exception as error:  # transformers raises many types here, from OSError to struct.error on a broken GGUF
        raise InputError(refused(name, "configuration can't be read", error)) from error
    check_writes_text(config, name)
    tokenizer = read_tokenizer(name, location, arguments)
    if gguf_file is not None:
        vet(name, location, arguments, tokenizer)
    return ModelSource(
        name,
        location,
        gguf_file,
        config,
        tokenizer,
        trust_remote_code,
        arguments.get("local_files_only", False),
        prompt_format,
        moment or datetime.now(),
    )


def _with_base(
    adapter: Adapter, trust_remote_code: bool, prompt_format: Literal["chat", "plain"], moment: datetime | None
) -> ModelSource:
    """The base model of an adapter, to be merged with it when it is loaded; the adapter's tokenizer, if it has one.

    Raises:
        InputError: the base model can't be opened, is an adapter too, or has fewer embeddings than there are tokens.
    """
    try:
        if adapter_named(adapter.base, locate(adapter.base)[0]) is not None:
            raise InputError(f"{adapter.base} is an adapter itself; merge that one first")
        opened = open_model(
            adapter.base, trust_remote_code=trust_remote_code, prompt_format=prompt_format, moment=moment
        )
    except InputError as error:
        raise InputError(f"model {adapter.name} is an adapter whose base model can't be opened: {error}") from error
    if not (adapter.folder / "tokenizer_config.json").is_file():
        return replace(opened, adapter=adapter)
    folder, arguments = str(adapter.folder), {"trust_remote_code": trust_remote_code, "local_files_only": True}
    check_tokenizer_files(adapter.name, folder)
    tokenizer = read_tokenizer(adapter.name, folder, arguments)
    vet(adapter.name, folder, arguments, tokenizer)
    if opened.embedded_tokens is not None and len(tokenizer) > opened.embedded_tokens:
        raise InputError(
            f"model {adapter.name}: its tokenizer has {len(tokenizer)} tokens, but {adapter.base} embeds "
            f"{opened.embedded_tokens}; merge it with the tool that trained it, and give the merged model"
        )
    return replace(opened, adapter=adapter, tokenizer=tokenizer)


def _with_merged(lm: LanguageModel, adapter: Adapter) -> LanguageModel:
    """A loaded base model with an adapter merged into it, and the names of both."""
    model = merged(lm.model, adapter).eval().requires_grad_(False)
    name = shared_name(adapter.name)
    named = {"name": name, "sha256": adapter.sha256, "base": lm.name}
    return replace(lm, model=model, name=f"{name} on {lm.name}", given=adapter.name, adapter=named)
