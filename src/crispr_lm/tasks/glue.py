"""Classification tasks of GLUE with labels in words: MRPC, RTE, QNLI and SST-2, the label-bias half of CRISPR's paper.

Read from GLUE's own tables (``.tsv``), or from what the Hugging Face hub's ``nyu-mll/glue`` holds: Parquet, JSON Lines,
or the hub itself. A question shows the texts as context, asks what the task is about, and offers the same two labels
in the same order in every row; so a liking for a word or for a place shows as label bias.

Wang et al., *GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding* (ICLR 2019, arXiv
1804.07461).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, nearest
from crispr_lm.storage.untrusted import check_regular
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.benchmark_rows import Rows, hub_rows
from crispr_lm.tasks.files import lines_of, text_of
from crispr_lm.tasks.jsonl import json_rows

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

DATASET = "nyu-mll/glue"
"""On the hub; its labelled part beside the training one is "validation"."""


@dataclass(frozen=True)
class GlueTask:
    """How one task is read and asked.

    Attributes:
        title: For people.
        columns: Per known form of its files, the columns of its texts and of its label, in this order.
        names: What the texts are called in the prompt.
        question: What is asked about them.
        options: The labels in words.
        labels: What a file may hold as label, and the option that it means. Numbers are the hub's, whose directions
            differ between tasks.
    """

    title: str
    columns: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    question: str
    options: tuple[str, str]
    labels: Mapping[str, int]


_PAIR = ("sentence1", "sentence2", "label")
_ENTAILMENT = {"entailment": 0, "not_entailment": 1, "0": 0, "1": 1}

GLUE = {
    "mrpc": GlueTask(
        "MRPC",
        columns=(("#1 String", "#2 String", "Quality"), _PAIR),
        names=("Sentence 1", "Sentence 2"),
        question="Do the two sentences mean the same?",
        options=("yes", "no"),
        labels={"equivalent": 0, "not_equivalent": 1, "1": 0, "0": 1},
    ),
    "rte": GlueTask(
        "RTE",
        columns=(_PAIR,),
        names=("Sentence 1", "Sentence 2"),
        question="Does sentence 2 follow from sentence 1?",
        options=("yes", "no"),
        labels=_ENTAILMENT,
    ),
    "qnli": GlueTask(
        "QNLI",
        columns=(("question", "sentence", "label"),),
        names=("Question asked", "Sentence"),
        question="Does the sentence hold the answer to the question asked?",
        options=("yes", "no"),
        labels=_ENTAILMENT,
    ),
    "sst2": GlueTask(
        "SST-2",
        columns=(("sentence", "label"),),
        names=("Review",),
        question="Is the review positive or negative?",
        options=("positive", "negative"),
        labels={"positive": 0, "negative": 1, "1": 0, "0": 1},
    ),
}
"""The tasks by name, as in ``glue:NAME:PATH``."""

_TEXTS = {column for task in GLUE.values() for form in task.columns for column in form[:-1]}


def parted(name: str) -> tuple[str, str]:
    """A task's name as its kind and what stands behind it: kinds of GLUE have two words (``glue:mrpc``).

    Raises:
        InputError: no such task of GLUE is read here, or no path follows.
    """
    scheme, _, rest = name.partition(":")
    if scheme != "glue":
        return scheme, rest
    task, _, path = rest.partition(":")
    if task not in GLUE or not path:
        known = ", ".join(GLUE)
        raise InputError(f"task {name!r}: write glue:TASK:PATH, TASK being one of {known}{nearest(task, GLUE)}")
    return f"glue:{task}", path


def glue_instructions(name: str) -> tuple[str, ...]:
    """The ten bundled instructions of a task."""
    text = (resources.files("crispr_lm.tasks") / "data" / "glue_instructions.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)[name])


def read_glue(name: str, path: Path) -> list[Example]:
    """Read a file of a task.

    Args:
        name: Of the task, as in `GLUE`.
        path: A table of GLUE (``.tsv``), or JSON Lines or Parquet with the hub's columns; known by its content.

    Raises:
        InputError: the file is missing, unreadable, of another task, without labels, or a row is malformed.
    """
    return _examples(name, _file_rows(name, path))


def read_glue_from_hub(name: str) -> list[Example]:
    """Read the validation part of a task from the Hugging Face hub.

    Raises:
        InputError: the package ``datasets`` is missing, or the hub can't be reached.
    """
    return _examples(name, hub_rows(f"glue:{name}", DATASET, name, "validation"))


def _examples(name: str, rows: Rows) -> list[Example]:
    read = [(where, *_texts_and_label(name, row, where)) for where, row in rows]
    task, templates = GLUE[name], _templates([texts for _, texts, _ in read])
    return [
        Example(
            context="\n".join(f"{called}: {text}" for called, text in zip(task.names, texts, strict=True)),
            question=task.question,
            options=task.options,
            answer=label,
            template=template,
            source=where,
        )
        for (where, texts, label), template in zip(read, templates, strict=True)
    ]


def _templates(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A name per row, the same for rows that share a text, directly or through others.

    A premise of RTE and a sentence of QNLI stand in several rows: what was seen of it would help in another split.
    """
    first: dict[str, str] = {}

    def root(text: str) -> str:
        while first[text] != text:
            first[text] = text = first[first[text]]
        return text

    for texts in rows:
        for text in texts:
            first.setdefault(text, text)
            first[root(text)] = root(texts[0])
    return [root(texts[0]) for texts in rows]


