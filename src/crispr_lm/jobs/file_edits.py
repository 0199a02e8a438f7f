"""Edits of a model's files that need not load it: safetensors folders of any size, and GGUF files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crispr_lm.edits.canaries import canaries_file, make_canaries
from crispr_lm.edits.edit import Edit
from crispr_lm.edits.gguf_file import edit_in_place, is_undo, modelfile_of, restore, write_edited, write_modelfile
from crispr_lm.edits.gguf_rows import Row, rows_of
from crispr_lm.edits.stored_tensors import OtherLayoutError
from crispr_lm.edits.stored_weights import check_bytes, save_edited
from crispr_lm.edits.verification import VERIFIED_EXAMPLES, Saved, verify_saved
from crispr_lm.errors import InputError
from crispr_lm.jobs.attempts import attempt
from crispr_lm.jobs.preparation import Needs, Timings, load
from crispr_lm.jobs.sharing import check_hub, edit_with_results, with_upload, write_card
from crispr_lm.model.load import open_model
from crispr_lm.model.locate import locate
from crispr_lm.model.ollama import SCHEME
from crispr_lm.model.source_files import source_folder
from crispr_lm.other_settings import ApplySettings
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.storage.files import whole_folder
from crispr_lm.storage.hub import local_edit
from crispr_lm.storage.output_path import check_new, check_output_file, held_new
from crispr_lm.tasks.base import sample
from crispr_lm.tasks.registry import load_task


@dataclasses.dataclass(frozen=True)
class GgufTarget:
    """Where an edited GGUF file goes.

    Attributes:
        output: A new file; None to edit the file itself.
        undo: For the latter, where what brings it back is written.
        load: Whether its option scores are compared with those of the edit in memory, which loads both.
    """

    output: Path | None = None
    undo: Path | None = None
    load: bool = True


def edit_folder(
    model: str, edit_file: Path, output: Path, settings: ApplySettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Save an edited model as `crispr_lm.jobs.steps.apply` does in the format "folder", without loading its weights.

    The files are compared with the original's byte by byte.

    Raises:
        InputError: as `apply`; or the weights are no safetensors files, or held in another way than the model does.
        EditMismatchError: the edit was made for another model.
    """
    progress = progress or SilentProgress()
    _check_format(settings, "--no-load")
    check_new(output)
    check_hub(settings)
    edit, results = edit_with_results(edit_file, settings.results)
    opened = open_model(model, trust_remote_code=settings.trust_remote_code)
    if opened.gguf_file is not None:
        raise InputError(f"model {model} is a GGUF file; give --output FILE.gguf, or leave --no-load away")
    if opened.adapter is not None:
        raise InputError(f"model {model} is an adapter, which is merged when it is loaded; leave --no-load away")
    opened.check_indices()
    lm = opened.holding(opened.without_weights())
    source = source_folder(lm.location, lm.revision, with_weights=True)
    if source is None:
        raise InputError(f"model {model}: its files can't be found; download it into a folder and give that")
    saved: dict[str, Any] = {"format": "folder", "output": str(output)}
    with held_new(output), whole_folder(output) as part:
        try:
            with progress.step("Copying and editing the files"):
                save_edited(lm.model, edit, source, part)
                lm.save_others(part)
        except OtherLayoutError as error:
            raise InputError(
                f"model {model} can't be edited without loading it: {error}; leave --no-load away"
            ) from error
        with progress.step("Comparing them with the original's"):
            saved["saved_model"] = {"verified": True, **check_bytes(lm.model, edit, source, part)}
        if (reason := attempt(lambda: write_card(lm, edit, "folder", part, results))) is not None:
            saved["failed"] = {"card": reason}
    return with_upload(saved, output, settings, progress)


