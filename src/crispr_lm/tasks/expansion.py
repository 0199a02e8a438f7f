"""Every question of a template: both conditions, both polarities, answer orders in balance.

Each template and pair of people gives eight rows: {negative, non-negative question} x {ambiguous, disambiguated
context} x {the two mention orders or, where disambiguated, the two role assignments}. Always the same rows for the same
templates and options. Knows nothing about models, prompts or tokens, nor what is made of the rows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED
from crispr_lm.tasks.templates import Template, TemplateFile

CONDITIONS = (AMBIGUOUS, DISAMBIGUATED)
POLARITIES = ("negative", "nonnegative")
VARIANTS = (0, 1)
"""Ambiguous: who is mentioned first. Disambiguated: who the target is. 0 is the stereotyped person."""

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
ROTATIONS = 3

PAIRS = 3
"""Pairs of people to a template: the fewest with which each answer takes each place equally often. Further ones are
near-copies, which cost time and make no interval narrower."""


@dataclass(frozen=True)
class Unit:
    """A template with one pair of people and one filling of its further slots: eight rows.

    Attributes:
        template: The template.
        template_number: Its place in the file.
        pair: (stereotyped person, other person).
        fill: Values of the further slots.
        number: Its place among the units of the template.
        place: Its place among those of the whole file.
    """

    template: Template
    template_number: int
    pair: tuple[str, str]
    fill: Mapping[str, str]
    number: int
    place: int


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
        unit: What it was made from.
        context: What is read before the question.
        question: The question.
        polarity: 0 for the negative question, 1 for the other one.
        condition: `AMBIGUOUS` or `DISAMBIGUATED`.
        unknown: The phrasing of the option that abstains.
        order: Which of `STEREOTYPED`, `OTHER` and `UNKNOWN` stands at each place.
        gold: Which of them is right.
    """

    unit: Unit
    context: str
    question: str
    polarity: int
    condition: str
    unknown: str
    order: tuple[int, ...]
    gold: int

    @property
    def options(self) -> tuple[str, ...]:
        """The answers in their order."""
        texts = (*map(capitalised, self.unit.pair), self.unknown)
        return tuple(texts[role] for role in self.order)


def expand(file: TemplateFile, pairs: int = PAIRS, seed: int = 0) -> list[Row]:
    """Every row of every template, in the order of the file.

    Where the units of a template are no multiple of three, each is made three times, with its answers in other places.

    Args:
        file: Templates and phrasings.
        pairs: Most pairs of people to a template. Templates with more take turns, so that each pair is used equally
            often.
        seed: Of which pairs each template takes; without effect where none has more than `pairs`.
    """
    place = 0
    rows: list[Row] = []
    for number, template in enumerate(file.templates):
        for unit in _units(template, number, _taken(template.pairs, number, pairs, seed), place):
            rows += _rows(unit, file.unknown)
            place += 1
    return rows


def choices_row(row: Row) -> dict[str, Any]:
    """A row in the general form (`crispr_lm.tasks.choices`)."""
    template = row.unit.template
    return {
        "context": row.context,
        "question": row.question,
        "options": list(row.options),
        "answer": row.order.index(row.gold),
        "group": template.name,
        "condition": row.condition,
        "unknown": row.order.index(UNKNOWN),
        # The negative question is stereotypically about the one group, the other question about the other.
        "stereotyped": row.order.index(OTHER if row.polarity else STEREOTYPED),
        "category": template.category,
        "polarity": POLARITIES[row.polarity],
    }


def capitalised(phrase: str) -> str:
    """A phrase for the start of a sentence. Not `str.capitalize`, which takes the capital from "the German cook"."""
    return phrase[0].upper() + phrase[1:]


def _taken(pairs: Sequence[tuple[str, str]], number: int, most: int, seed: int) -> list[tuple[str, str]]:
    """The pairs that a template of this number takes, in their own order."""
    if len(pairs) <= most:
        return list(pairs)
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    return [pairs[index] for index in sorted(order[(number * most + turn) % len(pairs)] for turn in range(most))]


def _units(template: Template, number: int, pairs: Sequence[tuple[str, str]], place: int) -> Iterator[Unit]:
    units = list(product(template.fill, pairs))
    times = 1 if len(units) % ROTATIONS == 0 else ROTATIONS
    repeated = [unit for unit in units for _ in range(times)]
    for own, (fill, pair) in enumerate(repeated):
        yield Unit(template, number, pair, fill, own, place + own)


def _rows(unit: Unit, unknown: Sequence[str]) -> Iterator[Row]:
    """The eight rows of a unit."""
    template = unit.template
    questions = (template.negative_question, template.nonnegative_question)
    for number, (polarity, condition, variant) in enumerate(product(range(2), CONDITIONS, VARIANTS)):
        if condition == AMBIGUOUS:
            context = _ambiguous(unit, swapped=variant == 1)
            gold = UNKNOWN
        else:
            # The mention order alternates over units and templates; tied to the roles it would reveal them.
            context = _ambiguous(unit, swapped=(variant + unit.number + unit.template_number) % 2 == 1)
            context += " " + _disambiguation(unit, target=variant)
            # The negative question asks for the target, the non-negative one for the other person.
            gold = STEREOTYPED if variant == polarity else OTHER
        # Three units take three rotations, so each answer comes equally often at each position within every
        # template, condition, polarity and variant, whichever part of a split the template lands in. Mirrored
        # orders change with every second template, out of step with the mention order.
        rotation = (unit.number + unit.template_number) % ROTATIONS
        mirrored = (variant + polarity + unit.template_number // 2) % 2
        yield Row(
            unit,
            context,
            _filled(questions[polarity], unit.fill),
            polarity,
            condition,
            # The shift from unit to unit takes each phrasing through all kinds of row.
            unknown[(number + unit.place) % len(unknown)],
            ANSWER_ORDERS[rotation + ROTATIONS * mirrored],
            gold,
        )


def _ambiguous(unit: Unit, swapped: bool) -> str:
    """The context that does not give the answer; `swapped` mentions the person of the other group first."""
    first, second = reversed(unit.pair) if swapped else unit.pair
    return _filled(unit.template.context, {"first": first, "second": second, **unit.fill})


def _disambiguation(unit: Unit, target: int) -> str:
    """What settles who is who; `target` is the index of the person that the negative question asks for."""
    people = {"target": unit.pair[target], "nontarget": unit.pair[1 - target]}
    return _filled(unit.template.disambiguation, {**people, **unit.fill})


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Fill ``{name}`` with its value and ``{Name}`` with the same for the start of a sentence."""
    return text.format(**values, **{capitalised(name): capitalised(value) for name, value in values.items()})
