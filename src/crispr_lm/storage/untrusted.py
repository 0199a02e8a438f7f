"""Reading untrusted text and JSON with limits, in time linear in their length.

Python's own reader of JSON takes more than JSON allows: numbers that are none, halves of characters that no file can
hold, lists in lists until the stack is full. What it lets through would end a job later, after the work was done.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

DEEPEST = 100
"""Lists and objects within each other; ours have some ten."""

HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
"""Where a string may hold a surrogate, written as an escape or (read by Python from elsewhere) as itself."""

BRACKET = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
"""A string as a whole, or a bracket outside of strings."""


def read_bytes(path: Path) -> bytes:
    """All of a regular file.

    Raises:
        OSError: it can't be read, or is something else than a file.
    """
    check_regular(path)
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Refuse what is there but is no file: a device or a pipe may have no end.

    Raises:
        OSError: it is something else than a file.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is a folder, not a file" if path.is_dir() else "it is a device or a pipe, not a file")


def parse_json(text: str | bytes, *, undefined: bool = False) -> Any:
    """What a JSON text means.

    Args:
        text: The text.
        undefined: Whether NaN and infinities are read, as None: other tools write them for figures that are undefined.

    Raises:
        ValueError: it is not UTF-8 or no JSON, holds NaN, an infinity or half a character, or is nested too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    if _too_deep(text):
        raise ValueError(f"lists and objects are nested more than {DEEPEST} deep")
    content = json.loads(text, parse_constant=_as_none if undefined else _refuse_constant, parse_float=_finite)
    if HALF_CHARACTER.search(text):
        try:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("a string holds half a character (a lone surrogate)") from error
    return content


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    # Brackets in strings do not count; a string that does not end is the JSON reader's to report.
    for match in BRACKET.finditer(text):
        character = text[match.start()]
        if character in "[{":
            depth += 1
            if depth > DEEPEST:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _as_none(name: str) -> None:
    """What NaN and infinities are read as."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is too large a number")
    return number