def edit_gguf(
    model: str, edit_file: Path, target: GgufTarget, settings: ApplySettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Eliminate an edit's neurons in a GGUF file, in a copy or in place; or undo that.

    Args:
        model: The file.
        edit_file: The edit; for a file itself also what an earlier call has written to ``target.undo``.
        target: Where it goes.
        settings: How the model is loaded for the comparison.
        progress: Shows the steps.

    Returns:
        What was written (``output``, ``rows``, ``modelfile``, ``undo``), and as ``saved_model`` what was compared; or
        the SHA-256 of the original (``restored``).

    Raises:
        InputError: the input can't be used, or the file can't hold this edit exactly; nothing is written then.
        EditMismatchError: the edit was made for another model.
    """
    progress = progress or SilentProgress()
    _check_format(settings, "a GGUF file")
    if settings.push_to_hub is not None:
        raise InputError("a GGUF file is not uploaded; leave --push-to-hub away")
    folder, name = locate(model)
    if name is None:
        raise InputError(
            f"model {model} is no GGUF file, so no edited one can be made of it; give a folder for --output"
        )
    path = Path(folder, name)
    edit_file = local_edit(edit_file)
    if target.output is None:
        if model.startswith("builtin:"):
            raise InputError("the built-in model is a package's file; give --output FILE.gguf instead of --in-place")
        if model.startswith(SCHEME):  # its name is its hash, which Ollama goes by
            raise InputError("the file is Ollama's own; give --output FILE.gguf instead of --in-place")
        if is_undo(edit_file):
            with progress.step("Putting the original's bytes back"):
                return {"output": str(path), "restored": restore(path, edit_file)}
        if target.undo is None:
            raise InputError("--in-place needs --undo FILE, to which what brings the file back is written")
    for file in [target.undo] if target.output is None else [target.output, modelfile_of(target.output)]:
        assert file is not None
        _check_new_file(file)
    edit = Edit.load(edit_file)
    with progress.step("Finding the rows"):
        opened = open_model(model, trust_remote_code=settings.trust_remote_code)
        rows = rows_of(path, opened.without_weights(), edit)
    saved: dict[str, Any] = {"format": "gguf", "output": str(target.output or path), "rows": len(rows)}
    with _compared(model, edit, Path(saved["output"]), target, settings, progress) as outcome:
        saved |= _write(path, rows, target)
    return saved | outcome


def _write(path: Path, rows: list[Row], target: GgufTarget) -> dict[str, Any]:
    if target.output is not None:
        write_edited(path, rows, target.output)
        return {"modelfile": str(write_modelfile(target.output))}
    assert target.undo is not None
    edit_in_place(path, rows, target.undo)
    return {"undo": str(target.undo)}


@contextmanager
def _compared(
    model: str, edit: Edit, output: Path, target: GgufTarget, settings: ApplySettings, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Load a model, have the block edit its file, and compare the edited file with the edit in memory.

    The dictionary holds ``saved_model`` and ``canaries`` once the block has ended, nothing where the model is not to be
    loaded.
    """
    outcome: dict[str, Any] = {}
    if not target.load:
        yield outcome
        return
    lm = load(model, settings, Needs(twice=True), Timings(), progress)
    yield outcome
    task = load_task("builtin:everyday")
    verified: dict[str, Any] = {"verified": True}

    def verify() -> None:
        asked = sample(task.examples, VERIFIED_EXAMPLES, 0)
        verified.update(verify_saved(lm, Saved(output.parent, gguf_file=output.name), asked, task.instructions[0]))

    with progress.step("Loading it again in a fresh process"), edit.applied(lm):
        reason = attempt(verify)
    outcome["saved_model"] = verified if reason is None else {"verified": False, "reason": reason}
    with progress.step("Scoring canary prompts"):
        reason = attempt(lambda: make_canaries(lm, task, edit.applied(lm)).save(canaries_file(output)))
    outcome |= {"canaries": str(canaries_file(output))} if reason is None else {"failed": {"canaries": reason}}


def _check_format(settings: ApplySettings, what: str) -> None:
    if settings.format != "folder":
        raise InputError(f"--format {settings.format} does not go with {what}; leave one of them away")


def _check_new_file(path: Path) -> None:
    check_output_file(path)
    if path.exists():
        raise InputError(f"output {path} exists; give another name, or remove it first")
