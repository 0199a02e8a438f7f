"""BBQ: the Bias Benchmark for Question answering (Parrish et al., Findings of ACL 2022, arXiv 2110.08193).

Reads the official JSONL rows. Which option is stereotyped is resolved through the group names in ``answer_info`` and
``stereotyped_groups``, never through an option's position. Rows of the intersectional categories name the stereotyped
race alone; which gender or status goes with it follows from the template's other rows. Knows nothing about models or
prompts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.groups import GroupMap, looked_for, with_groups
from crispr_lm.tasks.jsonl import check_options, index_field, json_rows, missing, text_field

CONDITIONS = {"ambig": AMBIGUOUS, "disambig": DISAMBIGUATED}
ANSWERS = ("ans0", "ans1", "ans2")
POLARITIES = {"neg": "negative", "nonneg": "nonnegative"}

LABEL = re.compile(r"(?:(?P<status>lowSES|highSES)-)?(?:(?P<gender>[MF])(?:-|$))?(?P<group>.*)", re.DOTALL)
"""Forms of a label: "F-Black", "lowSES-Black", "lowSES-F-Black"; "F" alone gives a person's gender and no more."""

GENDERED = re.compile(r"\b(?:wo)?m[ae]n\b|\b(?:girl|boy|female|male)s?\b", re.IGNORECASE)
"""Words that say a person's gender where no proper name does."""

INTERSECTIONAL = "_x_"
"""Stands in the names of the categories whose persons differ in two traits."""

# The official files write one group in several ways (answer_info "F" or "woman", stereotyped_groups "Women").
# Keys and values are normalised names: lower case, letters and digits only.
SAME_GROUP = {
    "woman": "f", "women": "f", "girl": "f", "girls": "f", "female": "f",
    "man": "m", "men": "m", "boy": "m", "boys": "m", "male": "m",
    "transgenderwomen": "trans", "transgendermen": "trans", "transgenderwoman": "trans", "transgenderman": "trans",
    "transf": "trans", "transm": "trans", "transgender": "trans",
    "latina": "latino",
}  # fmt: skip
KNOWN_GROUPS = frozenset(SAME_GROUP.values())


def read_bbq(path: Path, groups: GroupMap | None = None) -> list[Example]:
    """Read an official BBQ JSONL file, or every ``*.jsonl`` file of a folder.

    Args:
        path: The file or folder.
        groups: Names of persons to groups, beside those known here.

    Raises:
        InputError: a file is missing or unreadable, or a row is malformed (file and line are named).
    """
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise InputError(f"folder {path} holds no .jsonl file; give an official BBQ file or a folder of them")
    else:
        files = [path]
    return [example for file in files for example in examples_from_rows(json_rows(file), groups)]


def examples_from_rows(
    rows: Iterable[tuple[str, dict[str, Any]]], groups: GroupMap | None = None, *, words: bool = False
) -> list[Example]:
    """Turn (place, official BBQ row) pairs into examples.

    Args:
        rows: The place is for messages.
        groups: Names of persons to groups, beside those known here.
        words: Whether words of an option that the map has say the group too: some labels are wrong.
    """
    examples: list[Example] = []
    waiting: list[tuple[int, _Read]] = []  # persons are kept only where other rows say more: they take memory
    for where, row in rows:
        read = _with_groups(_read(row, where), groups or {}, words=words)
        if INTERSECTIONAL in read.example.category:
            waiting.append((len(examples), read))
        examples.append(_resolved(read, None))
    second = _second_traits([read for _, read in waiting])
    for place, read in waiting:
        examples[place] = _resolved(read, second.get(read.example.template))
    return examples


