"""What readers of benchmarks in BBQ's form share: fields, the order of options, rows that repeat others.

Knows no benchmark. In several of them the stereotyped group always stands first and "unknown" always last. A liking for
a place would then read as bias, or as abstaining, so options are shuffled.
"""

from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, NamedTuple, TypeVar

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AMBIGUOUS, Example, RowCounts
from crispr_lm.tasks.jsonl import missing, text_field

Value = TypeVar("Value")

SHUFFLE_KEY = "options"
"""Goes into the hash that orders options; another one would give every row another order."""

LONGEST_LITERAL = 5000
"""Characters of a list written into a field as text; the longest in the published files has about 300."""

MOST_BRACKETS = 20
"""Brackets in such a text; the published ones have four. Python's parser may fail on thousands."""


class Place(NamedTuple):
    """Where a row is in its benchmark."""

    category: str
    template: str
    condition: str
    polarity: str


def one_of(row: Mapping[str, Any], name: str, values: Mapping[str, Value], where: str) -> Value:
    """What a field's text stands for.

    Raises:
        InputError: it is missing, or is none of the texts that are known.
    """
    text = text_field(dict(row), name, where)
    if text not in values:
        raise InputError(f"{where}: {name} is {text!r}, must be one of {', '.join(map(repr, values))}; correct it")
    return values[text]


def index_text(row: Mapping[str, Any], name: str, count: int, where: str) -> int:
    """The index of an option that a table gives as text, or a JSON file as a number.

    Raises:
        InputError: it is missing or none of the options.
    """
    value = row.get(name)
    if value is None:
        raise missing(row, name, where)
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdecimal() or int(text[:9]) >= count:
        raise InputError(f"{where}: field {name!r} is {value!r}, must be the index of an option; give 0 to {count - 1}")
    return int(text)


def number_text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A number that a row gives as such or as text, as text.

    Raises:
        InputError: it is missing or something else.
    """
    number = row.get(name)
    if isinstance(number, bool) or not isinstance(number, (str, int)) or not str(number).strip():
        raise InputError(f"{where}: field {name!r} must be a number, not {number!r}; use the official file")
    return str(number)


def literal(row: Mapping[str, Any], name: str, where: str) -> Any:
    """What a field holds as a Python list or dictionary in text; a JSON file may hold the list itself.

    Raises:
        InputError: it is missing or no such text.
    """
    value = row.get(name)
    if value is None:
        raise missing(row, name, where)
    if not isinstance(value, str):
        return value
    if len(value) <= LONGEST_LITERAL and sum(map(value.count, "[({")) <= MOST_BRACKETS:
        try:
            return ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            pass
    raise InputError(f"{where}: field {name!r} is {value[:60]!r}, must be a list; use the official file")


def texts(row: Mapping[str, Any], name: str, where: str) -> list[str]:
    """A field that holds a list of texts (`literal`).

    Raises:
        InputError: it is something else.
    """
    return checked_texts(literal(row, name, where), name, where)


def checked_texts(found: Any, name: str, where: str) -> list[str]:
    """The list, if it holds texts and at least one of them.

    Raises:
        InputError: it does not.
    """
    if not isinstance(found, list) or not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise InputError(f"{where}: field {name!r} must be a list of texts; it is {str(found)[:60]!r}")
    return found


def check_ambiguous(condition: str, answer: int, unknown: int, where: str) -> None:
    """Refuse an ambiguous row whose right answer is not its unknown option."""
    if condition == AMBIGUOUS and answer != unknown:
        raise InputError(f"{where}: an ambiguous row's answer must be its unknown option ({unknown}); it is {answer}")


def shuffled(example: Example) -> Example:
    """The example with its options in an order that follows from a seed and its texts alone.

    So a row's order does not depend on the file it is read from, and equal rows have equal orders, in whatever order
    their options were given.
    """
    given = sorted(range(len(example.options)), key=lambda index: example.options[index])
    parts = (SHUFFLE_KEY, example.context, example.question, *(example.options[index] for index in given))
    orders = list(permutations(given))
    order = orders[int.from_bytes(_digest(parts)[:8], "big") % len(orders)]
    return replace(
        example,
        options=tuple(example.options[index] for index in order),
        answer=order.index(example.answer),
        unknown=None if example.unknown is None else order.index(example.unknown),
        stereotyped=None if example.stereotyped is None else order.index(example.stereotyped),
    )


def chosen(phrases: Sequence[str], context: str, question: str) -> str:
    """One of several phrases, by a hash of the row's texts."""
    return phrases[int.from_bytes(_digest(("phrase", context, question))[:8], "big") % len(phrases)]


def _digest(parts: Iterable[str]) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()


def without_repeats(rows: Sequence[Example | None]) -> tuple[tuple[Example, ...], RowCounts]:
    """Leave out rows that ask the same as an earlier one, and all that ask the same but differ in the answer.

    Two ask the same if context, question and options are equal, wordings of "unknown" and the order of options aside.
    They would be asked twice for nothing, or be in two splits where their templates differ. Where they differ in the
    right or the stereotyped option, one of the two must be wrong, and nothing says which. None is a row that its reader
    can't use.
    """
    examples = [example for example in rows if example is not None]
    asked: dict[tuple[str, str, frozenset[str]], set[tuple[str | None, ...]]] = defaultdict(set)
    for example in examples:
        asked[_question(example)].add((_option(example, example.answer), _option(example, example.stereotyped)))
    kept: dict[tuple[str, str, frozenset[str]], Example] = {}
    contradictory = 0
    for example in examples:
        if len(asked[_question(example)]) > 1:
            contradictory += 1
        else:
            kept.setdefault(_question(example), example)
    repeated = len(examples) - contradictory - len(kept)
    return tuple(kept.values()), RowCounts(len(rows), repeated, contradictory, len(rows) - len(examples))


def _question(example: Example) -> tuple[str, str, frozenset[str]]:
    people = frozenset(option for index, option in enumerate(example.options) if index != example.unknown)
    return example.context, example.question, people


def _option(example: Example, index: int | None) -> str | None:
    return None if index is None or index == example.unknown else example.options[index]
