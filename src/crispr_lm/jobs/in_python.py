"""The main job as a function of the public face: options as keywords in, the edit, the figures and the folder out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError, first_problem
from crispr_lm.jobs.run import run as main_job
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import RunSettings
from crispr_lm.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Run:
    """What a run has found and measured.

    Attributes:
        edit: The neurons that it eliminates; none where nothing is recommended.
        results: What ``results.json`` holds: verdict, figures before and after, differences with their intervals.
        folder: Where all of it is on disk, with the edited model, the report and every answer.
    """

    edit: Edit
    results: Mapping[str, Any]
    folder: Path


def run(
    model: str | os.PathLike[str],
    tasks: str | Sequence[str],
    *,
    output: str | os.PathLike[str],
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Find the bias neurons, eliminate the few that matter, measure what changed, save it all: ``crispr-lm run``.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``.
        tasks: One or more, named as for ``--task``: a run keeps on record which files it was made with. For a task or a
            model in memory there is `search_edit`, which writes nothing.
        output: Folder; must not exist or be empty, or hold an interrupted run of the same settings, which is resumed.
        progress: Shows how far it is; by default nothing does.
        options: As of the command, with its names and defaults: the fields of `RunSettings`.

    Raises:
        InputError: an option, the model or a task can't be used; nothing is written then.
    """
    given = [tasks] if isinstance(tasks, str) else list(tasks)
    if other := next((task for task in given if not isinstance(task, str)), None):
        raise InputError(
            f"a {type(other).__name__} is no name of a task; give one such as 'bbq:Age.jsonl', or take "
            "crispr_lm.search_edit, which needs no files"
        )
    try:
        settings = RunSettings(task=tuple(given), output=Path(output), **options)
    except ValidationError as error:
        place, message = first_problem(error.errors())
        option = ".".join(map(str, place))
        raise InputError(f"option {option}: {message[0].lower()}{message[1:]}; see crispr_lm.RunSettings") from error
    results = main_job(str(model), settings, progress)
    folder = RunFolder(settings.output)
    return Run(Edit.load(folder.edit), results, folder.path)
