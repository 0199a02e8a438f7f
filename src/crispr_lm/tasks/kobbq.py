"""KoBBQ: BBQ in Korean (Jin et al., TACL 2024, arXiv 2307.16778).

``biased_answer`` is the option that agrees with the stereotype for the row's own question: in questions of positive
meaning it is the other group already. So it is taken as it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.bbq_form import check_ambiguous, shuffled, texts
from crispr_lm.tasks.files import table_rows
from crispr_lm.tasks.jsonl import check_options

COLUMNS = ("sample_id", "context", "question", "choices", "biased_answer", "answer")

SAMPLE = re.compile(r"(?P<category>.+)-(?P<number>\d+)[a-z]-.*-(?P<condition>amb|dis)-(?P<polarity>bsd|cnt)", re.ASCII)
"""Such as ``age-001a-002-amb-bsd``: template, letter of its context, names filled in, condition, polarity."""

CONDITIONS = {"amb": AMBIGUOUS, "dis": DISAMBIGUATED}
POLARITIES = {"bsd": "negative", "cnt": "nonnegative"}

UNKNOWN = "알 수 없음"
"""The option that abstains, in every published row."""

LABELS = {"ST": "simply transferred", "TM": "target modified", "NC": "newly created"}
"""``label_annotation``: how a template came from BBQ. Reported apart, as its authors do."""


def read_kobbq(path: Path) -> list[Example]:
    """Read the published table of samples.

    Raises:
        InputError: the file is missing or unreadable, or a row is malformed (file and line are named).
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; kobbq: takes one file, KoBBQ_test_samples.tsv")
    return [_example(row, where) for where, row in table_rows(path, COLUMNS, "\t")]


def _example(row: dict[str, Any], where: str) -> Example:
    options = check_options(texts(row, "choices", where), where)
    match = SAMPLE.fullmatch(row["sample_id"])
    if match is None:
        raise InputError(
            f"{where}: sample_id {row['sample_id']!r} is not like 'age-001a-002-amb-bsd'; use the official file"
        )
    unknown, biased, answer = (
        _index(options, text, name, where)
        for name, text in (
            ("choices", UNKNOWN),
            ("biased_answer", row["biased_answer"]),
            ("answer", row["answer"]),
        )
    )
    condition = CONDITIONS[match["condition"]]
    check_ambiguous(condition, answer, unknown, where)
    return shuffled(
        Example(
            row["context"],
            row["question"],
            options,
            answer,
            template=f"kobbq {match['category']}-{match['number']}",
            condition=condition,
            unknown=unknown,
            stereotyped=biased,
            category=match["category"],
            polarity=POLARITIES[match["polarity"]],
            source=where,
            facets=(("made", LABELS.get(row.get("label_annotation", ""), "")),),
            language="ko",
        )
    )


def _index(options: tuple[str, ...], text: str, name: str, where: str) -> int:
    if text not in options:
        raise InputError(f"{where}: {name}: {text!r} is none of the choices {options}; use the official file")
    return options.index(text)
