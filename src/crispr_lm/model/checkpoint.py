"""The configuration and tokenizer of a model, read after checks, before any weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, first_line
from crispr_lm.model.trust import check_configuration, check_links, check_tokenizer
from crispr_lm.model.vetting import check_replacements
from crispr_lm.storage.untrusted import parse_json, read_bytes


def read_tokenizer(name: str, location: str, arguments: dict[str, Any]) -> Any:
    """Read a model's tokenizer, with its chat template.

    Args:
        name: What the user calls the model.
        location: Its folder or hub id.
        arguments: For transformers, as for the configuration.

    Raises:
        InputError: there is none, it can't be read, or it can't encode.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

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
    if tokenizer.chat_template is None and "gguf_file" not in arguments:
        tokenizer.chat_template = _template_of_processor(location, arguments.get("local_files_only", False))
    check_replacements(tokenizer, name)
    return tokenizer


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
        raise InputError(f"{file} can't be read as a chat template ({first_line(error)})") from error
    return template if isinstance(template, str) else None


def check_checkpoint(name: str, location: str, arguments: dict[str, Any]) -> None:
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
        raise InputError(f"model {name}: configuration can't be read: {first_line(error)}") from error
    check_configuration(content, name, trust_remote_code=arguments["trust_remote_code"])
    check_tokenizer(of_tokenizer, location, name)
    if adapter is not None:  # transformers would load another model, the one that the adapter names
        raise InputError(
            f"model {name}: an adapter (LoRA) lies there beside a whole model; give one of the two in a folder of its "
            "own"
        )


def check_tokenizer_files(name: str, folder: str) -> None:
    """Check a folder's tokenizer configuration before any class is made of it.

    Raises:
        InputError: it can't be read, or leads out of the folder.
    """
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        content = get_tokenizer_config(folder, local_files_only=True)
    except Exception as error:  # of many types
        raise InputError(f"model {name}: its tokenizer's configuration can't be read: {first_line(error)}") from error
    check_tokenizer(content, folder, name)


def refused(name: str, what: str, error: BaseException) -> str:
    """Why transformers does not take a model, as a sentence: `what` can't be done, and the error."""
    if "trust_remote_code" in str(error):
        return f"model {name} comes with Python code of its own; give --trust-remote-code if you have read that code"
    return f"model {name}: {what}: {first_line(error)}"


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
    return refused(
        name, "no tokenizer that can be loaded; put its files (tokenizer.json, ...) beside the weights", error
    )


def check_complete(name: str, model: Any, missing_keys: Iterable[str]) -> None:
    """Refuse a loaded model that lacks weights.

    Raises:
        InputError: it does; the first of them is named.
    """
    if missing := sorted(missing_keys):
        # transformers fills these with random numbers; any figure measured on them would be noise.
        raise InputError(
            f"model {name}: the checkpoint lacks {len(missing)} weights of {type(model).__name__} "
            f"(first: {missing[0]}); it is incomplete, or of a model that does not write text"
        )
