"""Checks on the path that a command writes to, before long work starts."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.storage.files import NO_ROOM, PART, is_empty
from crispr_lm.storage.locking import check_free, held

LONGEST_NUMBER = 2**22
"""Of a process on Linux; it stands in the names of temporary files."""

LONGEST_INSIDE = "/".join(["model", PART, "x" * 100])
"""As long a path as a job makes in its folder: a shard of a model's weights has some 40 characters."""

BLOCK = 4096
"""Bytes of a block of common file systems: a full one may still take an empty file."""


def check_writable(path: Path) -> None:
    """Check that `path` can be made or written; leaves nothing behind.

    Raises:
        InputError: it can't.
    """
    if "\0" in str(path):  # a settings file can hold one
        raise InputError(f"{str(path)!r} can't be made: no name has a null character in it; give another path")
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{str(path)!r} can't be used: results name it in UTF-8, which it isn't; rename it") from error
    existing = path
    try:
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        _check_lengths(existing, path)
        is_there, is_folder = existing.exists(), existing.is_dir()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{str(path)[:80]}... can't be made ({reason}); give another path") from error
    if not is_there:
        raise InputError(f"{path} can't be made: {existing} is a link to what does not exist; give another path")
    if existing != path and not is_folder:
        raise InputError(f"{path} can't be made: {existing} is a file; give another path")
    if not os.access(existing, os.W_OK | os.X_OK if is_folder else os.W_OK):
        raise InputError(f"{path} can't be written: no permission in {existing}; give another path")
    if is_folder:
        _try_writing(existing, path)


def check_output_file(path: Path) -> None:
    """Check that a result file can be written, before any work.

    Raises:
        InputError: it is a folder, a device or a pipe, its folder is missing, or there is no permission.
    """
    check_writable(path)
    if path.is_dir():
        raise InputError(f"output {path} is a folder; give a file")
    if not path.parent.is_dir():
        raise InputError(f"output {path}: folder {path.parent} does not exist; make it first")
    if path.exists() and not path.is_file():  # a file would take its place
        raise InputError(f"output {path} is a device or a pipe; give a file")
    check_writable(path.parent)  # it is written beside and renamed


def _try_writing(folder: Path, path: Path) -> None:
    """Write a file that has no name, and is gone at once, into the folder in which `path` would be.

    Permissions do not say whether it can be done: root has all of them in /proc and on a full disk.

    Raises:
        InputError: it can't be done.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".", suffix=PART) as file:
            file.write(bytes(BLOCK))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        advice = "make room there, or give another path" if error.errno in NO_ROOM else "give another path"
        reason = error.strerror or error
        raise InputError(f"{path} can't be written: no file can be made in {folder} ({reason}); {advice}") from error


def _check_lengths(existing: Path, path: Path) -> None:
    """Have the file system say whether names are too long, those of temporary files and of files inside as well.

    Raises:
        OSError: one is.
    """
    folder = existing if existing.is_dir() and existing != path else existing.parent
    for name in path.relative_to(folder).parts:  # of what is not there the system would not look at the rest
        _look_up(folder / f".{name}.{LONGEST_NUMBER}{PART}")
    _look_up(path / LONGEST_INSIDE)


def _look_up(path: Path) -> None:
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise


def check_new(path: Path) -> None:
    """Check that a folder can be written that is not there yet, or empty.

    Raises:
        InputError: it can't, it holds something, or another process is writing into it.
    """
    check_writable(path)
    check_free(path)
    _check_empty(path)


@contextmanager
def held_new(path: Path) -> Iterator[None]:
    """Keep other processes out of a folder that was new before (`check_new`) and must be so still.

    A model may have been loaded in between, time enough for another process to fill the folder. Where the block ends
    with an exception, a folder that was not there is gone again.

    Raises:
        InputError: it holds something by now, or another process is writing into it.
    """
    made = not path.exists()
    try:
        with held(path):
            _check_empty(path)
            yield
    except BaseException:
        if made:
            with suppress(OSError):  # another process has written into it
                path.rmdir()
        raise


def _check_empty(path: Path) -> None:
    if path.exists() and (not path.is_dir() or not is_empty(path)):
        raise InputError(f"output {path} exists and is not an empty folder; give another one")
