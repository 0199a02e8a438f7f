"""Which names of persons mean which group, where a file writes them in several ways; and who is stereotyped.

Files give the stereotyped group in one form ("F") and persons in another ("mujer"). Names are compared as a whole, in
a common form, never by what they contain: one group's name may contain another's. Knows no benchmark.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.files import json_content

NOT_FOUND = "stereotyped option not found"
"""Facet of an example whose file names a stereotyped group, but not so that one option could be told: the names."""

MOST_NOT_FOUND = 0.05
"""Share of a task's rows whose stereotyped option may be unknown without asking for a map of groups. BBQ's own files
have such rows where both persons are of one group (3 % of MBBQ's Gender_identity); a file whose names are in another
language has a quarter or more, and bias scores of what is left are of a skewed part."""

GroupMap = Mapping[str, str]
"""Plain name of a person or group -> plain name of the group that it means."""


def plain_name(name: str) -> str:
    """One form for names that are written in several ways: lower case, no accents, letters and digits only."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return re.sub(r"[\W_]", "", "".join(letter for letter in decomposed if not unicodedata.combining(letter)))


def read_groups(path: Path) -> GroupMap:
    """Read the user's map: a JSON object from names to groups, such as ``{"mujer": "F", "hombre": "M"}``.

    Raises:
        InputError: it can't be read, or is something else.
    """
    content = json_content(path)
    if not isinstance(content, dict):
        raise InputError(f'{path}: not one JSON object from names to groups; write one such as {{"mujer": "F"}}')
    for name, group in content.items():
        if not isinstance(group, str) or not plain_name(group) or not plain_name(name):
            raise InputError(f"{path}: {name!r} is given the group {group!r}; both must be texts; write them out")
    return {plain_name(name): plain_name(group) for name, group in content.items()}


def with_groups(names: Iterable[str], groups: GroupMap) -> frozenset[str]:
    """Plain names, and the groups that they mean."""
    there = frozenset(names)
    return there | {groups[name] for name in there if name in groups}


def stereotyped_option(
    persons: Sequence[frozenset[str]], targets: frozenset[str], unknown: int, *, negative: bool
) -> int | None:
    """The option that agrees with the stereotype: the stereotyped group in negative questions, else the other person.

    Args:
        persons: Per option the plain names of whom it means.
        targets: Plain names of the stereotyped groups.
        unknown: The option that abstains.
        negative: Whether the question is of negative polarity.

    Returns:
        Its index; None unless exactly one of two persons is of a stereotyped group.
    """
    people = [index for index in range(len(persons)) if index != unknown]
    of_group = [index for index in people if persons[index] & targets]
    if len(people) != 2 or len(of_group) != 1:
        return None
    (target,) = of_group
    return target if negative else next(index for index in people if index != target)


def looked_for(targets: Iterable[str], persons: Iterable[tuple[Iterable[str], bool]]) -> tuple[tuple[str, str], ...]:
    """The facet of an example whose stereotyped option was not found.

    Args:
        targets: The stereotyped groups, as in the file.
        persons: Of each its names as in the file, and whether they mean a group that is known. Those whose group is
            not known are named; all of them where each is known, but not one alone is stereotyped.
    """
    there = list(persons)
    unknown = [names for names, known in there if not known] or [names for names, _ in there]
    named = sorted({name for names in unknown for name in names})
    return ((NOT_FOUND, f"groups {', '.join(sorted(set(targets)))}; persons {', '.join(named)}"),)


def check_found(name: str, examples: Sequence[Example], *, mapped: bool) -> None:
    """Refuse a task too many of whose rows have no stereotyped option: bias scores would be of a skewed part of them.

    Args:
        name: Of the task.
        examples: All of it.
        mapped: Whether there is a map of the user's, which then lacks names.

    Raises:
        InputError: they are more than `MOST_NOT_FOUND`; a map is asked for.
    """
    sought = Counter(example.facet(NOT_FOUND) for example in examples if example.stereotyped is None)
    lost = sum(sought.values())
    if lost <= MOST_NOT_FOUND * len(examples):
        return
    (seen, _), *_ = sought.most_common(1)
    advice = (
        "Add names and their groups to the file of --groups, or give one with {} alone to go without them"
        if mapped
        else "Give --groups FILE, a JSON object from names of persons to groups, such as "
        '{"mujer": "F", "hombre": "M"}; or {} to go without them'
    )
    raise InputError(
        f"task {name}: which person is stereotyped was not found in {lost} of {len(examples)} rows "
        f"({lost / len(examples):.0%}), most often of {seen}. Their bias would not be measured. {advice}"
    )
