"""The errors that a user can cause and mend.

Every message is one sentence that says what is wrong, where, and what to do next. The command line prints it
alone, without a traceback, and exits with status 2 (mistakes) or 1 (what went wrong on the way); a library user catches
`CrisprError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class CrisprError(Exception):
    """Base of all errors this library raises on purpose."""


class InputError(CrisprError, ValueError):
    """What was given (a model, a task, an option, a file) can't be used as it is."""


class WriteError(InputError):
    """A file can't be written, mostly because the disk is full. The command line ends with status 1.

    Attributes:
        result: What the file was to hold, where a job's whole work is in it; None elsewhere.
    """

    result: object = None


class EditMismatchError(InputError):
    """An edit was made for other weights than those it is applied to."""


class VerificationError(CrisprError, RuntimeError):
    """A result was produced but does not pass its own check; it must not be used."""


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `` (did you mean 'x'?)`` for the choice most like `word`, or an empty string if none is near."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


ALTERNATIVE = re.compile(r"literal\[.*\]|(constrained-)?(int|float|str)")
"""What pydantic adds to a problem's place where a field takes several forms: none of our fields is called so."""


def first_problem(problems: Sequence[Mapping[str, Any]]) -> tuple[tuple[Any, ...], str]:
    """Place and message of the first problem that pydantic has found; of a field of several forms what each must be."""
    first = problems[0]["loc"]
    place = tuple(part for part in first if not ALTERNATIVE.fullmatch(str(part)))
    same = [problem["msg"] for problem in problems if problem["loc"][: len(place)] == place] if place != first else []
    if len(same) < 2:
        return place, str(problems[0]["msg"])
    each = dict.fromkeys(message.removeprefix("Input should be ").partition(", ")[0] for message in same)
    return place, f"Input should be {' or '.join(each)}"


def on_one_line(error: Exception) -> str:
    """What another library's error is and says, fit to stand in a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def first_line(error: BaseException) -> str:
    """What another library's error says first, or its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
