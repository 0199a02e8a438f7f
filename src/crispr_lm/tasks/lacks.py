"""What a file of questions lacks, what that switches off, and how to add it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.findings import Finding, by_template, places_of
from crispr_lm.tasks.labels import are_labelled

CHECK = "missing"


@dataclass(frozen=True)
class _Field:
    """A field that rows may lack.

    Attributes:
        name: As in the file.
        of_none: What is switched off where no row has it.
        of_some: What follows for the rows without it, where others have it.
        advice: How to add it.
    """

    name: str
    of_none: str
    of_some: str
    advice: str


FIELDS: tuple[_Field, ...] = (
    _Field(
        "condition",
        "only plain accuracy is measured. Over-abstention and the loss of right answers are not, so the search has no "
        "limit on either",
        "they count in neither accuracy",
        'add "condition": "ambiguous" where the context does not give the answer, "disambiguated" where it does; write '
        "both for every situation",
    ),
    _Field(
        "unknown",
        "over-abstention can't be measured, so the search has no limit on it",
        "they do not count in the measure of over-abstention",
        'add an option such as "Not enough information", and "unknown": its index (from 0)',
    ),
    _Field(
        "stereotyped",
        "there are no bias scores",
        "they do not count in bias scores",
        'add "stereotyped": the index (from 0) of the option that follows the stereotype',
    ),
    _Field(
        "group",
        "only rows of equal texts stay in one split. Near-copies may part, so that the test split holds what the edit "
        "was found on, and intervals are too narrow",
        "near-copies among them may be in different splits",
        'add "group": a name for the situation, the same in all rows made from it',
    ),
)
"""In the order in which they matter."""

LABELS = Finding(
    CHECK,
    "all rows have the same options and none a 'condition' or 'unknown', so they are taken as the labels of a "
    "classification: over-abstention is not measured",
    "if these are no labels but answers about people, add 'condition', 'unknown' and 'stereotyped'",
)

ABSTAINING = re.compile(
    r"unknown|undetermined|unclear|can(?:no|')t (?:be determined|tell|say|answer)|cannot be (?:known|answered)|"
    r"not (?:known|stated|clear|sure|specified|mentioned|answerable)|(?:not enough|insufficient|too little) info|"
    r"(?:no way to|impossible to|nobody can) (?:tell|know|say)|does not say|neither|don't know",
    re.IGNORECASE,
)
"""Options that look as if they abstain; only to say which index may be meant, never to take it."""


def lacks(examples: Sequence[Example]) -> list[Finding]:
    """What rows lack.

    Args:
        examples: As read by ``choices:``; one or more.
    """
    labelled = are_labelled(examples)
    abstaining = any(ABSTAINING.search(option) for option in examples[0].options)
    if labelled and not abstaining:  # then it needs the group alone
        fields, found = FIELDS[-1:], [LABELS]
    else:
        fields, found = FIELDS, []
    for field in fields:
        without = [example for example in examples if _is_without(example, field.name)]
        if len(without) == len(examples):
            article = "an" if field.name == "unknown" else "a"
            text = f"no row has {article} {field.name!r}: {field.of_none}"
            found.append(Finding(CHECK, text, _advice(field, without)))
        elif without:
            text = f"{len(without):,} of {len(examples):,} rows have no {field.name!r}: {field.of_some}"
            found.append(Finding(CHECK, text, _advice(field, without), places_of(without)))
    return found + _single_condition(examples)


def _advice(field: _Field, without: Sequence[Example]) -> str:
    """How to add a field; of the abstaining option also which one may be meant."""
    first = without[0]
    likely = [index for index, option in enumerate(first.options) if ABSTAINING.search(option)]
    if field.name != "unknown" or len(likely) != 1:
        return field.advice
    where = f"in {first.source} " if first.source else ""
    return f'{where}option {likely[0]} ({first.options[likely[0]]!r}) looks like it: add "unknown": {likely[0]}'


def _single_condition(examples: Sequence[Example]) -> list[Finding]:
    """What a file lacks whose rows all have the same condition."""
    there = {example.condition for example in examples}
    if there == {AMBIGUOUS}:
        return [
            Finding(
                CHECK,
                "no row is disambiguated: over-abstention and the loss of right answers can't be measured, so the "
                "search has no limit on either",
                "for every situation add rows whose context gives the answer",
            )
        ]
    if there == {DISAMBIGUATED}:
        return [
            Finding(
                CHECK,
                "no row is ambiguous: what a model assumes where the context does not give the answer is not measured",
                "for every situation add rows whose context does not give the answer; the unknown option is right",
            )
        ]
    return []


def _is_without(example: Example, field: str) -> bool:
    if field == "group":  # its template is then its own text
        return example.template in (_plain(example), f"{example.category}/{_plain(example)}")
    return getattr(example, field) is None


def _plain(example: Example) -> str:
    """The template of a row without a group, as `crispr_lm.tasks.choices` makes it."""
    return " ".join(f"{example.context} {example.question}".lower().split())


def one_sided(examples: Sequence[Example]) -> list[Finding]:
    """Templates with one condition or one polarity only, in a file that has both."""
    found = []
    for name, both, why in (
        ("condition", (AMBIGUOUS, DISAMBIGUATED), "what an edit gains and what it costs are then of other situations"),
        (
            "polarity",
            ("negative", "nonnegative"),
            "always naming the same group then looks like following the stereotype, or like defying it",
        ),
    ):
        values = {template: {getattr(row, name) for row in rows} for template, rows in by_template(examples).items()}
        if not set().union(*values.values()) >= set(both):
            continue
        single = [template for template, there in values.items() if len(there & set(both)) == 1]
        if single:
            chosen = [example for example in examples if example.template in single]
            firsts = {example.template: example for example in reversed(chosen)}
            found.append(
                Finding(
                    f"one {name}",
                    f"{len(single)} of {len(values)} templates have rows of one {name} only: {why}",
                    f"add the rows of the other {name}",
                    places_of(firsts.values()),
                )
            )
    return found
