"""One process at a time in an output folder. Knows nothing of what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from crispr_lm.errors import InputError
from crispr_lm.storage.files import LOCK, write_errors

PATIENCE = 0.2
"""Seconds for the moment that FileLock needs when a lock was removed just then.

Who has opened the file just before it was removed would hold a file that nobody else finds: FileLock (from 3.30) lets
go of such a one and opens the file again.
"""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs, and make it first; a process that is killed lets go.

    Raises:
        InputError: another process is writing here.
        WriteError: the folder can't be made or written to.
    """
    path = folder / LOCK
    lock = FileLock(path)
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise InputError(
                f"another process is writing to {folder} now; wait until it is done, or give another folder"
            ) from error
    own = _identity(path)
    try:
        yield
    finally:
        try:
            _remove_lock(path, own)
        except BaseException:  # Ctrl-C or SIGTERM just now must not leave it behind
            _remove_lock(path, own)
            raise
        finally:
            lock.release()


def check_free(folder: Path) -> None:
    """Check that no other process holds a folder; a lock that a killed one has left is removed.

    Raises:
        InputError: another process is writing there.
    """
    if (folder / LOCK).exists():
        with held(folder):
            pass


def _identity(path: Path) -> tuple[int, int] | None:
    """What distinguishes a file from an earlier or later one of the same name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove_lock(path: Path, own: tuple[int, int] | None) -> None:
    """Remove a lock that this process holds; once it is gone, the file of that name is another process's.

    What can't be removed (the disk is read-only now, or the system keeps open files) stays: nobody holds it any more.
    """
    with suppress(OSError):
        if own is not None and _identity(path) == own:
            path.unlink()
