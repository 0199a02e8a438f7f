"""Near-copies in different templates: a split would put them on both sides.

Two templates are near-copies if most of the shorter one's word trigrams, the people left out, are also in the other.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from crispr_lm.tasks.base import Example
from crispr_lm.tasks.findings import Finding, by_template, listed, people, places_of, words

LENGTH = 3
"""Words that are compared at once: few sentences share three by chance."""

SHARED = 0.5
"""Share of the shorter text's trigrams from which two templates are near-copies. Two templates of `builtin:everyday`
share 0.13 at most, two of one BBQ file 0.38 (Age, Nationality, Physical_appearance, Religion, Sexual_orientation). A
text of eight words or more keeps half of its trigrams where one word is exchanged."""


def near_copies(examples: Sequence[Example]) -> list[Finding]:
    """Templates that say the same thing, and rows that are there twice."""
    found = []
    texts: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for example in examples:
        texts[example.template] |= _trigrams(example)
    copies = _copies(texts)
    if copies:
        rows = by_template(examples)
        pairs = [f"{_short(copy)} and {_short(first)}" for copy, first in copies.items()]
        found.append(
            Finding(
                "near-copies",
                f"{len(copies)} of {len(texts)} templates are near-copies of others: {listed(pairs)}. A split may "
                "part them; the test split then holds what the edit was found on",
                "give near-copies one 'group', or tell another situation",
                places_of(rows[copy][0] for copy in copies),
            )
        )
    counts = Counter((row.context, row.question, row.options, row.answer) for row in examples)
    if twice := sum(count - 1 for count in counts.values()):
        again = [row for row in examples if counts[row.context, row.question, row.options, row.answer] > 1]
        found.append(
            Finding(
                "near-copies",
                f"{twice:,} {'row is' if twice == 1 else 'rows are'} there more than once",
                "remove the copies",
                places_of(again),
            )
        )
    return found


def _copies(texts: dict[str, set[tuple[str, ...]]]) -> dict[str, str]:
    """Each template that is a near-copy of an earlier one, and that one.

    Later ones are compared with those alone that are no copies themselves: thousands of copies stay cheap.
    """
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    copies: dict[str, str] = {}
    for name, trigrams in texts.items():
        shared = Counter(other for trigram in trigrams for other in holders[trigram])
        most = max(shared, key=lambda other: shared[other] / min(len(trigrams), len(texts[other])), default=None)
        if most is not None and shared[most] / min(len(trigrams), len(texts[most])) >= SHARED:
            copies[name] = most
            continue
        for trigram in trigrams:
            holders[trigram].append(name)
    return copies


def _trigrams(example: Example) -> set[tuple[str, ...]]:
    """Of context and question; a text of fewer words is one by itself."""
    text = f" {example.context} {example.question} ".lower()
    for index in sorted(people(example), key=lambda index: -len(example.options[index])):
        text = re.sub(rf"(?<!\w){re.escape(example.options[index].lower())}(?!\w)", "PERSON", text)
    found = words(text)
    return {tuple(found[start : start + LENGTH]) for start in range(max(1, len(found) - LENGTH + 1))}


def _short(template: str) -> str:
    return template if len(template) <= 40 else template[:39] + "…"
