"""Reading JSON Lines with errors that name the file and the line. Knows no benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.reading import check_regular, no_text, parse_json

LONGEST_LINE = 2**24
"""Characters of a line, all of which are in memory at once. No model reads a text of this length."""


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file:line", object)`` for every non-empty line of a JSON Lines file.

    Raises:
        InputError: the file can't be read, or a line is not a JSON object.
    """
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), ""), start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                if len(line) == LONGEST_LINE:
                    raise InputError(f"{where}: a line of more than {LONGEST_LINE:,} characters; leave the row out")
                try:
                    row = parse_json(line)
                except json.JSONDecodeError as error:  # it counts lines within the row
                    told = f"{error.msg} at character {error.pos + 1} of the line"
                    raise InputError(f"{where}: not valid JSON ({told}); every line must be one JSON object") from error
                except ValueError as error:
                    raise InputError(
                        f"{where}: not valid JSON ({error}); every line must be one JSON object"
                    ) from error
                if not isinstance(row, dict):
                    raise InputError(f"{where}: a JSON {type(row).__name__}, but every line must be one JSON object")
                yield where, row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{_undecodable_line(path)}: {no_text(path)}") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check the path") from error


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def text_field(row: dict[str, Any], name: str, where: str, *, may_be_empty: bool = False) -> str:
    """Return the string `row[name]`, or raise `InputError` naming file and line."""
    if name not in row:
        raise InputError(f"{where}: field {name!r} is missing; add it")
    value = row[name]
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r} must be a string, not {value!r}")
    if not value.strip() and not may_be_empty:
        raise InputError(f"{where}: field {name!r} is empty; fill it in")
    return value


def index_field(row: dict[str, Any], name: str, count: int, where: str) -> int:
    """Return the integer `row[name]` in 0..count-1, or raise `InputError` naming file and line."""
    if name not in row:
        raise InputError(f"{where}: field {name!r} is missing; add it")
    value = row[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(
            f"{where}: field {name!r} must be the index of an option (an integer), not {value!r}; give one"
        )
    if not 0 <= value < count:
        raise InputError(
            f"{where}: field {name!r} is {value}, out of range for {count} options (0 to {count - 1}); give one"
        )
    return value


def check_options(options: list[str], where: str) -> tuple[str, ...]:
    """Return `options` as a tuple, or raise `InputError` if there are fewer than two or two are equal."""
    if len(options) < 2:
        raise InputError(f"{where}: {len(options)} answer option(s); at least two are needed")
    seen: dict[str, int] = {}
    for index, option in enumerate(options):
        key = option.strip()
        if key in seen:
            raise InputError(
                f"{where}: options {seen[key]} and {index} are equal ({option!r}); make them differ, "
                "or leave the row out"
            )
        seen[key] = index
    return tuple(options)
