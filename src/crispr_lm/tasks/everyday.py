"""The task ``builtin:everyday``: original questions in the form of BBQ that come with the library.

Turns the templates of ``data/everyday.toml`` into rows of the official BBQ JSONL form. Each template and pair
of people gives eight rows: {negative, non-negative question} x {ambiguous, disambiguated context} x {the two
mention orders or, where disambiguated, the two role assignments}. No randomness: always the same rows.

Knows nothing about models, prompts or tokens, nor what is made of the rows.
"""

from __future__ import annotations

import sys
from importlib import resources
from itertools import product
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

POLARITIES = ("neg", "nonneg")
CONDITIONS = ("ambig", "disambig")
VARIANTS = (0, 1)
"""Ambiguous: who is mentioned first. Disambiguated: who the target is. 0 is the stereotyped person."""

UNKNOWN_ANSWERS = (
    "Cannot be determined",
    "Not enough information",
    "It is not stated",
    "Unknown",
    "Impossible to tell",
    "The text does not say",
    "Not known",
    "There is no way to know",
)
"""As many as there are rows to a template and pair, so that each comes equally often."""

STEREOTYPED, OTHER, UNKNOWN = range(3)
ANSWER_ORDERS = (
    (STEREOTYPED, OTHER, UNKNOWN),
    (OTHER, UNKNOWN, STEREOTYPED),
    (UNKNOWN, STEREOTYPED, OTHER),
    (OTHER, STEREOTYPED, UNKNOWN),
    (STEREOTYPED, UNKNOWN, OTHER),
    (UNKNOWN, OTHER, STEREOTYPED),
)
"""All orders. In the first three, and in the last three, each answer takes each position once."""


def everyday_rows() -> list[dict[str, Any]]:
    """Return the questions as rows of the official BBQ form."""
    rows: list[dict[str, Any]] = []
    for template_number, template in enumerate(_templates()):
        for pair_number in range(len(template["pairs"])):
            rows += _rows_of_pair(template, template_number, pair_number, first_id=len(rows))
    return rows


def _templates() -> list[dict[str, Any]]:
    text = (resources.files("crispr_lm.tasks") / "data" / "everyday.toml").read_text(encoding="utf-8")
    templates: list[dict[str, Any]] = tomllib.loads(text)["template"]
    return templates


def _rows_of_pair(
    template: dict[str, Any], template_number: int, pair_number: int, first_id: int
) -> list[dict[str, Any]]:
    """The eight rows of a template with one pair of people."""
    pair: list[str] = template["pairs"][pair_number]
    questions = (template["negative_question"], template["nonnegative_question"])
    rows: list[dict[str, Any]] = []
    for number, (polarity, condition, variant) in enumerate(product(range(2), CONDITIONS, VARIANTS)):
        if condition == "ambig":
            context = _ambiguous(template, pair, swapped=variant == 1)
            gold = UNKNOWN
        else:
            # The mention order alternates over pairs and templates; tied to the roles it would reveal them.
            context = _ambiguous(template, pair, swapped=(variant + pair_number + template_number) % 2 == 1)
            context += " " + _disambiguation(template, pair, target=variant)
            # The negative question asks for the target, the non-negative one for the other person.
            gold = STEREOTYPED if variant == polarity else OTHER
        # Three pairs take three rotations, so each answer comes equally often at each position within every
        # template, condition, polarity and variant, whichever part of a split the template lands in. Mirrored
        # orders change with every second template, out of step with the mention order.
        rotation = (pair_number + template_number) % 3
        mirrored = (variant + polarity + template_number // 2) % 2
        order = ANSWER_ORDERS[rotation + 3 * mirrored]
        # The shift from pair to pair takes each phrasing through all kinds of row.
        unknown = UNKNOWN_ANSWERS[(number + first_id // 8) % len(UNKNOWN_ANSWERS)]
        rows.append(
            {
                "example_id": first_id + number,
                "question_index": template["question_index"],
                "question_polarity": POLARITIES[polarity],
                "context_condition": condition,
                "category": template["category"],
                "answer_info": _answer_info(template, pair, unknown, order),
                "additional_metadata": {
                    "subcategory": "None",
                    "stereotyped_groups": [template["stereotyped_group"]],
                    "version": "a",
                    "source": f"crispr-lm everyday: {template['stereotype']}",
                },
                "context": context,
                "question": questions[polarity],
                **_answers(pair, unknown, order),
                "label": order.index(gold),
            }
        )
    return rows


def _ambiguous(template: dict[str, Any], pair: list[str], swapped: bool) -> str:
    """The context that does not give the answer; `swapped` mentions the person of the other group first."""
    first, second = reversed(pair) if swapped else pair
    return _filled(template["context"], first=first, second=second)


def _disambiguation(template: dict[str, Any], pair: list[str], target: int) -> str:
    """What settles who is who; `target` is the index of the person that the negative question asks for."""
    return _filled(template["disambiguation"], target=pair[target], nontarget=pair[1 - target])


def _filled(text: str, **people: str) -> str:
    """Fill ``{name}`` with the person's phrase and ``{Name}`` with the same for the start of a sentence."""
    capitalised = {name.capitalize(): _capitalised(phrase) for name, phrase in people.items()}
    return text.format(**people, **capitalised)


def _capitalised(phrase: str) -> str:
    # Not str.capitalize, which would take the capital from "the German engineer".
    return phrase[0].upper() + phrase[1:]


def _answers(pair: list[str], unknown: str, order: tuple[int, ...]) -> dict[str, str]:
    """The three answers as ``ans0`` to ``ans2``, in the given order."""
    texts = (_capitalised(pair[0]), _capitalised(pair[1]), unknown)
    return {f"ans{position}": texts[role] for position, role in enumerate(order)}


def _answer_info(
    template: dict[str, Any], pair: list[str], unknown: str, order: tuple[int, ...]
) -> dict[str, list[str]]:
    """What stands for each answer, in the given order: a phrase and the group."""
    information = (
        [pair[0].removeprefix("the "), template["stereotyped_group"]],
        [pair[1].removeprefix("the "), template["other_group"]],
        [unknown, "unknown"],
    )
    return {f"ans{position}": information[role] for position, role in enumerate(order)}
