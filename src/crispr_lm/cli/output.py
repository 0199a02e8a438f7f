"""What commands print: results in the form asked for, and one sentence for what went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from crispr_lm.cli.call import call
from crispr_lm.errors import WriteError
from crispr_lm.storage.sanitize import json_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FAILURE = 1
USAGE_ERROR = 2

LONGEST_SENTENCE = 2000
"""Characters of a message; what is wrong may be a value of megabytes."""


def is_quiet() -> bool:
    """Whether the outcome alone is printed."""
    return call.form == "quiet"


def mark_as_resumable() -> None:
    """Note that the same command resumes this one if it is interrupted."""
    call.is_resumable = True


def show(content: Any, tables: Callable[[], None], line: Callable[[], object]) -> None:
    """Print a result in the form that was asked for.

    Args:
        content: For ``--json``: the whole result.
        tables: Prints it as tables.
        line: For ``--quiet``: makes the one line.
    """
    if call.form == "json":
        print(json_line(content, default=str))
    elif call.form == "quiet":
        if text := printable(str(line())):
            print(text)
    else:
        tables()


def keep_unwritten(work: Callable[[], Any]) -> tuple[Any, WriteError | None]:
    """The result of a job; where its file can't be written also that error, so that the result is shown first."""
    try:
        return work(), None
    except WriteError as error:
        if error.result is None:
            raise
        return error.result, error


def fail_with(error: WriteError | None) -> None:
    """Raise the error that `keep_unwritten` has kept, if there is one."""
    if error is not None:
        raise error


def fail_after(results: Mapping[str, Any]) -> None:
    """End with status 1 where something after the work has failed."""
    from crispr_lm.storage.run_folder import failures

    if sentences := failures(results):
        fail("; ".join(sentences), FAILURE)


def fail(sentence: str, status: int = USAGE_ERROR) -> NoReturn:
    """Print one sentence on standard error, and end."""
    text = printable(" ".join(sentence.split()))
    print(f"crispr-lm: {text if len(text) <= LONGEST_SENTENCE else text[:LONGEST_SENTENCE] + '…'}", file=sys.stderr)
    sys.exit(status)


def fail_with_traceback() -> NoReturn:
    """Print a defect of ours as Python does, without secrets and without what steers a terminal."""
    print(printable(traceback.format_exc(), keep_lines=True), end="", file=sys.stderr)
    sys.exit(FAILURE)


def discard_output() -> None:
    """Have Python not try at exit to write what is left of standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet_libraries() -> None:
    """Switch off the progress bars of libraries; variables that the user has set stay."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
