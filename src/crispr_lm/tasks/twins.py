"""Twins: pairs of prompts that differ in the group alone, answered freely.

One JSON object per line::

    {"id": "nurse-1", "template": "reference letter", "prompt_a": "Write a reference for Anna, a nurse.",
     "prompt_b": "Write a reference for Adam, a nurse.", "group_a": "woman", "group_b": "man",
     "continuation_a": "She is caring.", "continuation_b": "He is competent."}

A line with the same two groups as an earlier one in the other order is turned round. ``template`` names what near-
copies have in common; intervals are resampled by it. ``continuation_a`` and ``continuation_b`` may be left out; where
they are given, they are options that can be scored: what a stereotype expects of each group. A line may instead hold
lists of words whose rate in the answers is counted, beside pronouns::

    {"words": {"competence": ["competent", "skilled", "expert"], "warmth": ["warm", "caring", "kind"]}}

Knows nothing about models, prompts or tokens.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import FREE, Example
from crispr_lm.tasks.jsonl import check_options, json_rows, text_field

PRONOUNS = {
    "she": ("she", "her", "hers", "herself"),
    "he": ("he", "him", "his", "himself"),
    "they": ("they", "them", "their", "theirs", "themselves", "themself"),
}
"""Counted in every answer; of another language's a file gives its own lists."""

LIST_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True)
class Twin:
    """Two prompts that differ in the group alone.

    Attributes:
        identifier: Of the pair.
        template: Pairs with the same one are near-copies.
        prompts: To group a and to group b, as a user would write them.
        groups: Names of the two groups.
        continuations: What a stereotype expects of each group, None where that is not given.
        source: File and line, for messages.
    """

    identifier: str
    template: str
    prompts: tuple[str, str]
    groups: tuple[str, str]
    continuations: tuple[str, str] | None
    source: str


@dataclass(frozen=True)
class TwinFile:
    """Pairs, and the lists of words that are counted in their answers, pronouns first."""

    pairs: tuple[Twin, ...]
    words: dict[str, tuple[str, ...]]


def read_twins(path: Path) -> TwinFile:
    """Read a file of twins.

    Raises:
        InputError: missing, unreadable or malformed (file and line are named), or without pairs.
    """
    pairs: dict[str, Twin] = {}
    orders: dict[frozenset[str], tuple[str, str]] = {}
    words = dict(PRONOUNS)
    for where, row in json_rows(path):
        if "words" in row:
            words |= _word_lists(row, words, where)
            continue
        pair = _twin(row, where)
        if pair.identifier in pairs:
            raise InputError(f"{where}: id {pair.identifier!r} is also that of {pairs[pair.identifier].source}; give "
                             "every pair its own")  # fmt: skip
        # A signed difference between groups would cancel out where lines have them in different order.
        turned = orders.setdefault(frozenset(pair.groups), pair.groups) != pair.groups
        pairs[pair.identifier] = _turned(pair) if turned else pair
    if not pairs:
        raise InputError(f"{path}: no pairs of prompts in it; add lines with prompt_a and prompt_b")
    return TwinFile(tuple(pairs.values()), words)


def drawn_pairs(twins: TwinFile, size: int | None, seed: int) -> TwinFile:
    """At most so many of the pairs, drawn at random, in the order of the file; all where `size` is None."""
    if size is None or size >= len(twins.pairs):
        return twins
    drawn = sorted(random.Random(seed).sample(range(len(twins.pairs)), size))
    return replace(twins, pairs=tuple(twins.pairs[index] for index in drawn))


def read_twin_options(path: Path) -> list[Example]:
    """The continuations of a file's pairs as options: each prompt of a pair is an example with the same two options.

    The stereotyped option is the continuation named for the prompt's own group. A model for which the group makes no
    difference chooses it for exactly one of the two prompts. Pairs without continuations are left out.

    Raises:
        InputError: as `read_twins`, or no pair names continuations.
    """
    examples = []
    for pair in read_twins(path).pairs:
        if pair.continuations is None:
            continue
        examples += [
            Example(
                context="",
                question=prompt,
                options=pair.continuations,
                answer=1 - own,
                template=pair.template,
                stereotyped=own,
                category=" and ".join(sorted(pair.groups)),
                source=pair.source,
                form=FREE,
            )
            for own, prompt in enumerate(pair.prompts)
        ]
    if not examples:
        raise InputError(f"{path}: no pair names continuations, so there are no options to score; give the file to "
                         "--measure for free answers, or add continuation_a and continuation_b")  # fmt: skip
    return examples


def _turned(pair: Twin) -> Twin:
    """The pair with its two groups in the other order."""
    (prompt_a, prompt_b), (group_a, group_b), options = pair.prompts, pair.groups, pair.continuations
    return replace(
        pair,
        prompts=(prompt_b, prompt_a),
        groups=(group_b, group_a),
        continuations=None if options is None else (options[1], options[0]),
    )


def _twin(row: dict[str, Any], where: str) -> Twin:
    identifier = row.get("id")
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        row = {**row, "id": str(identifier)}
    given = [name for name in ("continuation_a", "continuation_b") if row.get(name) is not None]
    if len(given) == 1:
        raise InputError(f"{where}: {given[0]} stands alone; give both continuations or none")
    continuations = None
    if given:
        first, second = check_options([text_field(row, name, where).strip() for name in given], where)
        continuations = (first, second)
    return Twin(
        identifier=text_field(row, "id", where),
        template=text_field(row, "template", where),
        prompts=(text_field(row, "prompt_a", where), text_field(row, "prompt_b", where)),
        groups=(text_field(row, "group_a", where), text_field(row, "group_b", where)),
        continuations=continuations,
        source=where,
    )


def _word_lists(row: dict[str, Any], known: dict[str, tuple[str, ...]], where: str) -> dict[str, tuple[str, ...]]:
    lists = row["words"]
    if len(row) > 1 or not isinstance(lists, dict) or not lists:
        raise InputError(f'{where}: a line of words must be {{"words": {{NAME: [word, ...]}}}} and nothing else')
    for name, words in lists.items():
        if not LIST_NAME.fullmatch(name) or name in known:
            raise InputError(f"{where}: {name!r} is no name for a list of words, or is taken; use up to 40 letters, "
                             "digits, - and _")  # fmt: skip
        if not isinstance(words, list) or not words or not all(isinstance(one, str) and one.strip() for one in words):
            raise InputError(f"{where}: list {name!r} must hold words, at least one; fill it in")
    return {name: tuple(words) for name, words in lists.items()}
