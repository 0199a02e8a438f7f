"""Reading JSON Lines with errors that name the file and the line. Knows no benchmark."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.storage.untrusted import check_regular, parse_json
from crispr_lm.tasks.files import text_of
from crispr_lm.tasks.forms import binary_form, text_form

LONGEST_LINE = 2**24
"""Characters of a line, all of which are in memory at once. No model reads a text of this length."""

HEAD_BYTES = 2**16
"""Of these what is no text is recognised, but for a packed file, whose contents are listed at its end."""


def json_rows(path: Path, *, undefined: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file:line", object)`` for every non-empty line of a JSON Lines file, read as a stream.

    Args:
        path: The file.
        undefined: Whether NaN and infinities are read, as None.

    Raises:
        InputError: the file can't be read, is something else (a table, a JSON array, ...: the command that converts it
            is given), or a line is not a JSON object.
    """
    for number, (where, line) in enumerate(_lines(path)):
        # What is wrong with the first row may be wrong with the whole file.
        if number == 0 and not _begins_rows(line, undefined) and (form := text_form(text_of(path), path)):
            raise InputError(f"{where}: {form}")
        try:
            row = parse_json(line, undefined=undefined)
        except json.JSONDecodeError as error:  # it counts lines within the row
            problem = f"{error.msg} at character {error.pos + 1} of the line"
            raise InputError(f"{where}: not valid JSON ({problem}); every line must be one JSON object") from error
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON ({error}); every line must be one JSON object") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{where}: a JSON {type(row).__name__}, but every line must be one JSON object; check the file"
            )
        yield where, row


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """``("file:line", text)`` for every line that is not empty."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            form = binary_form(head + file.read() if head.startswith(b"PK") else head, path)
        if form:
            raise InputError(f"{path}:1: {form}")
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE), ""), start=1):
                if len(line) == LONGEST_LINE:
                    raise InputError(f"{path}:{number}: more than {LONGEST_LINE:,} characters; leave the row out")
                if line.strip():
                    yield f"{path}:{number}", line
    except UnicodeDecodeError:
        text_of(path)  # names the line
        raise
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check the path") from error


def _begins_rows(line: str, undefined: bool) -> bool:
    """Whether a file's first line is a row: an object of several fields."""
    try:
        row = parse_json(line, undefined=undefined)
    except ValueError:
        return False
    return isinstance(row, dict) and len(row) > 1


ALSO_CALLED = {
    "options": ("choices", "answers", "endings", "candidates", "references"),
    "answer": (
        "gold_index", "answer_label", "answer_index", "answer_idx", "label", "answerKey", "correct", "gold", "target",
        "correct_answer",
    ),
    "label": ("answer_label", "gold_index", "answer_index", "answer"),
    "question": ("query", "question_stem", "stem", "prompt", "sentence", "text"),
    "context": ("passage", "ctx", "premise", "story"),
    "condition": ("context_condition",),
    "context_condition": ("condition",),
    "question_polarity": ("polarity",),
    "polarity": ("question_polarity",),
    "group": ("template", "template_id", "group_id"),
    "unknown": ("unknown_index", "unknown_option"),
    "stereotyped": ("stereotyped_index", "stereotyped_option"),
}  # fmt: skip
"""Field -> names that copies of public benchmarks on the hub give to what it holds."""

NUMBERED = re.compile(r"(?P<stem>ans|sol|option|choice|answer|ending|opt?)_?(?:\d|[a-eA-E])|[A-E]")
"""Columns that hold one option each: ans0, sol1, option_a, opa, ending0, A."""


COUNTED = re.compile(r"_?\d$|_[a-eA-E]$")
"""The end of names that are told apart by it alone."""


def missing(row: Mapping[str, Any], name: str, where: str) -> InputError:
    """The error that a field is missing or null, with a hint to the field of `row` that may hold what is meant."""
    state = "null" if name in row else "missing"
    apart = [other for other in row if NUMBERED.fullmatch(other)] if name == "options" else []
    if len(apart) > 1:
        return InputError(f"{where}: field {name!r} is {state}; make one list of the fields {', '.join(apart)}")
    other = next((one for one in ALSO_CALLED.get(name, ()) if row.get(one) is not None), None)
    if other is None:
        # prompt_a is no misspelt prompt_b, nor is "sentence1" "sentence2": both are needed.
        others = [one for one in row if one != name and COUNTED.sub("", one) != COUNTED.sub("", name)]
        other = next(iter(difflib.get_close_matches(name, others, n=1, cutoff=0.8)), None)
    if other is None:
        return InputError(f"{where}: field {name!r} is {state}; {'fill it in' if name in row else 'add it'}")
    return InputError(f"{where}: field {name!r} is {state}; rename {other!r} to {name!r} if it is what is meant")


def text_field(row: dict[str, Any], name: str, where: str, *, may_be_empty: bool = False) -> str:
    """Return the string `row[name]`, or raise `InputError` naming file and line."""
    value = row.get(name)
    if value is None:
        raise missing(row, name, where)
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r} must be a string, not {value!r}")
    if not value.strip() and not may_be_empty:
        raise InputError(f"{where}: field {name!r} is empty; fill it in")
    return value


def index_field(row: dict[str, Any], name: str, count: int, where: str) -> int:
    """Return the integer `row[name]` in 0..count-1, or raise `InputError` naming file and line."""
    value = row.get(name)
    if value is None:
        raise missing(row, name, where)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(
            f"{where}: field {name!r} must be the index of an option (an integer), not {value!r}; give one"
        )
    if not 0 <= value < count:
        raise InputError(
            f"{where}: field {name!r} is {value}, out of range for {count} options (0 to {count - 1}); give one"
        )
    return value


def check_options(options: list[str], where: str) -> tuple[str, ...]:
    """Return `options` as a tuple, or raise `InputError` if there are fewer than two or two are equal."""
    if len(options) < 2:
        raise InputError(f"{where}: {len(options)} answer option(s); at least two are needed")
    seen: dict[str, int] = {}
    for index, option in enumerate(options):
        key = option.strip()
        if key in seen:
            raise InputError(
                f"{where}: options {seen[key]} and {index} are equal ({option!r}); make them differ, "
                "or leave the row out"
            )
        seen[key] = index
    return tuple(options)
