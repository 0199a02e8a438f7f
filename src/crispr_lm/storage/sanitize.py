"""Untrusted text made safe to print: it can't steer the terminal, look like more lines, or show a secret.

Names of tasks and modules, answers of models and messages of other libraries come from elsewhere. In a terminal a few
characters of theirs could move the cursor, change what was printed before, or set the title; brackets could be read as
markup.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
"""Control characters, what turns the direction of text, and what is no character by itself."""

SECRETS = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}"),
    re.compile(r"(?<=://)[^/@\s]+(?=@)"),
    re.compile(r"(?<=[?&]token=)[^&\s]+", re.IGNORECASE),
    re.compile(r"(?<=Bearer )\S+", re.IGNORECASE),
)
"""Tokens of the hub, and what stands in an address before the host or as a token."""

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SHORTEST_SECRET = 6
HIDDEN = "***"


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""The text with control characters written out (``\x1b``) and secrets left out.

    Args:
        text: Anything.
        keep_lines: Whether line breaks and tabs stay what they are (in a model's answer).
    """
    return visible(without_secrets(text), keep_lines=keep_lines)


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""The text with control characters and what turns its direction written out (``\u202e``)."""
    kept = "\n\t" if keep_lines else ""
    return STEERING.sub(lambda match: match[0] if match[0] in kept else _written_out(match[0]), text)


def all_visible(content: Any) -> Any:
    """JSON content with every text in it, keys too, as `visible` writes it; lines stay."""
    if isinstance(content, str):
        return visible(content, keep_lines=True)
    if isinstance(content, dict):
        return {all_visible(key): all_visible(value) for key, value in content.items()}
    return [all_visible(entry) for entry in content] if isinstance(content, (list, tuple)) else content


def without_folders(name: str) -> str:
    """A model, a file or a task (``kind:path``) by the last part of its path: what others may read of it.

    The rest names folders of this machine, and often its user. Ids of the hub and built-in names are no paths: of these
    nothing is left out by whoever calls this for local ones alone.
    """
    kind, separator, path = name.partition(":")
    if separator and kind.isidentifier() and len(kind) > 1:  # one letter is a drive of Windows
        return f"{kind}:{without_folders(path)}"
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or "."


def shared_names(given: Iterable[str]) -> dict[str, str]:
    """What tasks or files are called where it is shared, by the name given: `without_folders`, no two alike."""
    names: dict[str, str] = {}
    for name in given:
        short = without_folders(name)
        stem, dot, ending = short.rpartition(".")
        number = 2
        while short in names.values():
            short = f"{stem} ({number}){dot}{ending}" if dot else f"{ending} ({number})"
            number += 1
        names[name] = short
    return names


def names_apart(first: str, second: str) -> tuple[str, str]:
    """Two files by the last part of their paths, with the nearest folder that differs where that is the same."""
    parts = [re.split(r"[/\\]", name.rstrip("/\\")) for name in (first, second)]
    depths = range(1, max(map(len, parts)) + 1)
    depth = next((depth for depth in depths if parts[0][-depth:] != parts[1][-depth:]), 1)
    ends = [found[-depth:] for found in parts]
    # What is between is the same in both, and names folders of this machine.
    one, two = ("/".join(end if len(end) <= 2 else (end[0], "...", end[-1])).lstrip("/") or "." for end in ends)
    return one, two


def json_line(content: Any, **options: Any) -> str:
    """JSON on one line, readable, in which no character steers a terminal or ends a line of YAML."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, **options)
    return STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def without_secrets(text: str) -> str:
    """The text without tokens of the hub: those in sight, and this machine's own."""
    for secret in _own_secrets():
        text = text.replace(secret, HIDDEN)
    for pattern in SECRETS:
        text = pattern.sub(HIDDEN, text)
    return text


def _own_secrets() -> list[str]:
    """The tokens that this process could be using; looked up only to be left out."""
    found = [os.environ.get(name, "") for name in TOKEN_VARIABLES]
    hub = sys.modules.get("huggingface_hub")  # where nobody has imported it, nobody has read its token
    if hub is not None:
        found.append(hub.get_token() or "")
    return [secret for secret in found if len(secret) >= SHORTEST_SECRET]


def _written_out(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
