"""Other kinds of stereotype than those an edit is made for: questions of ``builtin:everyday`` that show spill-over.

An edit for one stereotype may worsen another. Of every other kind two templates are for the limit of the search
(`searched_other_kinds`) and the others for the report (`measured_other_kinds`), by a hash of their name, whatever the
seed: what is reported was searched on in no run. Knows nothing about models or prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from crispr_lm.tasks.base import Example, Task, sample, template_hash
from crispr_lm.tasks.findings import words
from crispr_lm.tasks.registry import load_task

OTHER_KINDS = "builtin:other-kinds"
"""Name of the task in ``--measure`` and in results."""

SEARCHED_TEMPLATES = 2
"""Templates of each kind for the search, of nine: 14 or 16 clusters for one standard error over all kinds."""

SEARCHED_EXAMPLES = 48
"""Questions of the search: three of each of these templates, half of them ambiguous."""

WRITTEN_DIFFERENTLY = {"ses": "socioeconomic"}
"""Words of BBQ's categories for words of ours."""

IN_SEVERAL = frozenset({"status"})
"""Words in the names of several kinds, which tell none of them."""


def other_kinds(made_for: Iterable[Example]) -> tuple[Example, ...]:
    """The questions of ``builtin:everyday`` of all kinds but those that an edit is made for.

    A kind is the same where its name has a word in common with the category of any example: a file of own questions
    without categories leaves every kind.

    Args:
        made_for: Examples of the tasks that the edit is made for.
    """
    said = {word for category in {example.category for example in made_for} for word in _words(category)}
    return tuple(example for example in _everyday().examples if said.isdisjoint(_words(example.category)))


def searched_other_kinds(made_for: Iterable[Example], seed: int) -> Task | None:
    """The few that the search's limit is on; None where there is no other kind. Arguments as `measured_other_kinds`."""
    searched, others = _searched_templates(), other_kinds(made_for)
    return _task([example for example in others if example.template in searched], SEARCHED_EXAMPLES, seed)


def measured_other_kinds(made_for: Iterable[Example], size: int | None, seed: int) -> Task | None:
    """Those that are measured before and after; None where there is no other kind.

    Args:
        made_for: Examples of the tasks that the edit is made for.
        size: How many at most; None for all.
        seed: Of the draw.
    """
    searched, others = _searched_templates(), other_kinds(made_for)
    return _task([example for example in others if example.template not in searched], size, seed)


def _task(examples: list[Example], size: int | None, seed: int) -> Task | None:
    if not examples:
        return None
    drawn = sample(examples, len(examples) if size is None else size, seed)
    return replace(_everyday(), name=OTHER_KINDS, examples=drawn)


@cache
def _everyday() -> Task:
    return load_task("builtin:everyday")


@cache
def _searched_templates() -> frozenset[str]:
    of_kind: dict[str, set[str]] = defaultdict(set)
    for example in _everyday().examples:
        of_kind[example.category].add(example.template)
    return frozenset(
        template
        for templates in of_kind.values()
        for template in sorted(templates, key=template_hash)[:SEARCHED_TEMPLATES]
    )


def _words(category: str) -> set[str]:
    found = set(words(category.replace("_", " "))) - IN_SEVERAL
    return {WRITTEN_DIFFERENTLY.get(word, word) for word in found}
