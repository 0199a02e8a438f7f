"""Reading task files: texts, tables and JSON documents, with errors that name file and line. Knows no benchmark."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.storage.untrusted import parse_json, read_bytes
from crispr_lm.tasks.forms import binary_form


def text_of(path: Path) -> str:
    """The file's text.

    Raises:
        InputError: it can't be read, or is no UTF-8 text (the line is named, and what it is where that is known).
    """
    try:
        content = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check the path") from error
    # Before decoding: UTF-16 without a mark may pass for UTF-8 text with null characters.
    if form := binary_form(content, path):
        raise InputError(f"{path}:1: {form}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``("file:line", text)`` for every line that is not empty."""
    yield from lines_of(text_of(path), path)


def lines_of(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """The same of a text that was read from `path`; a line ends as Python's files have it."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield f"{path}:{number}", line


def table_rows(path: Path, columns: Sequence[str], delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ``("file:line", row)`` for every row of a table with a header.

    Raises:
        InputError: the file can't be read or is empty, a column is missing, or a row has another number of fields.
    """
    text = _content(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            given = " (the file is JSON, not a table)" if text.lstrip()[:1] in ("{", "[") else ""
            raise InputError(f"{path}:1: column {missing[0]!r} is missing{given}; use the official file")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: {len(reader.fieldnames or ())} fields are needed; use the official file")
            empty = next((column for column in columns if not row[column].strip()), None)
            if empty is not None:
                raise InputError(f"{where}: field {empty!r} is empty; fill it in")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: no table can be read here ({error}); check the file") from error


def json_content(path: Path, *, undefined: bool = False) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        undefined: Whether NaN and infinities are read, as None.

    Raises:
        InputError: it can't be read, is empty, or is no JSON.
    """
    text = _content(path)
    try:
        return parse_json(text, undefined=undefined)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        kind = "a table or text" if text.lstrip()[:1] not in ("{", "[") else f"not valid JSON ({error})"
        raise InputError(f"{path}: {kind}; use the official file, one JSON document") from error


def _content(path: Path) -> str:
    """The text of a file that must hold some."""
    text = text_of(path)
    if not text.strip():
        raise InputError(f"{path}: the file is empty; use the official file")
    return text
