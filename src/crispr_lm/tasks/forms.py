"""What a file is that is not what its reader expects, and the command that converts it. Knows no benchmark.

Users give tables, JSON arrays and UTF-16 for JSON Lines. Each is recognised from the content (names may lie) and never
read in its place: an explicit conversion shows the user which rows and fields there are.
"""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import Any

from crispr_lm.storage.untrusted import parse_json

PACKED = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive",
}
"""What a file begins with that holds others, and what it is."""

TABLES = {
    "a Parquet file": ("read_parquet", "pyarrow"),
    "an Arrow file": ("read_feather", "pyarrow"),
    "an Excel workbook": ("read_excel", "openpyxl"),
}
"""Binary tables: the function of pandas that reads one, and the package that pandas needs for it."""

UTF_16_AND_32 = {  # those of UTF-32 first: the little-endian one begins with that of UTF-16
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""Byte order marks and Python's names of the encodings that read them."""

HEAD = 1000
"""Bytes from which UTF-16 without a mark is recognised: some hundred characters, whatever the length of the file."""

LONGEST_COLUMN_NAME = 60
"""Characters; what is longer before a comma is a sentence and not the name of a column."""

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons"}


def binary_form(content: bytes, path: Path) -> str | None:
    """What a file is that is no UTF-8 text, and what to do, in words that follow its place; None if none is known."""
    if content.startswith((b"PAR1", b"ARROW1")):
        return _table(f"{'a Parquet' if content.startswith(b'PAR1') else 'an Arrow'} file", path)
    # The names of a zip archive's files stand uncompressed in it.
    if content.startswith(b"PK\x03\x04") and b"xl/workbook.xml" in content:
        return _table("an Excel workbook", path)
    packed = next((what for start, what in PACKED.items() if content.startswith(start)), None)
    if packed is not None:
        return f"{packed}; unpack it first"
    encoding = _wide_encoding(content)
    if encoding is None:
        return None
    code = (
        f"import sys; open(sys.argv[2], 'w', encoding='utf-8').write(open(sys.argv[1], encoding='{encoding}').read())"
    )
    name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
    return f"{name} text, not UTF-8; {_convert(code, path, path.suffix or '.jsonl')}"


def _wide_encoding(content: bytes) -> str | None:
    """Python's name of the UTF-16 or UTF-32 that a text is in; ASCII characters in UTF-16 have a zero byte each."""
    for mark, encoding in UTF_16_AND_32.items():
        if content.startswith(mark):
            return encoding
    head = content[:HEAD]
    for first, encoding in ((0, "utf-16-be"), (1, "utf-16-le")):
        # More than half of one byte's places, and none of the other's: binary data have both.
        if head[first::2].count(0) * 4 > len(head) and not head[1 - first :: 2].count(0):
            return encoding
    return None


def text_form(text: str, path: Path) -> str | None:
    """What a text is that should be JSON Lines, and what to do; None if it is nothing else that is known."""
    beginning = text.lstrip()[:1]
    if beginning in ("[", "{"):
        return _json_form(text, path)
    delimiter = _delimiter(text)
    if delimiter is None:
        return None
    given = "" if delimiter == "," else f", delimiter={delimiter!r}"
    rows = f"csv.DictReader(open(sys.argv[1], encoding='utf-8-sig', newline=''){given})"
    return f"a table with {DELIMITERS[delimiter]}, not JSON Lines; {_convert(_written(rows, 'csv, '), path)}"


def _json_form(text: str, path: Path) -> str | None:
    try:
        content = parse_json(text)
    except ValueError:
        return None
    opened = "json.load(open(sys.argv[1], encoding='utf-8-sig'))"
    if _is_rows(content):
        return f"a JSON array, not JSON Lines; {_convert(_written(opened), path)}"
    if not isinstance(content, dict):
        return None
    lists = [name for name, value in content.items() if _is_rows(value) and name.isidentifier()]
    if len(lists) == 1 and (len(content) == 1 or len(text.strip().splitlines()) > 1):
        name = lists[0]
        code = _written(f"{opened}['{name}']")
        return f"one JSON object with a list {name!r}, not JSON Lines; {_convert(code, path)}"
    if len(text.strip().splitlines()) > 1:
        return f"one JSON object on several lines, not JSON Lines; {_convert(_written(f'[{opened}]'), path)}"
    return None


def _is_rows(content: Any) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(row, dict) for row in content)


def _delimiter(text: str) -> str | None:
    """What separates the fields of a table with a header, None if the text is no such table."""
    for delimiter in sorted(DELIMITERS, key=text.partition("\n")[0].count, reverse=True):
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header, row = next(rows, []), next(rows, None)
        except csv.Error:
            continue
        names = [name.strip() for name in header]
        named = all(names[1:]) and len(set(names)) == len(names)  # an index of rows has no name
        short = all(len(name) <= LONGEST_COLUMN_NAME for name in names)
        if len(names) > 1 and named and short and (row is None or len(row) == len(names)):
            return delimiter
    return None


def _table(what: str, path: Path) -> str:
    function, package = TABLES[what]
    code = f"import pandas, sys; pandas.{function}(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True)"
    return f"{what}, not text; {_convert(code, path)} (this needs: pip install pandas {package})"


def _written(rows: str, modules: str = "") -> str:
    """Python that writes `rows`, an expression, as JSON Lines."""
    lines = f"json.dumps(row) + '\\n' for row in {rows}"
    return f"import {modules}json, sys; open(sys.argv[2], 'w', encoding='utf-8').writelines({lines})"


def _convert(code: str, path: Path, suffix: str = ".jsonl") -> str:
    """Advice with a command for any shell; the file is written by Python, as PowerShell's ">" writes UTF-16."""
    target = path.with_name(f"{path.stem}-converted{suffix}")
    return f'convert it with: python -c "{code}" {shlex.quote(str(path))} {shlex.quote(str(target))}'
