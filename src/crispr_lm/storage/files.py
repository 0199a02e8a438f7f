"""Writing files so that nothing is ever half-written: to a temporary name, flushed, then renamed.

What a killed process has left under a temporary name is known by its ending (`PART`) and removed by the next one.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from crispr_lm.errors import CrisprError, WriteError

PART = ".part"
"""Ends the temporary name of a file that is being written; the name of the folder that one is written in."""

LOCK = ".lock"
"""Held by the process that writes into a folder, and removed by it while it still holds it (`storage.locking`)."""

LOADABLE = ("config.json", "adapter_config.json")
"""Files that make a folder one that can be loaded; they come last and go first."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        WriteError: the folder does not exist, can't be written to, or the disk is full.
    """
    with _replacing(path) as file:
        file.write(data)


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
    with _replacing(path) as file:
        for row in rows:
            file.write(_line(row, path))


def append_line(path: Path, content: Any) -> None:
    """Append one object as a line of JSON, flushed to the disk: the whole line, or nothing.

    Raises:
        WriteError: as `write_bytes`.
        CrisprError: a number in it is not finite.
    """
    line = memoryview(_line(content, path))
    with write_errors(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(before)
            raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into; what is in it takes the place of what is in `path` once the block ends well.

    Until then it lies within `path`, which may be a mount point, or in a folder that is not ours to write. Where the
    block ends with an exception nothing of it is left, and what was in `path` stays as it was. The caller keeps other
    processes out of `path`, or of a folder above it.

    Raises:
        WriteError: as `write_bytes`.
    """
    made, part = not path.exists(), path / PART
    with write_errors(path):
        try:
            if part.exists():  # a process was killed here
                shutil.rmtree(part)
            part.mkdir(parents=True)
            yield part
            _open_as_usual(part)
            _flush(part)
            for old in sorted(path.iterdir(), key=lambda entry: entry.name not in LOADABLE):
                if old.name not in (PART, LOCK):
                    shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            for new in sorted(part.iterdir(), key=lambda entry: entry.name in LOADABLE):
                new.replace(path / new.name)
            part.rmdir()
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if made:
                with suppress(OSError):
                    path.rmdir()
            raise


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        WriteError: it can't be made.
    """
    with write_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a process has there that writes into it, or was killed as it did."""
    return all(entry.name in (PART, LOCK) for entry in folder.iterdir())


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder that no other process writes to."""
    for path in folder.glob(f".*{PART}"):
        if path.is_file():
            path.unlink()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Say in one sentence why the system refuses to write a file or folder.

    Raises:
        WriteError: in place of the system's error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # The safetensors library gives the system's error number only in its text.
        match = re.search(r"\(os error (\d+)\)", str(error))
        number = int(match[1]) if match else getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error).strip().split("\n")[0]
        advice = "make room there" if number in NO_ROOM else "check folder and disk"
        raise WriteError(f"{path} can't be written ({reason}); {advice}, then give the same command again") from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to that takes the place of `path` once the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    with write_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # Ctrl-C can come here too
            temporary.unlink(missing_ok=True)
            raise


def _line(row: Any, path: Path) -> bytes:
    return (_json(row, path) + "\n").encode("utf-8")


def _open_as_usual(folder: Path) -> None:
    """Give all files the permissions of a new file here, whoever wrote or copied them: some are the owner's alone."""
    probe = folder / f".{PART}"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            with suppress(PermissionError):  # of a file system that keeps none
                path.chmod(mode & 0o777)


def _flush(folder: Path) -> None:
    """Have the system write all files of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _json(content: Any, path: Path, indent: int | None = None) -> str:
    try:
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise CrisprError(f"{path} would hold a number that is NaN or infinite, so it is not written") from error