@dataclass(frozen=True)
class _Person:
    """Who an option names.

    Attributes:
        names: Normalised: the phrase, the label, and the group in it.
        trait: The second trait of an intersectional category, gender or status; empty in others.
        written: What the file says of them.
    """

    names: frozenset[str]
    trait: str
    written: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """A row as read, its stereotyped option not yet resolved; `targets` are its stereotyped groups as written."""

    example: Example
    persons: tuple[_Person, ...]
    groups: frozenset[str]
    targets: tuple[str, ...]

    @property
    def people(self) -> list[int]:
        """The options that name somebody."""
        return [index for index in range(len(self.persons)) if index != self.example.unknown]

    @property
    def of_group(self) -> list[int]:
        """Those of them who are of a stereotyped group."""
        return [index for index in self.people if self.persons[index].names & self.groups]


def _with_groups(read: _Read, groups: GroupMap, *, words: bool) -> _Read:
    """The row with the groups that a map gives to its persons and to its stereotyped groups."""
    if not groups:
        return read
    known = {name: SAME_GROUP.get(group, group) for name, group in groups.items()}
    persons = []
    for option, person in zip(read.example.options, read.persons, strict=True):
        said = {known[word] for word in map(_plain, option.split()) if word in known} if words else set()
        persons.append(replace(person, names=with_groups(person.names, known) | said))
    return replace(read, persons=tuple(persons), groups=with_groups(read.groups, known))


def _resolved(read: _Read, trait: str | None) -> Example:
    """The example with its stereotyped option, or with what was looked for where it is not found."""
    stereotyped = _stereotyped(read, trait)
    if stereotyped is not None:
        return replace(read.example, stereotyped=stereotyped)
    known = read.groups | KNOWN_GROUPS
    people = [read.persons[index] for index in read.people]
    sought = looked_for(read.targets, ((person.written, bool(person.names & known)) for person in people))
    return replace(read.example, facets=(*read.example.facets, *sought))


def _read(row: dict[str, Any], where: str) -> _Read:
    if not any(name in row for name in ANSWERS):
        raise InputError(
            f"{where}: no row of an official BBQ file (they have 'ans0', 'ans1' and 'ans2'); use those, or choices:"
        )
    option_texts = [text_field(row, name, where) for name in ANSWERS]
    options = check_options(option_texts, where)
    category = text_field(row, "category", where)
    question_index = row.get("question_index")
    if question_index is None:
        raise missing(row, "question_index", where)
    if not isinstance(question_index, (str, int)) or isinstance(question_index, bool):
        raise InputError(f"{where}: field 'question_index' must be a string or an integer, not {question_index!r}")
    condition = text_field(row, "context_condition", where)
    if condition not in CONDITIONS:
        raise InputError(f"{where}: context_condition is {condition!r}, must be 'ambig' or 'disambig'")
    polarity = text_field(row, "question_polarity", where)
    if polarity not in POLARITIES:
        raise InputError(f"{where}: question_polarity is {polarity!r}, must be 'neg' or 'nonneg'")
    persons = _persons(row, where)
    abstaining = [index for index, person in enumerate(persons) if "unknown" in person.names]
    if len(abstaining) != 1:
        raise InputError(
            f"{where}: {len(abstaining) or 'no'} entries of 'answer_info' have the group 'unknown'; exactly one must"
        )
    (unknown,) = abstaining
    answer = index_field(row, "label", len(options), where)
    if condition == "ambig" and answer != unknown:
        raise InputError(f"{where}: an ambiguous row's label must be its unknown option ({unknown}), not {answer}")
    example = Example(
        context=text_field(row, "context", where),
        question=text_field(row, "question", where),
        options=options,
        answer=answer,
        template=f"{category}/{question_index}",
        condition=CONDITIONS[condition],
        unknown=unknown,
        category=category,
        polarity=POLARITIES[polarity],
        source=where,
        facets=(("persons", "proper names" if _by_name(row) else "groups"),),
    )
    targets = _stereotyped_groups(row, where)
    return _Read(example, persons, frozenset(map(_normalise, targets)), targets)


