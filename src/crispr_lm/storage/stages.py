"""Stages of the trials in ``search.jsonl`` and ``results.json``, by name, for what writes and what reads them."""

from __future__ import annotations

JUDGING = ("final", "control")
"""Stages of trials that propose no new edit: they re-evaluate or compare those that are there."""
