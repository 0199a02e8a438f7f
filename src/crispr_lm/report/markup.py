"""Text of strangers as rich prints it unchanged."""

from __future__ import annotations

from rich.markup import escape

from crispr_lm.printable import printable


def markup(text: str) -> str:
    """The text as rich prints it unchanged, but for what `crispr_lm.printable` changes."""
    return escape(printable(text))
