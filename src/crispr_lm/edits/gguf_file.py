"""A GGUF file with an edit: rows of zero bytes, all other bytes as they were; and the way back."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.edits.gguf_rows import Row
from crispr_lm.errors import EditMismatchError, InputError, VerificationError
from crispr_lm.storage.files import PART, write_bytes, write_errors, write_json
from crispr_lm.storage.untrusted import parse_json, read_bytes

UNDO_FORMAT = "crispr-lm-gguf-undo"
UNDO_VERSION = 1

CHUNK = 2**24
"""Bytes that are read at once."""

Place = tuple[int, bytes]
"""Where bytes stand in a file, and what they are."""


def write_edited(source: Path, rows: Sequence[Row], target: Path) -> None:
    """Write a copy of a GGUF file with rows of zeros, completely or not at all.

    Raises:
        VerificationError: another byte has changed, or one of a row has not.
        WriteError: the file can't be written.
    """
    zeros = [(row.begin, bytes(row.length)) for row in rows]
    temporary = target.with_name(f".{target.name}.{os.getpid()}{PART}")
    with write_errors(target):
        try:
            shutil.copyfile(source, temporary)
            _overwrite(temporary, zeros)
            if sha256(temporary) != sha256(source, zeros):
                raise VerificationError(f"{target} was not written as it should be; check the disk")
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def edit_in_place(path: Path, rows: Sequence[Row], undo: Path) -> None:
    """Set rows of a GGUF file to zero, after what `restore` needs has been written to the file `undo`.

    Raises:
        WriteError: a file can't be written.
    """
    zeros = [(row.begin, bytes(row.length)) for row in rows]
    with path.open("rb") as file:
        before = [(row.begin, _read(file, row.begin, row.length)) for row in rows]
    content = {
        "format": UNDO_FORMAT,
        "version": UNDO_VERSION,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "sha256_edited": sha256(path, zeros),
        "places": [[begin, base64.b64encode(of).decode("ascii")] for begin, of in before],
    }
    write_json(undo, content)
    with write_errors(path):
        _overwrite(path, zeros)


def is_undo(path: Path) -> bool:
    """Whether a file is one that `edit_in_place` has written for `restore`."""
    try:
        content = parse_json(read_bytes(path))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == UNDO_FORMAT


def restore(path: Path, undo: Path) -> str:
    """Put the bytes back that `edit_in_place` has changed, also where it was interrupted.

    Returns:
        The SHA-256 of the file, that of the original.

    Raises:
        EditMismatchError: the file would not be the original then; nothing is written.
        InputError: the record can't be read.
        WriteError: the file can't be written.
    """
    content = _read_undo(undo)
    places = [(begin, base64.b64decode(of, validate=True)) for begin, of in content["places"]]
    if path.stat().st_size != content["bytes"] or sha256(path, places) != content["sha256"]:
        raise EditMismatchError(f"{undo} was not written for {path}: with its bytes it would not be the original file")
    with write_errors(path):
        _overwrite(path, places)
    return str(content["sha256"])


def modelfile_of(target: Path) -> Path:
    """Where the Modelfile of a GGUF file goes: beside it, with its name."""
    return target.with_suffix(".Modelfile")


def write_modelfile(target: Path) -> Path:
    """Write what Ollama makes a model of, beside a GGUF file and by its name: ``ollama create NAME -f FILE``.

    The chat template and all settings are those within the GGUF file.
    """
    path = modelfile_of(target)
    write_bytes(path, f"FROM ./{target.name}\n".encode())
    return path


def sha256(path: Path, instead: Sequence[Place] = ()) -> str:
    """SHA-256 of a file, or of what it would be with other bytes in some places."""
    digest = hashlib.sha256()
    at = 0
    with path.open("rb") as file:
        for begin, content in sorted(instead):
            _feed(file, at, begin, digest)
            digest.update(content)
            at = begin + len(content)
        _feed(file, at, path.stat().st_size, digest)
    return digest.hexdigest()


def _feed(file: Any, begin: int, end: int, digest: Any) -> None:
    while begin < end:
        content = _read(file, begin, min(CHUNK, end - begin))
        if not content:  # it has become shorter meanwhile
            return
        digest.update(content)
        begin += len(content)


def _read(file: Any, begin: int, length: int) -> bytes:
    file.seek(begin)
    content: bytes = file.read(length)
    return content


def _overwrite(path: Path, places: Sequence[Place]) -> None:
    with path.open("rb+") as file:
        for begin, content in places:
            file.seek(begin)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_undo(path: Path) -> Mapping[str, Any]:
    """The record of an edit in place, each of its places within the file and behind the one before.

    Raises:
        InputError: it is none.
    """
    try:
        content: Mapping[str, Any] = parse_json(read_bytes(path))
        at = 0
        for begin, of in content["places"]:
            if type(begin) is not int or begin < at:
                raise ValueError(f"place {begin} is not behind the one before")
            at = begin + len(base64.b64decode(of, validate=True))
        if content["version"] != UNDO_VERSION or not at <= content["bytes"] or not isinstance(content["sha256"], str):
            raise ValueError("it is of another version, or its places lie beyond the file's end")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} can't be read as the record of an edit ({error}); give the file of --undo") from error
    return content
