"""BBQ: the Bias Benchmark for Question answering (Parrish et al., Findings of ACL 2022, arXiv 2110.08193).

Reads the official JSONL rows. Which option is stereotyped is resolved through the group names in ``answer_info`` and
``stereotyped_groups``, never through an option's position. Knows nothing about models or prompts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.jsonl import check_options, index_field, json_rows, text_field
from crispr_lm.tasks.task import AMBIGUOUS, DISAMBIGUATED, Example

CONDITIONS = {"ambig": AMBIGUOUS, "disambig": DISAMBIGUATED}
ANSWERS = ("ans0", "ans1", "ans2")
POLARITIES = {"neg": "negative", "nonneg": "nonnegative"}

NAME_LABEL = re.compile(r"^[MF]-(?=.)|^[MF]$")
"""The labels of persons told by their proper names begin with, or are, a gender's letter."""

# The official files write one group in several ways (answer_info "F" or "woman", stereotyped_groups "Women").
# Keys and values are normalised names: lower case, letters and digits only.
SAME_GROUP = {
    "woman": "f", "women": "f", "girl": "f", "girls": "f", "female": "f",
    "man": "m", "men": "m", "boy": "m", "boys": "m", "male": "m",
    "transgenderwomen": "trans", "transgendermen": "trans", "transgenderwoman": "trans", "transgenderman": "trans",
    "transf": "trans", "transm": "trans", "transgender": "trans",
}  # fmt: skip


def read_bbq(path: Path) -> list[Example]:
    """Read an official BBQ JSONL file, or every ``*.jsonl`` file of a folder.

    Raises:
        InputError: a file is missing or unreadable, or a row is malformed (file and line are named).
    """
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise InputError(f"folder {path} holds no .jsonl file; give an official BBQ file or a folder of them")
    else:
        files = [path]
    return [example for file in files for example in examples_from_rows(json_rows(file))]


def examples_from_rows(rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Example]:
    """Turn (place, official BBQ row) pairs into examples; `place` is for messages."""
    return [_example(row, where) for where, row in rows]


def _example(row: dict[str, Any], where: str) -> Example:
    option_texts = [text_field(row, name, where) for name in ANSWERS]
    options = check_options(option_texts, where)
    category = text_field(row, "category", where)
    question_index = row.get("question_index")
    if not isinstance(question_index, (str, int)) or isinstance(question_index, bool):
        raise InputError(f"{where}: field 'question_index' must be a string or an integer, not {question_index!r}")
    condition = text_field(row, "context_condition", where)
    if condition not in CONDITIONS:
        raise InputError(f"{where}: context_condition is {condition!r}, must be 'ambig' or 'disambig'")
    polarity = text_field(row, "question_polarity", where)
    if polarity not in POLARITIES:
        raise InputError(f"{where}: question_polarity is {polarity!r}, must be 'neg' or 'nonneg'")
    names = _group_names(row, where)
    abstaining = [index for index, group in enumerate(names) if "unknown" in group]
    if len(abstaining) != 1:
        raise InputError(
            f"{where}: {len(abstaining) or 'no'} entries of 'answer_info' have the group 'unknown'; exactly one must"
        )
    (unknown,) = abstaining
    answer = index_field(row, "label", len(options), where)
    if condition == "ambig" and answer != unknown:
        raise InputError(f"{where}: an ambiguous row's label must be its unknown option ({unknown}), not {answer}")
    return Example(
        context=text_field(row, "context", where),
        question=text_field(row, "question", where),
        options=options,
        answer=answer,
        template=f"{category}/{question_index}",
        condition=CONDITIONS[condition],
        unknown=unknown,
        stereotyped=_stereotyped(names, unknown, _stereotyped_groups(row, where), polarity),
        category=category,
        polarity=POLARITIES[polarity],
        source=where,
        facets=(("persons", "proper names" if _by_name(row) else "groups"),),
    )


def _by_name(row: dict[str, Any]) -> bool:
    """Whether persons are told by proper names that stand for their group ("DeShawn", labelled "M-Black")."""
    labels = [label for name in ANSWERS for label in row["answer_info"][name]]
    return any(NAME_LABEL.match(label.strip()) for label in labels)


def _normalise(name: str) -> str:
    """Lower case, letters and digits only, the gender prefix of name rows ("F-Black") taken off, synonyms joined."""
    plain = re.sub(r"[\W_]", "", _without_marks(re.sub(r"^[MF]-", "", name.strip()).casefold()))
    return SAME_GROUP.get(plain, plain)


def _without_marks(text: str) -> str:
    """One form for letters that can be written in several ways: compatibility forms joined, accents taken off."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))


def _group_names(row: dict[str, Any], where: str) -> list[set[str]]:
    """Per option the normalised names that ``answer_info`` gives it (the person's phrase and the group)."""
    answer_info = row.get("answer_info")
    if not isinstance(answer_info, dict):
        raise InputError(f"{where}: field 'answer_info' is missing or no object; use the official BBQ files")
    groups = []
    for name in ANSWERS:
        labels = answer_info.get(name)
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise InputError(f"{where}: answer_info[{name!r}] must be a list of strings, not {labels!r}")
        groups.append({_normalise(label) for label in labels} - {""})
    return groups


def _stereotyped_groups(row: dict[str, Any], where: str) -> set[str]:
    metadata = row.get("additional_metadata")
    groups = metadata.get("stereotyped_groups") if isinstance(metadata, dict) else None
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise InputError(f"{where}: additional_metadata.stereotyped_groups must be a list of strings, not {groups!r}")
    return {_normalise(group) for group in groups}


def _stereotyped(names: list[set[str]], unknown: int, groups: set[str], polarity: str) -> int | None:
    """Index of the option that agrees with the stereotype, None unless exactly one person is of a stereotyped group.

    BBQ, section 3.3: the stereotyped group in negative questions, the other person in non-negative ones.
    """
    people = [index for index in range(len(names)) if index != unknown]
    of_group = [index for index in people if names[index] & groups]
    if len(of_group) != 1 or len(people) != 2:
        return None
    if polarity == "neg":
        return of_group[0]
    return next(index for index in people if index != of_group[0])
