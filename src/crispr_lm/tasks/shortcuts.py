"""Options that give the answer away: what can be answered right without reading the question.

Each shortcut is a rule that scores a row's options; its accuracy is compared with chance. Near-copies say the same
thing many times, so the error of an accuracy is taken over templates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.findings import Finding, by_template, people, places_of, words

MARGIN = 0.1
"""Accuracy above chance from which a shortcut is reported: effects of edits that people look for are of this size."""
ERRORS = 2.0
"""Standard errors, over templates, that it must also be above chance: about 95 %."""

UNEVEN = 3
"""Times as many words in one person's phrase as in the other's from which a pair is named: no bundled pair has them."""

FEWEST_USES = 8
"""Uses of a phrasing from which it is strange that all are in one condition: by chance that happens once in 128."""

Rule = Callable[[Example, Sequence[int]], Sequence[float]]
"""From a row and the options among which to choose to their scores."""


@dataclass(frozen=True)
class Shortcut:
    """A rule that knows nothing of the question.

    Attributes:
        name: "always the longest option", to be followed by what it answers right.
        rule: The rule.
        advice: How to make it useless.
    """

    name: str
    rule: Rule
    advice: str


def _named_at(example: Example, index: int) -> float:
    """Where the context names an option first, from 0; infinity where it does not."""
    option = " ".join(words(example.options[index]))
    place = " ".join(words(example.context)).find(option)
    return place if place >= 0 else math.inf


def _last_named_at(example: Example, index: int) -> float:
    """Where the context names an option last; -1 where it does not."""
    option = " ".join(words(example.options[index]))
    return " ".join(words(example.context)).rfind(option)


def _shared(example: Example, index: int) -> float:
    """How many words of an option are in the context or the question."""
    return len(set(words(example.options[index])) & set(words(f"{example.context} {example.question}")))


SHORTCUTS = (
    Shortcut(
        "the longest option",
        lambda example, among: [len(example.options[index]) for index in among],
        "give the options equal lengths, or let each be right equally often",
    ),
    Shortcut(
        "the shortest option",
        lambda example, among: [-len(example.options[index]) for index in among],
        "give the options equal lengths, or let each be right equally often",
    ),
    Shortcut(
        "the option that shares most words with context and question",
        lambda example, among: [_shared(example, index) for index in among],
        "name the people with the same number of words, and both equally often in the context",
    ),
    Shortcut(
        "whoever the context names first",
        lambda example, among: [-_named_at(example, index) for index in among],
        "tell every situation with the two people in either order",
    ),
    Shortcut(
        "whoever the context names last",
        lambda example, among: [_last_named_at(example, index) for index in among],
        "tell every situation with the two people in either order",
    ),
    Shortcut(
        "the stereotyped option",
        lambda example, among: [float(index == example.stereotyped) for index in among],
        "tell every situation with either person in either role, and ask questions of both polarities",
    ),
    Shortcut(
        "against the stereotype",
        lambda example, among: [float(index != example.stereotyped) for index in among],
        "tell every situation with either person in either role, and ask questions of both polarities",
    ),
)


def give_aways(examples: Sequence[Example]) -> list[Finding]:
    """Shortcuts that answer more rows right than chance, where the context gives the answer; "unknown" is left out."""
    rows = [example for example in examples if example.condition != AMBIGUOUS and example.answer != example.unknown]
    rows = [example for example in rows if len(people(example)) > 1]
    found = []
    for shortcut in SHORTCUTS:
        right = [_right(example, people(example), shortcut.rule) for example in rows]
        chance = [1 / len(people(example)) for example in rows]
        if above := _above_chance(rows, right, chance):
            found.append(
                Finding(
                    "give-away",
                    f"always answering with {shortcut.name} is right {above} where the context gives the answer",
                    shortcut.advice,
                )
            )
    return found


def order(examples: Sequence[Example]) -> list[Finding]:
    """Places that the right, the unknown or the stereotyped option takes too often."""
    found = []
    kinds: Mapping[str, tuple[Sequence[Example], Callable[[Example], int | None]]] = {
        "right answer where the context gives it": (
            [example for example in examples if example.condition != AMBIGUOUS],
            lambda example: example.answer,
        ),
        "unknown option": (examples, lambda example: example.unknown),
        "stereotyped option": (examples, lambda example: example.stereotyped),
    }
    for name, (all_rows, index_of) in kinds.items():
        rows = [example for example in all_rows if index_of(example) is not None]
        chance = [1 / len(example.options) for example in rows]
        for place in range(max((len(example.options) for example in rows), default=0)):
            there = [float(index_of(example) == place) for example in rows]
            if above := _above_chance(rows, there, chance):
                found.append(
                    Finding(
                        "order",
                        f"the {name} stands at place {place + 1} {above}",
                        "let it take every place equally often in every template; otherwise a preference for a place "
                        "counts as knowledge or as bias",
                    )
                )
    return found


def phrasings(examples: Sequence[Example]) -> list[Finding]:
    """Phrasings of the unknown option that are used in one condition only, and so give the condition away."""
    uses: dict[str, Counter[str]] = {}
    for example in examples:
        if example.unknown is not None and example.condition in (AMBIGUOUS, DISAMBIGUATED):
            uses.setdefault(example.options[example.unknown], Counter())[example.condition] += 1
    if len({condition for counts in uses.values() for condition in counts}) < 2:
        return []
    return [
        Finding(
            "give-away",
            f"the unknown option {phrase!r} is used {sum(counts.values())} times, in {next(iter(counts))} rows only",
            "use every phrasing in both conditions; otherwise it tells which one it is",
        )
        for phrase, counts in uses.items()
        if len(counts) == 1 and sum(counts.values()) >= FEWEST_USES
    ]


def lengths(examples: Sequence[Example]) -> list[Finding]:
    """A stereotyped option that is longer or shorter than the other people throughout."""
    rows = [example for example in examples if example.stereotyped is not None and len(people(example)) > 1]
    differences = []
    for example in rows:
        others = [len(example.options[index]) for index in people(example) if index != example.stereotyped]
        own = len(example.options[example.stereotyped or 0])
        differences.append((own - mean(others)) / max(own, *others))
    value, error = _mean_over_templates(rows, differences)
    if abs(value) <= max(MARGIN, ERRORS * error):
        return []
    return [
        Finding(
            "length",
            f"the stereotyped option is {abs(value):.0%} {'longer' if value > 0 else 'shorter'} than the other people "
            "on average; longer options are less likely to any model, whatever they say",
            "give both groups names or phrases of equal length, and ask questions of both polarities, or compare "
            "options per token (--scoring mean)",
        )
    ]


def uneven_pairs(examples: Sequence[Example]) -> list[Finding]:
    """Two people of whom one is called by far more words than the other."""
    pairs: dict[tuple[str, ...], Example] = {}
    for example in examples:
        if example.unknown is not None or example.stereotyped is not None:
            pairs.setdefault(tuple(sorted(example.options[index] for index in people(example))), example)
    uneven = {}
    for pair, example in pairs.items():
        counts = [len(words(person)) for person in pair]
        if len(pair) > 1 and max(counts) >= UNEVEN * max(min(counts), 1):
            uneven[" and ".join(map(repr, pair))] = example
    if not uneven:
        return []
    return [
        Finding(
            "length",
            f"in {len(uneven):,} of {len(pairs):,} pairs of people one phrase has {UNEVEN} times as many words as the "
            f"other or more, such as {next(iter(uneven))}",
            "name both with about as many words; the longer phrase is less likely to any model, and says more",
            places_of(uneven.values()),
        )
    ]


def _right(example: Example, among: Sequence[int], rule: Rule) -> float:
    """Whether the rule's choice is right; of options that it can't tell apart one is chosen at random."""
    scores = rule(example, among)
    best = [index for index, score in zip(among, scores, strict=True) if score == max(scores)]
    return 1 / len(best) if example.answer in best else 0.0


def _above_chance(rows: Sequence[Example], right: Sequence[float], chance: Sequence[float]) -> str:
    """What is right and what chance would be, if that is clearly less; else empty."""
    if not rows:
        return ""
    excess, error = _mean_over_templates(rows, [is_right - by for is_right, by in zip(right, chance, strict=True)])
    if excess <= max(MARGIN, ERRORS * error):
        return ""
    return f"in {mean(right):.0%} of {len(rows):,} rows (by chance {mean(chance):.0%})"


def _mean_over_templates(rows: Iterable[Example], values: Iterable[float]) -> tuple[float, float]:
    """Mean of the templates' means and its standard error; 0 and 0 where there is nothing.

    The error of a single template is not known; it is taken as 0.
    """
    of_row = {id(row): value for row, value in zip(rows, values, strict=True)}
    means = [mean(of_row[id(row)] for row in own) for own in by_template(rows).values()] if of_row else [0.0]
    return mean(means), stdev(means) / math.sqrt(len(means)) if len(means) > 1 else 0.0
