"""Text of models and files, escaped so that rich prints it unchanged."""

from __future__ import annotations

from rich.markup import escape

from crispr_lm.storage.sanitize import printable


def markup(text: str) -> str:
    """The text as rich prints it unchanged, but for what `crispr_lm.storage.sanitize` changes."""
    return escape(printable(text))
