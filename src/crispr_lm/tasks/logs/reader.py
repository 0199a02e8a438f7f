"""Which tool a log is of, seen from its content, and its entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.files import json_content
from crispr_lm.tasks.jsonl import json_rows
from crispr_lm.tasks.logs.deepeval import read_deepeval
from crispr_lm.tasks.logs.entry import Entry, LogOptions, at
from crispr_lm.tasks.logs.inspect_log import read_inspect
from crispr_lm.tasks.logs.lm_eval import read_lm_eval
from crispr_lm.tasks.logs.promptfoo import read_promptfoo
from crispr_lm.tasks.logs.table import csv_rows, line_rows, read_table, sheet_rows

SHEETS = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")


def read_log(path: Path, options: LogOptions) -> tuple[str, list[Entry]]:
    """What kind of file it is, and its entries.

    Raises:
        InputError: the file can't be read, or is none that is known.
    """
    if path.is_dir() or not path.exists():
        raise InputError(f"{path}: {'a folder' if path.is_dir() else 'not there'}; give one file")
    suffix = path.suffix.lower()
    if suffix == ".eval":
        return "Inspect", list(read_inspect(path, options))
    if suffix in SHEETS:
        return "a spreadsheet", list(read_table(sheet_rows(path), path, options))
    if suffix in (".csv", ".tsv"):
        return "a table", list(read_table(csv_rows(path), path, options))
    if suffix == ".txt":
        return "a text", list(read_table(line_rows(path), path, options))
    if suffix == ".jsonl":
        rows = [(f"{path.name}:{where.rpartition(':')[2]}", row) for where, row in json_rows(path, undefined=True)]
        if rows and {"doc", "arguments"} <= rows[0][1].keys():
            return "lm-eval", list(read_lm_eval(rows, path, options))
        return "JSON Lines", list(read_table(rows, path, options))
    if suffix == ".json":
        return _read_json(path, options)
    raise InputError(f"{path}: not known by its name; give a file ending in .json, .jsonl, .eval, .csv or .xlsx")


def _read_json(path: Path, options: LogOptions) -> tuple[str, list[Entry]]:
    content: Any = json_content(path, undefined=True)
    if at(content, "eval") is not None and at(content, "status") is not None:
        return "Inspect", list(read_inspect(path, options))
    if at(content, "testCases") is not None or at(content, "testRunData") is not None:
        return "deepeval", list(read_deepeval(content, path, options))
    if at(content, "results") is not None and at(content, "configs") is not None:
        raise InputError(f"{path}: figures of lm-eval without samples; give the samples_*.jsonl beside it")
    if at(content, "results") is not None:
        return "promptfoo", list(read_promptfoo(content, path, options))
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        rows = ((f"{path.name}: row {number}", row) for number, row in enumerate(content))
        return "a JSON array", list(read_table(rows, path, options))
    raise InputError(f"{path}: not the results of promptfoo, deepeval or Inspect; give one of these, or a table")
