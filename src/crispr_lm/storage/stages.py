"""Stages of the trials in ``search.jsonl`` and ``results.json``, by name, for what writes and what reads them."""

from __future__ import annotations

JUDGING = ("final", "control")
"""Stages of trials that bring no new edit into question: they judge those that are there."""