def _texts_and_label(name: str, row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], int]:
    """The texts of a row, and the option that is right."""
    task = GLUE[name]
    form = _form(name, row, where)
    texts = []
    for column in form[:-1]:
        value = row[column]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: field {column!r} must be text that is not empty, not {value!r}; fill it in")
        texts.append(" ".join(value.split()))
    label = row.get(form[-1])
    if label in (None, "", -1, "-1"):
        raise InputError(f"{where}: no label, as in the test part of GLUE; give the validation part (dev)")
    if isinstance(label, bool) or str(label) not in task.labels:
        raise InputError(
            f"{where}: label {label!r} is none of {task.title}; labels: {', '.join(task.labels)}; give a file of "
            f"{task.title}"
        )
    return tuple(texts), task.labels[str(label)]


def _form(name: str, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The columns of the form that a row has.

    Raises:
        InputError: it has those of another task, or of none.
    """
    there = _TEXTS & set(row)
    for other, task in {name: GLUE[name], **GLUE}.items():
        form = next((form for form in task.columns if set(form[:-1]) == there), None)
        if form is not None and other == name:
            return form
        if form is not None:
            raise InputError(
                f"{where}: columns {', '.join(map(repr, form[:-1]))} are those of {task.title}, not of "
                f"{GLUE[name].title}; give the file as glue:{other}:PATH, or another file"
            )
    expected = " or ".join(", ".join(form) for form in GLUE[name].columns)
    raise InputError(f"{where}: this is no file of {GLUE[name].title}, whose columns are {expected}; give such a file")


def _file_rows(name: str, path: Path) -> Rows:
    if path.is_dir():
        raise InputError(f"{path} is a folder; glue:{name}: takes one file, such as dev.tsv")
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check the path") from error
    if head.startswith(b"PAR1"):
        return _parquet_rows(name, path)
    return json_rows(path) if head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in (b"{", b"[") else _table_rows(path)


def _table_rows(path: Path) -> Rows:
    """Rows of a table whose fields are parted by tabs alone: quotation marks are part of the texts."""
    lines = lines_of(text_of(path), path)
    where, first = next(lines, (f"{path}:1", ""))
    header = first.rstrip("\n").split("\t")
    if len(header) < 2:
        raise InputError(f"{where}: no table with tabs and a header; give GLUE's own file, such as dev.tsv")
    for where, line in lines:
        fields = line.rstrip("\n").split("\t")
        if len(fields) != len(header):
            raise InputError(f"{where}: {len(fields)} fields, but the header has {len(header)}; use the original file")
        yield where, dict(zip(header, fields, strict=True))


def _parquet_rows(name: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"{path}: a Parquet file; pip install 'crispr-lm[hub]' brings what reads it") from error
    try:
        table = parquet.read_table(path)
        rows = table.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]}); get it again") from error
    _check_names(name, table.schema.metadata or {}, path)
    for number, row in enumerate(rows, start=1):
        yield f"{path}:row {number}", row


def _check_names(name: str, metadata: Mapping[bytes, bytes], path: Path) -> None:
    """Compare the names of the labels that the hub writes into its files: MRPC and RTE have the same columns."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):  # written by something else, which names no labels
        return
    known = GLUE[name].labels
    if [known.get(str(label)) for label in names] != [known["0"], known["1"]]:
        raise InputError(
            f"{path}: its labels are {', '.join(map(str, names))}, not those of {GLUE[name].title}; give a file of it"
        )
