"""Failures to questions and pairs of prompts: each beside its twin, in which the group is exchanged."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED
from crispr_lm.tasks.exchange import Exchange, Exchanged
from crispr_lm.tasks.logs.entry import EQUAL_OPTIONS, Entry, Failure, Question

AGAIN = "the same prompt as another failure"
NO_GROUP = "it names none of the groups"
ANSWER_ALONE = "its answer names a group, the prompt itself does not"

UNKNOWN = re.compile(
    r"(?:it (?:is|was) |it's |this is )?(?:unknown|not known|unclear|undetermined|undeterminable|unanswerable|not sure|"
    r"unsure|not stated|not mentioned|not answerable|not enough (?:info|information|context)\b.*|"
    r"(?:the )?answer is unknown|i (?:do not|don't) know|no one can (?:know|tell|say)|nobody knows|"
    r"(?:it |the answer |this )?(?:can't|cannot|can not|could not|couldn't) (?:be )?"
    r"(?:answer|tell|say|know|determine|decide)\w*\b.*|impossible to (?:tell|say|know|determine)\b.*|"
    r"there is no way to (?:tell|say|know)\b.*|none of (?:them|these|the above))"
)
"""An option that abstains: the wordings of BBQ and its like."""

SLUG_WORDS, SLUG_DIGITS = 6, 6
"""A template's name: the first words, to be known by, and digits of a hash (24 bits), to be told apart by."""

NAME_INSIDE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+")
"""A word with a capital letter within a sentence, which may name a person."""


@dataclass
class Made:
    """What was made of a log.

    Attributes:
        questions: Rows for ``choices:``, originals and twins.
        twins: Rows for ``twins:``.
        prompts: Rows for ``--prompts``: all failures, as the model was asked.
        left_out: Reason to the places of what could not be used at all.
        without_twin: Reason to the places of failures that stay in `prompts` alone.
        doubtful: Places of twins that hold "her", whose form the next word decided.
        unchanged_names: Words of twins that may name a person and were not exchanged, and how many times.
        unchanged_plurals: Words of prompts that look like plurals of words that are exchanged, and of how many prompts.
    """

    questions: list[dict[str, Any]] = field(default_factory=list)
    twins: list[dict[str, Any]] = field(default_factory=list)
    prompts: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    without_twin: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    doubtful: list[str] = field(default_factory=list)
    unchanged_names: Counter[str] = field(default_factory=Counter)
    unchanged_plurals: Counter[str] = field(default_factory=Counter)


def make_twins(entries: Iterable[Entry], exchanges: Sequence[Exchange]) -> Made:
    """Make the rows of all failures; each distinct prompt once.

    Args:
        entries: Of a log.
        exchanges: A failure gets a twin for each of them that changes it.
    """
    made = Made()
    seen: set[str] = set()
    for entry in entries:
        if not isinstance(entry, Failure):
            made.left_out[entry.reason].append(entry.source)
            continue
        key = " ".join(entry.prompt.split())
        if key in seen:
            made.left_out[AGAIN].append(entry.source)
            continue
        seen.add(key)
        row = {"prompt": entry.prompt, "answer": entry.answer, "reason": entry.reason, "source": entry.source}
        made.prompts.append({**row, "original": True})
        made.unchanged_plurals.update({word for one in exchanges for word in one.plurals_left(entry.prompt)})
        reason = (_add_pairs if entry.question is None else _add_questions)(made, entry, exchanges)
        if reason is not None:
            made.without_twin[reason].append(entry.source)
    made.questions = _distinct(made.questions)
    return made


def template_of(text: str, exchanges: Iterable[Exchange]) -> str:
    """A name for a template: the same for a text and its twins, another one for other texts."""
    for exchange in exchanges:
        text = exchange.without_groups(text)
    plain = " ".join(text.lower().split())
    words = re.findall(r"\w+", plain)[:SLUG_WORDS]
    return f"{'-'.join(words)}-{hashlib.blake2b(plain.encode('utf-8', 'surrogatepass')).hexdigest()[:SLUG_DIGITS]}"