def _by_name(row: dict[str, Any]) -> bool:
    """Whether persons are given by proper names that stand for their group ("DeShawn", labelled "M-Black").

    "The Black woman" may carry the label "F-Black" too: a name says neither of the two in words.
    """
    for name in ANSWERS:
        words = f"{row[name]} {row['answer_info'][name][0]}"
        for label in row["answer_info"][name]:
            match = LABEL.fullmatch(label.strip())
            if match and match["gender"] and not GENDERED.search(words) and not _says(words, match["group"]):
                return True
    return False


def _says(words: str, group: str) -> bool:
    """Whether the words name the group; its last letter may differ by gender (Latino, Latina)."""
    return bool(group) and re.search(rf"\b{re.escape(group[:-1])}\w?\b", words, re.IGNORECASE) is not None


def _normalise(name: str) -> str:
    """Lower case, letters and digits only, what is before the group ("F-Black") taken off, synonyms joined."""
    return _plain(re.sub(r"^(?:(?:low|high)SES-)?(?:[MF]-)?", "", name.strip()))


def _plain(name: str) -> str:
    letters = re.sub(r"[\W_]", "", _without_marks(name.casefold()))
    return SAME_GROUP.get(letters, letters)


def _without_marks(text: str) -> str:
    """One form for letters that can be written in several ways: compatibility forms joined, accents taken off."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _persons(row: dict[str, Any], where: str) -> tuple[_Person, ...]:
    """Whom the options name, as ``answer_info`` says (the person's phrase and the group)."""
    answer_info = row.get("answer_info")
    if answer_info is None:
        raise missing(row, "answer_info", where)
    if not isinstance(answer_info, dict):
        raise InputError(f"{where}: field 'answer_info' must be an object; use the official BBQ files")
    persons = []
    for name in ANSWERS:
        labels = answer_info.get(name)
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise InputError(f"{where}: answer_info[{name!r}] must be a list of strings, not {labels!r}")
        names = {_normalise(label) for label in labels}
        trait = ""
        if INTERSECTIONAL in row["category"] and (match := LABEL.fullmatch(labels[-1].strip())):
            trait = match["status"] or match["gender"] or ""
            if not match["group"]:  # some labels leave the group to the words ("the Latina woman")
                names |= {_plain(word) for word in re.findall(r"\w+", labels[0])}
        persons.append(_Person(frozenset(names - {""}), trait, tuple(labels)))
    return tuple(persons)


def _stereotyped_groups(row: dict[str, Any], where: str) -> tuple[str, ...]:
    metadata = row.get("additional_metadata")
    if metadata is None:
        raise missing(row, "additional_metadata", where)
    if isinstance(metadata, dict) and metadata.get("stereotyped_groups") is None:
        raise missing(metadata, "stereotyped_groups", f"{where}: additional_metadata")
    groups = metadata.get("stereotyped_groups") if isinstance(metadata, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise InputError(f"{where}: additional_metadata.stereotyped_groups must be a list of strings, not {groups!r}")
    return tuple(groups)


def _second_traits(read: Sequence[_Read]) -> dict[str, str]:
    """Per intersectional template the gender or status that its stereotyped person has.

    BBQ compares that person with one of another race, of another gender or status, or of both. Where the race alone
    identifies the person, the second trait can be read off.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for one in read:
        if len(one.people) == 2 and len(one.of_group) == 1:
            seen[one.example.template].add(one.persons[one.of_group[0]].trait)
    return {template: next(iter(traits)) for template, traits in seen.items() if len(traits) == 1 and "" not in traits}


def _stereotyped(read: _Read, trait: str | None) -> int | None:
    """Index of the option that agrees with the stereotype, None unless exactly one person is of a stereotyped group.

    BBQ, section 3.3: the stereotyped group in negative questions, the other person in non-negative ones. Of two persons
    of the stereotyped race it is the one who has the template's second trait.
    """
    people, of_group = read.people, read.of_group
    if len(of_group) == 2 and trait:
        of_group = [index for index in of_group if read.persons[index].trait == trait]
    if len(of_group) != 1 or len(people) != 2:
        return None
    if read.example.polarity == POLARITIES["neg"]:
        return of_group[0]
    return next(index for index in people if index != of_group[0])
