"""Models of Ollama by name: where the GGUF file of ``ollama:llama3.2`` is on this machine.

Ollama keeps ``manifests/HOST/NAMESPACE/NAME/TAG``, a JSON list of layers, and ``blobs/sha256-DIGEST``. The layer of the
model is a GGUF file without an ending. Nothing is asked of a running Ollama, and nothing is downloaded. Knows files.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, nearest
from crispr_lm.storage.untrusted import parse_json, read_bytes

SCHEME = "ollama:"
HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
"""What Ollama takes where a name does not say."""

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[0-9]+)?")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
LAYER = "application/vnd.ollama.image."


def ollama_folder() -> Path:
    """Where Ollama keeps its models: ``OLLAMA_MODELS``, or ``~/.ollama/models``."""
    return Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models")


def ollama_file(name: str) -> Path:
    """The GGUF file of a model of Ollama.

    Args:
        name: ``ollama:NAME``, with ``NAMESPACE/`` and ``:TAG`` where they are not Ollama's own.

    Raises:
        InputError: no Ollama, no such model, or one that is no single GGUF file; the reason is given.
    """
    folder = ollama_folder()
    manifests = folder / "manifests"
    if not manifests.is_dir():
        raise InputError(
            f"model {name}: Ollama has no models in {folder}; set OLLAMA_MODELS to their folder, or give a .gguf file"
        )
    manifest = manifests.joinpath(*_parts(name))
    if not manifest.is_file():
        known = _known(manifests)
        asked = name.removeprefix(SCHEME)
        there = f"; there is: {', '.join(known[:10])}" if known else ""
        raise InputError(
            f"model {name}: Ollama has no {asked!r} here{nearest(asked, known)}{there} "
            f"(ollama pull {shlex.quote(asked)} fetches it)"
        )
    try:
        content = parse_json(read_bytes(manifest))
        layers = {str(layer["mediaType"]): layer for layer in content["layers"]}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"model {name}: Ollama's manifest {manifest} can't be read; pull the model again") from error
    return _blob(name, folder, layers)


def _parts(name: str) -> tuple[str, str, str, str]:
    """Host, namespace, name and tag, none of which leads out of the folder."""
    path, _, tag = name.removeprefix(SCHEME).partition(":") if "/" not in name else _with_tag(name)
    parts = path.split("/")
    whole = [HOST, NAMESPACE][: max(0, 3 - len(parts))] + parts
    if len(whole) != 3 or not all(PART.fullmatch(part) for part in (*whole, tag or TAG)):
        raise InputError(f"model {name} is no name of Ollama's; write ollama:NAME, ollama:NAME:TAG or "
                         "ollama:NAMESPACE/NAME:TAG")  # fmt: skip
    return whole[0], whole[1], whole[2], tag or TAG


def _with_tag(name: str) -> tuple[str, str, str]:
    """The same of a name with slashes, whose host may have a port: the tag is behind the last slash."""
    before, _, last = name.removeprefix(SCHEME).rpartition("/")
    stem, colon, tag = last.partition(":")
    return f"{before}/{stem}", colon, tag


def _known(manifests: Path) -> list[str]:
    """Models that are there, as a user names them."""
    names = []
    for file in sorted(manifests.glob("*/*/*/*")):
        host, namespace, stem, tag = file.relative_to(manifests).parts
        start = (
            ""
            if (host, namespace) == (HOST, NAMESPACE)
            else f"{namespace}/"
            if host == HOST
            else f"{host}/{namespace}/"
        )
        names.append(start + stem + ("" if tag == TAG else f":{tag}"))
    return names


def _blob(name: str, folder: Path, layers: Mapping[str, Any]) -> Path:
    model = layers.get(f"{LAYER}model")
    if model is None:
        kind = "as single tensors" if f"{LAYER}tensor" in layers else "in no form that is known here"
        raise InputError(f"model {name}: Ollama keeps its weights {kind}, not as a GGUF file; give the model's hub id")
    if f"{LAYER}adapter" in layers:  # without it, it would be another model
        raise InputError(
            f"model {name}: Ollama runs it with an adapter beside the weights; give the adapter's PEFT folder, or a "
            "merged model"
        )
    digest = DIGEST.fullmatch(str(model.get("digest")))
    if digest is None:
        raise InputError(f"model {name}: Ollama's manifest names no file of the weights; pull the model again")
    blob = folder / "blobs" / f"sha256-{digest[1]}"
    size = model.get("size")
    if not blob.is_file() or (isinstance(size, int) and blob.stat().st_size != size):
        raise InputError(f"model {name}: Ollama's file of the weights is missing or incomplete; pull the model again")
    return blob
