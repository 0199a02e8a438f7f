"""JSON and JSON Lines files that a job wrote, read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from crispr_lm.errors import InputError
from crispr_lm.storage.untrusted import parse_json, read_bytes

Row = TypeVar("Row")


MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What reading a file of another shape than ours can raise."""


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run that holds one object.

    Raises:
        InputError: missing, unreadable, or something else.
    """
    try:
        content = parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} can't be read ({why}); give the folder of a finished run") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not what a run writes; give the folder of a finished run")
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file that a killed run may have left with a torn last line (which is dropped).

    Raises:
        InputError: a line before the last is damaged, or the file can't be read.
    """
    return read_rows(path, lambda row: row)


START_ANEW = "give --overwrite to start anew"


def read_rows(path: Path, parse: Callable[[dict[str, Any]], Row], advice: str = START_ANEW) -> list[Row]:
    """Read what `parse` makes of every line of such a file.

    Args:
        path: The file.
        parse: Makes a row of an object, or raises one of `MALFORMED`.
        advice: What to do about a damaged line; the default is for the job that would go on with the file.

    Raises:
        InputError: a line before the last is damaged, or the file can't be read.
    """
    try:
        # Bytes: a line can be torn within a character, and JSON strings may hold what splitlines takes for line ends.
        lines = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}); check the folder") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            if number == len(lines):  # whole lines end with a line break
                break
            raise InputError(f"{path}:{number} is damaged; {advice}") from error
        try:
            if not isinstance(row, dict):
                raise TypeError("no object")
            rows.append(parse(row))
        except MALFORMED as error:
            raise InputError(f"{path}:{number} is not what this version writes; {advice}") from error
    return rows
