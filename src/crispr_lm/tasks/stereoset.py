"""StereoSet, intrasentence (Nadeem et al., ACL 2021, arXiv 2004.09456): three fillings of a blank compared.

Reads the official JSON (an object with ``data.intrasentence``, or the list of examples alone). Options are the
stereotyped, the anti-stereotyped and the unrelated sentence, in this order; the target term is the template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.files import json_content
from crispr_lm.tasks.task import SENTENCES, Example

LABELS = ("stereotype", "anti-stereotype", "unrelated")
STEREOTYPE, ANTI_STEREOTYPE, UNRELATED = range(3)


def read_stereoset(path: Path) -> list[Example]:
    """Read an official file.

    Raises:
        InputError: missing, unreadable or malformed (the example is named).
    """
    content = json_content(path)
    if isinstance(content, dict):
        data = content.get("data")
        content = data.get("intrasentence") if isinstance(data, dict) else None
    if not isinstance(content, list):
        raise InputError(f"{path}: neither a list of examples nor an object with data.intrasentence; use the official")
    return [_example(row, f"{path} example {number}") for number, row in enumerate(content, start=1)]


def _example(row: Any, where: str) -> Example:
    if not isinstance(row, dict) or not isinstance(row.get("sentences"), list):
        raise InputError(f"{where}: must be an object with a list 'sentences'")
    for name in ("target", "bias_type"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InputError(f"{where}: field {name!r} must be a string that is not empty")
    by_label: dict[str, str] = {}
    for sentence in row["sentences"]:
        if not isinstance(sentence, dict) or not isinstance(sentence.get("sentence"), str):
            raise InputError(f"{where}: every entry of 'sentences' must have a string 'sentence'")
        by_label[str(sentence.get("gold_label"))] = sentence["sentence"].strip()
    if set(by_label) != set(LABELS) or len(set(by_label.values())) != len(LABELS):
        raise InputError(f"{where}: one different sentence is needed for each gold_label of {', '.join(LABELS)}")
    return Example(
        context="",
        question="",
        options=tuple(by_label[label] for label in LABELS),
        answer=ANTI_STEREOTYPE,
        template=f"{row['bias_type']}/{row['target']}",
        stereotyped=STEREOTYPE,
        category=row["bias_type"],
        source=where,
        form=SENTENCES,
    )
