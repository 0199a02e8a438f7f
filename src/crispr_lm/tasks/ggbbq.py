"""GG-BBQ: gender bias in German (Satheesh et al., 2025, arXiv 2507.16410), both subsets.

Each subset is two files, one for each condition. Rows say of trans persons ``non_binary`` where the stereotyped groups
say "trans". They name no template: those with the same stereotype (``relevant_social_values`` and stereotyped groups)
are taken as one, which joins a few of the published templates and separates none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.bbq_form import check_ambiguous, checked_texts, index_text, literal, one_of, shuffled, texts
from crispr_lm.tasks.groups import GroupMap, looked_for, plain_name, stereotyped_option, with_groups
from crispr_lm.tasks.jsonl import check_options, json_rows, text_field

CHOICES = ("choice_0", "choice_1", "choice_2")
CONDITIONS = {"ambiguous_context": AMBIGUOUS, "disambiguous_context": DISAMBIGUATED}
POLARITIES = {"negative": "negative", "non_negative": "nonnegative"}

SAME_GROUP: GroupMap = {"nonbinary": "trans", "transgenderwomen": "trans", "transgendermen": "trans"}
"""Plain names: what choice_info and known_stereotyped_groups call the same persons."""

TARGETS = {"f": "women", "m": "men", "trans": "trans persons"}
"""Stereotyped groups by plain name, for people; reported apart."""


def read_ggbbq(path: Path, groups: GroupMap | None = None) -> list[Example]:
    """Read a published file, or the files of a folder (a subset's two conditions).

    Raises:
        InputError: a file is missing or unreadable, or a row is malformed (file and line are named).
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"folder {path} holds no .jsonl file; give the folder of a subset, or one file")
    known = {**SAME_GROUP, **(groups or {})}
    return [_example(row, where, known) for file in files for where, row in json_rows(file)]


def _example(row: dict[str, Any], where: str, groups: GroupMap) -> Example:
    options = check_options([text_field(row, name, where) for name in CHOICES], where)
    labels = _labels(row, where)
    abstaining = [index for index, names in enumerate(labels) if names[-1] == "unknown"]
    if len(abstaining) != 1:
        raise InputError(f"{where}: {len(abstaining) or 'no'} entries of 'choice_info' are 'unknown'; exactly one must")
    (unknown,) = abstaining
    condition = one_of(row, "context_type", CONDITIONS, where)
    polarity = one_of(row, "question_type", POLARITIES, where)
    answer = index_text(row, "label", len(options), where)
    check_ambiguous(condition, answer, unknown, where)
    targets = texts(row, "known_stereotyped_groups", where)
    persons = [with_groups([plain_name(names[-1])], groups) for names in labels]
    target_names = with_groups(map(plain_name, targets), groups)
    stereotyped = stereotyped_option(persons, target_names, unknown, negative=polarity == "negative")
    known = target_names | TARGETS.keys()
    people = [([names[-1]], bool(persons[index] & known)) for index, names in enumerate(labels) if index != unknown]
    stereotype = row.get("relevant_social_values") or "(not named)"
    of = "-".join(sorted({groups.get(plain_name(name), plain_name(name)) for name in targets}))
    return shuffled(
        Example(
            text_field(row, "context", where),
            text_field(row, "question", where),
            options,
            answer,
            template=f"ggbbq {stereotype}/{of}",
            condition=condition,
            unknown=unknown,
            stereotyped=stereotyped,
            category="gender",
            polarity=polarity,
            source=where,
            facets=(("target", TARGETS.get(of, of)), *(() if stereotyped is not None else looked_for(targets, people))),
            language="de",
        )
    )


def _labels(row: dict[str, Any], where: str) -> list[list[str]]:
    """Per choice its text and group, from a Python dictionary in text."""
    info = literal(row, "choice_info", where)
    if not isinstance(info, dict) or not all(number in info for number in range(len(CHOICES))):
        raise InputError(f"{where}: field 'choice_info' must hold entries 0, 1 and 2; use the official file")
    return [checked_texts(info[number], "choice_info", where) for number in range(len(CHOICES))]
