"""Commands to try an edit with: chat, app."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.arguments import ModelArgument
from crispr_lm.cli.call import call
from crispr_lm.cli.output import (
    is_quiet,
    quiet_libraries,
    show,
)
from crispr_lm.other_settings import AppSettings, ChatSettings


def chat(
    model: ModelArgument,
    /,
    *,
    edit: Annotated[Path, Parameter(help="An edit.json made for this model, or hf:OWNER/NAME for one on the hub.")],
    settings: ChatSettings | None = None,
) -> None:
    """Talk with the original and the edited model side by side. Questions may also come from a pipe, one per line.

    Example: crispr-lm chat builtin:smollm2 --edit out/edit.json
    """
    quiet_libraries()
    from crispr_lm.app.chat import chat as chat_job
    from crispr_lm.report.progress import terminal_progress

    with terminal_progress(silent=is_quiet()) as progress:
        talk = chat_job(model, edit, settings or ChatSettings(), progress)
    talk(call.form == "json")


def page(run: Path, /, *, settings: AppSettings | None = None) -> None:
    """Open a local page to try a run's edit: ask both models, remove one neuron after another, see which are active.

    Example: crispr-lm app out

    Parameters
    ----------
    run
        Folder of a finished run.
    """
    quiet_libraries()
    from crispr_lm.app import check_installed

    check_installed()
    from crispr_lm.app.server import prepare
    from crispr_lm.report.progress import terminal_progress

    with terminal_progress(silent=is_quiet()) as progress:
        ready = prepare(run, settings or AppSettings(), progress)
    show({"address": ready.address}, lambda: print(f"Open {ready.address} (Ctrl-C ends it)"), lambda: ready.address)
    sys.stdout.flush()
    ready.serve()
