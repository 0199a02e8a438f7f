"""EsBBQ and CaBBQ: BBQ in Spanish and Catalan (Ruiz-Fernández et al., 2025, arXiv 2507.11216).

The published files give the stereotyped person first and ``unknown``, in English, last in every row. The word is
replaced by one of the language, and options are shuffled. Templates have the same numbers in both languages, so that a
template and its translation are always in the same split.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.bbq_form import (
    check_ambiguous,
    checked_texts,
    chosen,
    index_text,
    literal,
    number_text,
    one_of,
    shuffled,
    texts,
)
from crispr_lm.tasks.files import table_rows
from crispr_lm.tasks.groups import GroupMap, looked_for, plain_name, stereotyped_option, with_groups
from crispr_lm.tasks.jsonl import check_options, json_rows, text_field
from crispr_lm.tasks.languages import LANGUAGES

ANSWERS = ("ans0", "ans1", "ans2")
COLUMNS = (
    "template_id", "category", "question_polarity", "context_condition", "stereotyped_groups", "context", "question",
    *ANSWERS, "answer_info.ans0", "answer_info.ans1", "answer_info.ans2", "label",
)  # fmt: skip
CONDITIONS = {"ambig": AMBIGUOUS, "disambig": DISAMBIGUATED}
POLARITIES = {"neg": "negative", "nonneg": "nonnegative"}

UNKNOWN = "unknown"
"""The group of the option that abstains, and its text, in the files of both languages."""

WORDINGS = 5
"""How many of a language's ways to say "unknown" are used; the others would do as well."""


def read_esbbq(language: str, path: Path, groups: GroupMap | None = None) -> list[Example]:
    """Read a published file (CSV or JSON Lines), or the CSV files of a folder.

    Args:
        language: "es" or "ca".
        path: The file or folder.
        groups: Names of persons to groups, beside those of the file.

    Raises:
        InputError: a file is missing or unreadable, or a row is malformed (file and line are named).
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"folder {path} holds no .csv file; give the folder data_{language}, or one file")
    return [_example(row, where, language, groups or {}) for file in files for where, row in _rows(file)]


read_spanish = partial(read_esbbq, "es")
read_catalan = partial(read_esbbq, "ca")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".jsonl":
        yield from table_rows(path, COLUMNS, ",")
        return
    for where, row in json_rows(path):
        info = row.get("answer_info")
        yield (
            where,
            {**row, **{f"answer_info.{name}": labels for name, labels in info.items()}}
            if isinstance(info, dict)
            else row,
        )


def _example(row: dict[str, Any], where: str, language: str, groups: GroupMap) -> Example:
    context, question = (text_field(row, name, where) for name in ("context", "question"))
    _check_language(question, language, where)
    labels = [checked_texts(literal(row, f"answer_info.{name}", where), f"answer_info.{name}", where)
              for name in ANSWERS]  # fmt: skip
    abstaining = [index for index, names in enumerate(labels) if names[-1] == UNKNOWN]
    if len(abstaining) != 1:
        raise InputError(f"{where}: {len(abstaining) or 'no'} options have the group 'unknown'; exactly one must")
    (unknown,) = abstaining
    options = [text_field(row, name, where) for name in ANSWERS]
    if options[unknown] == UNKNOWN:
        options[unknown] = chosen(LANGUAGES[language].unknown[:WORDINGS], context, question)
    condition = one_of(row, "context_condition", CONDITIONS, where)
    polarity = one_of(row, "question_polarity", POLARITIES, where)
    answer = index_text(row, "label", len(options), where)
    check_ambiguous(condition, answer, unknown, where)
    targets = texts(row, "stereotyped_groups", where)
    persons = [with_groups(map(plain_name, _names(names)), groups) for names in labels]
    target_names = with_groups(map(plain_name, targets), groups)
    stereotyped = stereotyped_option(persons, target_names, unknown, negative=polarity == "negative")
    category = text_field(row, "category", where)
    people = [(names, bool(persons[index] & target_names)) for index, names in enumerate(labels) if index != unknown]
    return shuffled(
        Example(
            context,
            question,
            check_options(options, where),
            answer,
            template=f"esbbq {category}/{number_text(row, 'template_id', where)}",
            condition=condition,
            unknown=unknown,
            stereotyped=stereotyped,
            category=category,
            polarity=polarity,
            source=where,
            facets=() if stereotyped is not None else looked_for(targets, people),
            language=language,
        )
    )


def _names(labels: list[str]) -> list[str]:
    """The group and, where persons have proper names, what follows their gender: "m, latino" is of "latino"."""
    group = labels[-1]
    return [group, group.rpartition(", ")[2]]


def _check_language(question: str, language: str, where: str) -> None:
    """Spanish questions begin with an inverted question mark, Catalan ones do not: true of every published row."""
    if ("¿" in question) != (language == "es"):
        given, other = ("Catalan", "cabbq") if language == "es" else ("Spanish", "esbbq")
        raise InputError(f"{where}: the question looks {given}; read the file with {other}:")
