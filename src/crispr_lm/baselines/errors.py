"""What a method raises that can't be run here."""

from __future__ import annotations

from crispr_lm.errors import CrisprError


class NotRunError(CrisprError):
    """A method can't be run here; the message is the reason that tables give."""