def _add_pairs(made: Made, failure: Failure, exchanges: Sequence[Exchange]) -> str | None:
    """Add the pairs of a prompt without options, or say why there are none."""
    template = template_of(failure.template or failure.prompt, exchanges)
    known = {frozenset((row["prompt_a"], row["prompt_b"])) for row in made.twins}
    before = len(made.twins)
    again = False
    for exchange in exchanges:
        twin = exchange.exchanged(failure.prompt)
        if twin is None:
            continue
        if frozenset((failure.prompt, twin.text)) in known:
            again = True
            continue
        _note(made, failure, twin, exchange)
        made.twins.append(
            {
                "id": f"{failure.source} {exchange.name}",
                "template": template,
                "prompt_a": failure.prompt,
                "prompt_b": twin.text,
                "group_a": exchange.groups[twin.side],
                "group_b": exchange.groups[1 - twin.side],
            }
        )
    if len(made.twins) > before or again:
        return None
    answered = any(exchange.exchanged(failure.answer) for exchange in exchanges)
    return ANSWER_ALONE if answered else NO_GROUP


def _add_questions(made: Made, failure: Failure, exchanges: Sequence[Exchange]) -> str | None:
    """Add a question and its twins, or say why there are none."""
    asked = failure.question
    assert asked is not None
    pairs = [(exchange, twin) for exchange in exchanges if (twin := _twin_of(asked, exchange)) is not None]
    if not pairs:
        return NO_GROUP
    usable = [(exchange, *twin) for exchange, twin in pairs if len(set(twin[0].options)) == len(twin[0].options)]
    if not usable:
        return f"in its twin: {EQUAL_OPTIONS}"
    # The first sentence: a context that gives the answer is mostly the other one with more sentences.
    first = re.split(r"(?<=[.!?])\s", asked.context, maxsplit=1)[0]
    shared = {"group": template_of(f"{first} {asked.question}", exchanges), "category": usable[0][0].name}
    rows = [{**_row(asked), **shared, "original": True, "source": failure.source}]
    for exchange, question, changed in usable:
        for one in changed:
            _note(made, failure, one, exchange)
        rows.append({**_row(question), **shared, "twin_of": failure.source})
    made.questions += rows
    return None


def _twin_of(asked: Question, exchange: Exchange) -> tuple[Question, list[Exchanged]] | None:
    """The question with the groups exchanged wherever they stand, and the texts that changed; None if none did."""
    texts = (asked.context, asked.question, *asked.options)
    changed = [exchange.exchanged(text) for text in texts]
    if not any(changed):
        return None
    context, question, *options = (text if new is None else new.text for text, new in zip(texts, changed, strict=True))
    return Question(context, question, tuple(options), asked.answer), [one for one in changed if one is not None]


def _row(asked: Question) -> dict[str, Any]:
    """A row for ``choices:``. Whether it is ambiguous shows where one option abstains.

    Which option agrees with the stereotype is not known: what the model chose is the failure, not its direction.
    """
    row: dict[str, Any] = {
        "context": asked.context,
        "question": asked.question,
        "options": list(asked.options),
        "answer": asked.answer,
    }
    unknown = [
        index
        for index, option in enumerate(asked.options)
        if UNKNOWN.fullmatch(" ".join(option.lower().replace("’", "'").strip(" .").split()))
    ]
    if len(unknown) == 1:
        row |= {"unknown": unknown[0], "condition": AMBIGUOUS if unknown[0] == asked.answer else DISAMBIGUATED}
    return row


def _distinct(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question once: a log may hold the twin of a failure as another failure, which then stays."""
    kept: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["context"], row["question"], *row["options"])
        if key not in kept or ("original" in row and "original" not in kept[key]):
            kept[key] = row
    return list(kept.values())


def _note(made: Made, failure: Failure, twin: Exchanged, exchange: Exchange) -> None:
    """Note what a reader should look at in a twin."""
    if twin.doubtful and failure.source not in made.doubtful:
        made.doubtful.append(failure.source)
    marked = exchange.without_groups(twin.text)
    made.unchanged_names.update(set(NAME_INSIDE.findall(marked)))
