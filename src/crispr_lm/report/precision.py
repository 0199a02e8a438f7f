"""How wide intervals will be, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def precision_sentences(found: Mapping[str, Any]) -> list[str]:
    """What `crispr_lm.jobs.question_check.precision` found, with its formula."""
    formula = (
        f"half-width = t(0.975, g − 1) · s / √g of g test templates, with s = {found['spread']} as in earlier edits"
    )
    return [f"{width_sentence(found)}.", f"{needed_sentence(found)} ({formula}; it may be half or twice that)."]


def width_sentence(found: Mapping[str, Any]) -> str:
    """How wide the interval will be, without a full stop."""
    count, width = found["test_templates"], found["half_width"]
    if width is None:
        return f"{'One template' if count == 1 else 'No template'} in the test split: no interval is possible"
    return f"{count} templates in the test split: a change in accuracy will have a 95 % interval of about ±{width:.2f}"


def needed_sentence(found: Mapping[str, Any]) -> str:
    """How many templates narrower intervals need, without a full stop."""
    return "An interval of " + ", and one of ".join(
        f"±{float(wanted):.2f} needs about {count} templates in all" for wanted, count in found["needed"].items()
    )
