"""Prompts and answers of a table: CSV, a spreadsheet, JSON Lines of any tool, or a text with a prompt on each line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, nearest, on_one_line
from crispr_lm.tasks.files import text_of
from crispr_lm.tasks.logs.entry import (
    NO_PROMPT,
    NO_VERDICT,
    PASSED,
    Entry,
    Failure,
    LeftOut,
    LogOptions,
    as_text,
)

PROMPTS = ("prompt", "input", "question", "query", "user", "user_message", "message", "text")
ANSWERS = ("answer", "output", "response", "completion", "actual_output", "actualoutput", "generation", "reply")
VERDICTS = ("success", "pass", "passed", "ok", "verdict")
"""Names of columns, without case and with "_" for blanks, the likeliest first."""

YES = ("true", "yes", "y", "1", "1.0", "pass", "passed", "ok")
NO = ("false", "no", "n", "0", "0.0", "fail", "failed", "")
"""What stands in a column of verdicts. An empty cell beside others is a failure that was not ticked."""

Row = tuple[str, Mapping[str, Any]]


def read_table(rows: Iterable[Row], path: Path, options: LogOptions) -> Iterator[Entry]:
    """Entries of a table. Every row is a failure, but where a column says that it passed.

    Raises:
        InputError: no column holds prompts, or a metric is asked for.
    """
    if options.metric is not None:
        raise InputError(f"{path}: a table names no metrics; leave --metric away, and give the rows in question alone")
    rows = list(rows)
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    prompts = _column(names, options.prompt_column, PROMPTS, path)
    if prompts is None:
        raise InputError(
            f"{path}: no column of prompts among {', '.join(map(repr, names)) or 'none'}; name it with --prompt-column"
        )
    answers = _column([name for name in names if name != prompts], options.answer_column, ANSWERS, path)
    verdicts = _column([name for name in names if name not in (prompts, answers)], None, VERDICTS, path)
    for source, row in rows:
        prompt = as_text(row.get(prompts)).strip()
        verdict = as_text(row.get(verdicts)).strip().lower() if verdicts is not None else NO[0]
        if not prompt:
            yield LeftOut(NO_PROMPT, source)
        elif verdict in YES:
            yield LeftOut(PASSED, source)
        elif verdict not in NO:
            yield LeftOut(NO_VERDICT, source)
        else:
            yield Failure(prompt, as_text(row.get(answers)).strip() if answers is not None else "", "", source)


def _column(names: Sequence[str], given: str | None, usual: Sequence[str], path: Path) -> str | None:
    """The column that was named, or else the first with a usual name; None where there is none."""
    if given is not None:
        if given not in names:
            raise InputError(
                f"{path}: no column {given!r}{nearest(given, names)}; it has {', '.join(map(repr, names))}"
            )
        return given
    plain = {name.strip().lower().replace(" ", "_"): name for name in reversed(names)}
    return next((plain[name] for name in usual if name in plain), None)


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows of a table in text, separated by commas, semicolons or tabs, whichever its header has most of.

    Raises:
        InputError: the file can't be read as one.
    """
    text = text_of(path)
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        for row in reader:
            yield f"{path.name}:{reader.line_num}", {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: no table can be read here ({error}); check the file") from error


def sheet_rows(path: Path) -> Iterator[Row]:
    """Rows of the first sheet of a spreadsheet (Excel, OpenDocument); the first row names the columns.

    Raises:
        InputError: ``python-calamine`` is not installed or can't read it.
    """
    try:
        from python_calamine import CalamineWorkbook
    except ImportError as error:
        raise InputError(f"{path}: spreadsheets need: pip install 'crispr-lm[spreadsheet]'") from error
    try:
        rows = CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python(skip_empty_area=True)
    except Exception as error:  # of its own types, and those of files
        raise InputError(f"{path}: no spreadsheet can be read here ({on_one_line(error)}); save it as CSV") from error
    if not rows:
        raise InputError(f"{path}: its first sheet is empty; put the table there")
    names = [str(cell).strip() for cell in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        cells = (str(cell) for cell in row)  # a number or a date, too
        yield f"{path.name}: row {number}", {name: cell for name, cell in zip(names, cells, strict=False) if name}


def line_rows(path: Path) -> Iterator[Row]:
    """The lines of a text, each a prompt."""
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        if line.strip():
            yield f"{path.name}:{number}", {"prompt": line}
