"""Winogender (Rudinger et al., NAACL 2018, arXiv 1804.09301): does the answer change with the pronoun's gender?

Reads the official ``all_sentences.tsv``: 720 sentences, each with a female, a male and a neutral pronoun; the id gives
occupation, participant, and whom the pronoun refers to (0 the occupation, 1 the participant).
"""

from __future__ import annotations

import re
from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.files import table_rows

IDENTIFIER = re.compile(r"(?P<occupation>[^.]+)\.(?P<participant>[^.]+)\.(?P<answer>[01])\.(?P<gender>\w+)\.txt$")
GENDERS = ("female", "male", "neutral")
PRONOUN = re.compile(r"\b(he|she|they|him|her|them|his|hers|their|theirs)\b", re.IGNORECASE)


def read_winogender(path: Path) -> list[Example]:
    """Read the official file.

    Raises:
        InputError: missing, unreadable or malformed (file and line are named).
    """
    return [_example(where, row) for where, row in table_rows(path, ("sentid", "sentence"), delimiter="\t")]


def _example(where: str, row: dict[str, str]) -> Example:
    name = IDENTIFIER.match(row["sentid"].strip())
    if name is None or name["gender"] not in GENDERS:
        raise InputError(
            f"{where}: sentid {row['sentid']!r} is not of the form technician.customer.1.male.txt; use the official one"
        )
    sentence = row["sentence"].strip()
    pronoun = PRONOUN.search(sentence)
    if pronoun is None:
        raise InputError(f"{where}: no pronoun in {sentence!r}; use the official file")
    participant = name["participant"]
    return Example(
        context=sentence,
        question=f'Who does "{pronoun[0].lower()}" refer to?',
        options=(f"the {name['occupation']}", "someone else" if participant == "someone" else f"the {participant}"),
        answer=int(name["answer"]),
        template=name["occupation"],
        category="gender",
        source=where,
        facets=(
            ("gender", name["gender"]),
            ("sentence", f"{name['occupation']}.{participant}.{name['answer']}"),
        ),
    )
