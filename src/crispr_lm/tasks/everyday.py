"""The task ``builtin:everyday``: original questions in the form of BBQ that come with the library.

Turns the templates of ``data/everyday.toml`` into rows of the official BBQ JSONL form
(`crispr_lm.tasks.expansion` makes them). No randomness: always the same rows.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from crispr_lm.tasks.base import AMBIGUOUS
from crispr_lm.tasks.expansion import Row, expand
from crispr_lm.tasks.templates import TemplateFile, parse_templates

POLARITIES = ("neg", "nonneg")


def everyday_rows() -> list[dict[str, Any]]:
    """Return the questions as rows of the official BBQ form."""
    return [_bbq_row(row, number) for number, row in enumerate(expand(everyday_templates()))]


def everyday_templates() -> TemplateFile:
    """The templates that the questions are made from."""
    text = (resources.files("crispr_lm.tasks") / "data" / "everyday.toml").read_text(encoding="utf-8")
    return parse_templates(text, "everyday.toml")


def _bbq_row(row: Row, number: int) -> dict[str, Any]:
    template, pair = row.unit.template, row.unit.pair
    # What stands for each answer: a phrase and the group.
    information = (
        [pair[0].removeprefix("the "), template.stereotyped_group],
        [pair[1].removeprefix("the "), template.other_group],
        [row.unknown, "unknown"],
    )
    names = [f"ans{position}" for position in range(len(row.order))]
    return {
        "example_id": number,
        "question_index": template.name,
        "question_polarity": POLARITIES[row.polarity],
        "context_condition": "ambig" if row.condition == AMBIGUOUS else "disambig",
        "category": template.category,
        "answer_info": {name: information[role] for name, role in zip(names, row.order, strict=True)},
        "additional_metadata": {
            "subcategory": "None",
            "stereotyped_groups": [template.stereotyped_group],
            "version": "a",
            "source": f"crispr-lm everyday: {template.stereotype}",
        },
        "context": row.context,
        "question": row.question,
        **dict(zip(names, row.options, strict=True)),
        "label": row.order.index(row.gold),
    }
