"""What a model may not do by itself: run code, lead to files elsewhere, claim to be larger than anything is.

Looked at before transformers reads it, in configuration files and names alone; no weight is touched. Code and pickles
are for the user to allow (``trust_remote_code``, ``allow_pickle``); the rest is refused always.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.storage.untrusted import parse_json, read_bytes

MOST_LAYERS = 10_000
"""Layers, or experts of a layer. The largest published models have some 130 layers and 400 experts."""

COUNTS = re.compile(r"^(num|n)_.*(layer|expert)|(layers|experts|block_count|expert_count)$")
"""Names in a configuration that say how many modules there are: each is an object in memory before any weight is."""

SAFE_NAME = re.compile(r"[\w.-]+\.safetensors(\.index\.json)?", re.ASCII)
"""What a configuration may call the file of its weights."""

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
"""Ends of the names of files that are read as tensors and as nothing else, so that links may lead elsewhere."""


def check_links(folder: Path, name: str) -> None:
    """Check that no file of a local model but its weights is a link to somewhere else: its text could be published.

    Args:
        folder: Where it is.
        name: As the user gave it, for messages.

    Raises:
        InputError: there is one.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix not in WEIGHTS and leads_out(file, folder):
            raise InputError(
                f"model {name}: {file.name} is a link that leads out of the folder; put the file itself there"
            )


def leads_out(file: Path, folder: Path) -> bool:
    """Whether a file of a model's folder is a link to somewhere else, or lies behind one."""
    return not _is_in(file, _homes(folder))


def check_indices(folder: Path, name: str, *, allow_pickle: bool) -> None:
    """Check that what says which weights are in which file of a local model names nothing else than these.

    Args:
        folder: Where it is.
        name: As the user gave it, for messages.
        allow_pickle: Whether files may be named that are stored as pickle.

    Raises:
        InputError: an index can't be read, leads out of the folder, or names a pickle without permission.
    """
    for index in sorted(folder.glob("*.index.json")):
        if allow_pickle or not index.name.startswith("pytorch_model"):  # not read either
            check_index(index, name, allow_pickle=allow_pickle)


def check_index(index: Path, name: str, *, allow_pickle: bool) -> None:
    """Check a single one, which may come from the hub; arguments and errors as of `check_indices`."""
    try:
        files = set(parse_json(read_bytes(index))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model {name}: {index.name} can't be read as an index of weights ({error})") from error
    folder = index.parent
    for file in sorted(map(str, files)):
        outside = Path(file).is_absolute() or ".." in Path(file).parts
        if outside or not _is_in(Path(os.path.normpath(folder / file)).parent, _homes(folder)):
            raise InputError(f"model {name}: {index.name} names {file!r}, which is not in the folder")
        if not file.endswith(".safetensors") and not allow_pickle:
            raise InputError(
                f"model {name}: {index.name} names {file!r}, which is no safetensors file; weights stored as "
                "pickle need --allow-pickle"
            )


def check_tokenizer(content: Mapping[str, Any], location: str, name: str) -> None:
    """Check that a tokenizer's configuration names no file outside of the model: its lines would become words.

    Paths of its author's machine are often left in there; they matter where they lead to something.

    Args:
        content: Of tokenizer_config.json.
        location: Folder or hub id.
        name: Of the model, for messages.

    Raises:
        InputError: it does.
    """
    folder = Path(location)
    homes = _homes(folder) if folder.is_dir() else ()
    for key, value in content.items():
        try:
            leads_out = isinstance(value, str) and Path(value).is_file() and not _is_in(Path(value), homes)
        except (OSError, ValueError):  # no path at all
            continue
        if leads_out:
            raise InputError(f"model {name}: its tokenizer takes {key} = {value!r}, which is not in the folder")


def _homes(folder: Path) -> tuple[Path, ...]:
    """Where a model's files may lie: its folder, and for the hub's own cache the one that its links lead to."""
    inside = folder.resolve()
    return (inside, inside.parent.parent / "blobs") if inside.parent.name == "snapshots" else (inside,)


def _is_in(path: Path, homes: tuple[Path, ...]) -> bool:
    lies = path.resolve()
    return any(lies == home or home in lies.parents for home in homes)


def check_configuration(content: Mapping[str, Any], name: str, *, trust_remote_code: bool) -> None:
    """Check what a model's configuration asks for.

    Args:
        content: Of config.json, or the metadata of a GGUF file.
        name: Of the model, for messages.
        trust_remote_code: Whether it may bring code.

    Raises:
        InputError: more layers or experts than there can be, weights of another form or from elsewhere, or code from
            elsewhere without permission.
    """
    architectures = content.get("architectures")
    if architectures is not None and not (
        isinstance(architectures, list) and all(isinstance(one, str) for one in architectures)
    ):
        raise InputError(f"model {name}: its configuration names no architectures, but {str(architectures)[:80]}")
    weights = content.get("transformers_weights")
    if weights is not None and not (isinstance(weights, str) and SAFE_NAME.fullmatch(weights)):
        raise InputError(
            f"model {name}: its configuration takes the weights from {str(weights)[:80]!r}, which is no safetensors "
            "file of the folder"
        )
    for key, value in _entries(content):
        if COUNTS.search(key) and isinstance(value, (int, float)) and not value <= MOST_LAYERS:
            raise InputError(
                f"model {name}: its configuration has {key} = {str(value)[:20]}, more than can be; it is damaged"
            )
        # "owner/repository": a kernel, that is code, which transformers fetches and runs.
        if key.endswith("_implementation") and isinstance(value, str) and "/" in value and not trust_remote_code:
            raise InputError(
                f"model {name}: its configuration has code fetched from {value}; give --trust-remote-code if you have "
                "read it"
            )


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values, also of configurations within the configuration."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from (
                (str(key) if str(key).endswith("_implementation") else inner, of) for inner, of in _entries(value)
            )
        else:
            yield str(key), value
