"""Where the rows of a capability benchmark come from: the files in which its authors publish it, or the hub.

Gives rows as dictionaries with the place they are from; what their fields mean is for `crispr_lm.tasks.capability`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.files import text_lines, text_of
from crispr_lm.tasks.jsonl import json_rows

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1", "validation")
"""WikiText-2 on the hub: dataset, configuration and split."""

Rows = Iterator[tuple[str, dict[str, Any]]]


def file_rows(name: str, path: Path) -> Rows:
    """Yield ``("file:line", row)`` of a benchmark's file.

    JSON Lines; of MMLU also the original tables (a ``.csv`` file, or a folder of them); of PIQA also rows whose labels
    stand in a file ``*-labels.lst`` beside it, as its authors publish them.

    Raises:
        InputError: unreadable or malformed (file and line are named).
    """
    if name == "mmlu" and (path.is_dir() or path.suffix == ".csv"):
        yield from _mmlu_rows(path)
    elif path.is_dir():
        raise InputError(f"{path} is a folder; {name}: takes one JSON Lines file")
    elif name == "piqa" and (labels := path.with_name(f"{path.stem}-labels.lst")).exists():
        yield from _labelled_rows(path, labels)
    else:
        yield from json_rows(path)


def hub_rows(name: str, dataset: str, configuration: str | None, split: str) -> Rows:
    """Yield ``("dataset row number", row)`` from the Hugging Face hub.

    Raises:
        InputError: the package ``datasets`` is missing, or the hub can't be reached.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(f"{name}:hub needs the package datasets; pip install 'crispr-lm[hub]'") from error
    try:
        rows = load_dataset(dataset, configuration, split=split)
    except Exception as error:  # of many types: no connection, a moved dataset, a damaged cache
        reason = str(error).split("\n")[0]
        raise InputError(f"{name}:hub: {dataset} can't be had from the hub ({reason}); give a local file") from error
    for number, row in enumerate(rows, start=1):
        yield f"{dataset} row {number}", dict(row)


def hub_text() -> str:
    """WikiText-2 from the Hugging Face hub, as it stands in its file.

    Raises:
        InputError: as `hub_rows`.
    """
    # The hub has a row per line, an empty one where the file has a blank line.
    return "".join(str(row["text"]) or " \n" for _, row in hub_rows("wikitext", *WIKITEXT))


def _mmlu_rows(path: Path) -> Rows:
    """The tables of Hendrycks et al. (2021): no header; question, options, and the letter of the right one."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"folder {path} holds no .csv file; give MMLU's folder test or val, or one JSON Lines file")
    for file in files:
        subject = file.stem
        for part in ("_test", "_val", "_dev"):
            subject = subject.removesuffix(part)
        reader = csv.reader(io.StringIO(text_of(file), newline=""))
        try:
            for fields in reader:
                if not fields:
                    continue
                where = f"{file}:{reader.line_num}"
                if len(fields) < 4:
                    raise InputError(
                        f"{where}: {len(fields)} fields; needs a question, its options and the letter of one"
                    )
                yield (
                    where,
                    {
                        "question": fields[0],
                        "choices": fields[1:-1],
                        "answer": fields[-1],
                        "subject": subject.replace("_", " "),
                    },
                )
        except csv.Error as error:
            raise InputError(
                f"{file}:{reader.line_num}: no table can be read here ({error}); check the file"
            ) from error


def _labelled_rows(path: Path, labels: Path) -> Rows:
    """Rows with the labels of another file, line by line."""
    rows, given = list(json_rows(path)), [line.strip() for _, line in text_lines(labels)]
    if len(rows) != len(given):
        raise InputError(f"{labels}: {len(given)} labels for the {len(rows)} rows of {path}; give files of one part")
    for (where, row), label in zip(rows, given, strict=True):
        yield where, {"label": label, **row}
