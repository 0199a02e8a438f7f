"""The command line: parse, call the library, print. No logic.

The commands are in files by group. Heavy imports (PyTorch, transformers) are made inside them, so that help and usage
errors come at once.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Env, Toml
from pydantic import ValidationError

from crispr_lm.cli import (
    edits,
    evidence,
    examination,
    gate,
    interactive,
    questions,
    reports,
    single_steps,
    verification,
    whole_jobs,
)
from crispr_lm.cli.call import call
from crispr_lm.cli.mistakes import settings_sentence, usage_sentence
from crispr_lm.cli.output import FAILURE, USAGE_ERROR, discard_output, fail, fail_with_traceback, quiet_libraries
from crispr_lm.cli.settings_file import check_trust, read_settings_file
from crispr_lm.errors import CrisprError, InputError, WriteError
from crispr_lm.settings import ENVIRONMENT_PREFIX
from crispr_lm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130
TERMINATED = 143

BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM)
"""Errors of the system that are not ours to mend: full, protected or failing disks, no memory."""

PURPOSE = "Find the few neurons that make a language model answer with a stereotype, remove them, measure what changed."

FIRST_STEPS = f"""{PURPOSE}

Three commands to begin with:

  crispr-lm doctor
      Show what this machine can run.
  crispr-lm run builtin:smollm2 --task builtin:everyday --output out
      Find bias neurons, eliminate them, measure what changed, write a report.
  crispr-lm chat builtin:smollm2 --edit out/edit.json
      Ask the original and the edited model side by side.

All commands: crispr-lm --help
"""

app = App(
    name="crispr-lm",
    help=PURPOSE,
    version=__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` handles it
)
app.meta.suppress_keyboard_interrupt = False

for command in (
    whole_jobs.run,
    whole_jobs.compare,
    single_steps.score,
    single_steps.evaluate,
    single_steps.apply,
    interactive.chat,
    single_steps.lm_eval_task,
    gate.check,
    gate.difference,
    examination.inspect,
    whole_jobs.reproduce,
    evidence.evidence,
    evidence.export,
    verification.verify,
    reports.report,
    examination.doctor,
):
    app.command(command)
app.command(interactive.page, name="app")

edit_app = App(name="edit", help="Combine and compare edits.")
for edit_command in (edits.union, edits.intersect, edits.diff):
    edit_app.command(edit_command)
app.command(edit_app)

questions_app = App(name="questions", help="Make questions of your own, and check them.")
for questions_command in (questions.new, questions.expand, questions.check):
    questions_app.command(questions_command)
questions_app.command(questions.from_log, name="from")
app.command(questions_app)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="TOML file with options, one `name = value` per line.")] = None,
    quiet: Annotated[bool, Parameter(help="Print one line: the outcome.", negative="")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", help="Print one JSON document on standard output.", negative="")
    ] = False,
    verbose: Annotated[bool, Parameter(help="Print every table of a run at its end.", negative="")] = False,
    plugin: Annotated[
        list[Path] | None,
        Parameter(
            help="Python file that registers something of your own; its code is run. May be repeated.", negative=""
        ),
    ] = None,
) -> None:
    if quiet and as_json:
        raise InputError("--quiet and --json exclude each other; give one of them")
    call.begin(tokens, "json" if as_json else "quiet" if quiet else "tables", verbose=verbose)
    sources: list[Env | Toml] = [Env(ENVIRONMENT_PREFIX, command=False)]
    if config is not None:
        source = read_settings_file(config)
        sources.append(source)
        call.settings_file = (config, frozenset("--" + name.replace("_", "-") for name in source.config))
    app.config = (*sources, check_trust)
    if not tokens:
        print(FIRST_STEPS, end="")
        return
    if plugin:
        quiet_libraries()
        from crispr_lm.runtime.plugins import load_file

        for file in plugin:
            load_file(file)
    app(tokens, exit_on_error=False, print_error=False)


class _Terminated(BaseException):
    """The process was asked to end (SIGTERM): everything in progress is left as for an error, files are whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``crispr-lm``; what goes wrong and is no defect of ours ends in one sentence on standard error.

    The status is then 2 for a mistake of the user, 130 for Ctrl-C, 143 for SIGTERM, else 1.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    app.config = ()  # nothing of an earlier call in this process
    call.begin((), "tables")
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # here, where an error can still be reported
    except CrisprError as error:
        is_mistake = isinstance(error, InputError) and not isinstance(error, WriteError)
        fail(str(error), USAGE_ERROR if is_mistake else FAILURE)
    except ValidationError as error:
        fail(settings_sentence(error))
    except CycloptsError as error:
        cause = error.__cause__
        fail(settings_sentence(cause) if isinstance(cause, ValidationError) else usage_sentence(error))
    except BrokenPipeError:
        # Who read the output (head, less) has enough.
        discard_output()
        sys.exit(FAILURE)
    except KeyboardInterrupt:
        fail(f"interrupted; {_next_step()}", INTERRUPTED)
    except _Terminated:
        fail(f"terminated; {_next_step()}", TERMINATED)
    except (OSError, RuntimeError, MemoryError) as error:
        sentence = _machine_sentence(error)
        if sentence is None:
            fail_with_traceback()
        fail(sentence, FAILURE)
    except Exception:
        fail_with_traceback()


def _next_step() -> str:
    if call.is_resumable:
        return "run the same command again, without --overwrite, to resume"
    return "nothing is left half-written; run the same command again to start anew"


def _machine_sentence(error: Exception) -> str | None:
    """A sentence for a full disk or full memory that no part of the library has reported; None for anything else."""
    if isinstance(error, OSError):
        if error.errno not in BROKEN:
            return None
        discard_output()  # it may be what can't be written
        where = error.filename or "the output"
        return f"{where} can't be read or written ({error.strerror}); check the disk, then give the same command again"
    from crispr_lm.model.memory import ADVICE, is_out_of_memory

    return f"memory runs out; {ADVICE}" if is_out_of_memory(error) else None


def _terminate(_signal: int, _frame: object) -> None:
    raise _Terminated


if __name__ == "__main__":
    main()
