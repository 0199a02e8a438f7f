"""Writing files so that nothing is ever half-written: to a temporary name, flushed, then renamed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crispr_lm.errors import CrisprError, InputError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        InputError: the folder does not exist, can't be written to, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path} can't be written ({error.strerror or error}); check the folder and the disk"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write an object as readable JSON, atomically.

    Raises:
        InputError: as `write_bytes`.
        CrisprError: a number in it is not finite: JSON has none, and no result may be one.
    """
    text = _json(content, path, indent=2)
    # Innermost lists (a neuron, some names) read better on one line. Strings hold no raw line breaks: none is hit.
    text = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda match: "[" + re.sub(r"\n\s+", " ", match[1]) + "]", text)
    write_bytes(path, (text + "\n").encode("utf-8"))


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write objects as JSON Lines, atomically."""
    lines = (_json(row, path) + "\n" for row in rows)
    write_bytes(path, "".join(lines).encode("utf-8"))


def append_line(path: Path, content: Any) -> None:
    """Append one object as a line of JSON, flushed to the disk."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(_json(content, path) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror or error}); check the folder and the disk"
        ) from error


def _json(content: Any, path: Path, indent: int | None = None) -> str:
    try:
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise CrisprError(f"{path} would hold a number that is NaN or infinite, so it is not written") from error
