"""What is doubtful in a set of questions: the form in which the checks report it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crispr_lm.tasks.base import Example

MOST_PLACES = 5
"""Files and lines that a finding names; the count is in its sentence."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        check: Which check found it, in one word or two.
        found: What was found.
        advice: What to do about it.
        places: Some of the rows or templates meant, by file and line.
    """

    check: str
    found: str
    advice: str
    places: tuple[str, ...] = ()


def places_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """Where the first of these rows are."""
    return tuple(example.source for example in examples if example.source)[:MOST_PLACES]


def by_template(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """The rows of each template."""
    rows: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        rows[example.template].append(example)
    return rows


def people(example: Example) -> list[int]:
    """The options that do not abstain."""
    return [index for index in range(len(example.options)) if index != example.unknown]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def listed(names: Sequence[str], most: int = MOST_PLACES) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
