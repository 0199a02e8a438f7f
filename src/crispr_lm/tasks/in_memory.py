"""Tasks made of what the user has in memory: examples, rows as in a ``choices:`` file, a table of `datasets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from crispr_lm.errors import InputError, nearest
from crispr_lm.tasks.base import FREE, SENTENCES, Example, Task
from crispr_lm.tasks.choices import FIELDS, example_of, read_choices
from crispr_lm.tasks.registry import TaskKind, family_of, instructions_of, language_of


def task_of(
    name: str,
    given: Iterable[Example | Mapping[str, Any]],
    instructions: Sequence[str] | int | None,
    family: str | None,
) -> Task:
    """What `Task.from_examples` gives.

    Raises:
        InputError: as `examples_of`, or instructions that can't be used.
    """
    examples = examples_of(given, name)
    form, language = examples[0].form, language_of(examples)
    if instructions is None or isinstance(instructions, int) or form in (FREE, SENTENCES):
        asked = instructions_of(instructions if isinstance(instructions, int) else None, form, language)
    else:
        asked = checked_instructions(instructions, name)
    return Task(
        name=name,
        examples=examples,
        instructions=asked,
        family=family or family_of(TaskKind(read_choices), examples),
    )


def examples_of(given: Iterable[Example | Mapping[str, Any]], name: str) -> tuple[Example, ...]:
    """Examples as they are, and rows read as those of a ``choices:`` file.

    Raises:
        InputError: none at all, something else, or a row that such a file could not hold (it is named).
    """
    if isinstance(given, (str, Mapping)):
        raise InputError(f"task {name}: examples must be a list of examples or rows, not a {type(given).__name__}")
    read = tuple(
        one if isinstance(one, Example) else example_of(_plain(one, where), where)
        for one, where in _numbered(given, name)
    )
    if not read:
        raise InputError(f"task {name} holds no examples; give at least one")
    return read


def renamed_rows(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | None, name: str
) -> Iterator[dict[str, Any]]:
    """Rows with our names of fields, from the columns that are given for these.

    Raises:
        InputError: an unknown field, or a row without the column.
    """
    columns = dict(columns or {})
    if unknown := next((field for field in columns if field not in FIELDS), None):
        raise InputError(
            f"task {name}: columns: unknown field {unknown!r}{nearest(unknown, FIELDS)}; fields: {', '.join(FIELDS)}"
        )
    for row, where in _numbered(rows, name):
        plain = _plain(row, where)
        if absent := next((column for column in columns.values() if column not in row), None):
            raise InputError(f"{where}: there is no column {absent!r}{nearest(absent, map(str, row))}; check columns")
        kept = {field: value for field, value in plain.items() if field not in columns.values()}
        yield kept | {field: plain[column] for field, column in columns.items() if column in plain}


def checked_instructions(texts: Sequence[str], name: str) -> tuple[str, ...]:
    """Instructions given as texts.

    Raises:
        InputError: a single text, none, an empty one, or the same twice.
    """
    if isinstance(texts, str):
        raise InputError(f"task {name}: instructions must be a list of texts; put a single one into a list")
    found = tuple(texts)
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise InputError(f"task {name}: instructions must be texts that are not empty; give at least one")
    if twice := next((text for number, text in enumerate(found) if text in found[:number]), None):
        raise InputError(f"task {name} holds the instruction {twice!r} twice; figures are means over different ones")
    return found


def _numbered(rows: Iterable[Any], name: str) -> Iterator[tuple[Any, str]]:
    for number, row in enumerate(rows):
        where = f"{name} row {number}"
        if not isinstance(row, (Example, Mapping)):
            splits = "; of a dataset with several splits give one of them" if isinstance(rows, Mapping) else ""
            raise InputError(f"{where}: a {type(row).__name__}, but every row must be a mapping of fields{splits}")
        yield row, where


def _plain(row: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The row as a JSON Lines file would hold it: what is None in a table is left out, a tuple is a list."""
    if not all(isinstance(field, str) for field in row):
        raise InputError(f"{where}: the names of its fields must be strings")
    there = {field: value for field, value in row.items() if value is not None}
    return {field: list(value) if isinstance(value, tuple) else value for field, value in there.items()}
