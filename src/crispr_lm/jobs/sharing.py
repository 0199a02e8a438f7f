"""Sharing: what goes beside a model, an adapter or an edit before others see it, and the way to the hub.

Where the card, the hub and the jobs meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError
from crispr_lm.evaluation.results import RESULTS_FORMAT, RESULTS_VERSION, described_edit
from crispr_lm.jobs.attempts import attempt
from crispr_lm.model.origin import ModelOrigin, origin_of
from crispr_lm.other_settings import HubSettings
from crispr_lm.report.card import Shared, card
from crispr_lm.runtime.progress import Progress
from crispr_lm.storage.files import make_folder, write_bytes, write_json
from crispr_lm.storage.hub import EDIT, check_upload, local_edit, upload
from crispr_lm.storage.records import MALFORMED
from crispr_lm.storage.run_folder import failures
from crispr_lm.storage.untrusted import parse_json, read_bytes

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

CARD = "README.md"
RESULTS = "results.json"


def check_hub(settings: HubSettings) -> None:
    """Check, before any long work, what is asked of the hub.

    Raises:
        InputError: options that need ``--push-to-hub`` without it, no proper repository, no token, no connection.
    """
    if settings.push_to_hub is None:
        for name in ("public", "dry_run"):
            if getattr(settings, name):
                raise InputError(
                    f"--{name.replace('_', '-')} says how to upload; give --push-to-hub OWNER/NAME as well"
                )
        return
    check_upload(settings.push_to_hub, dry_run=settings.dry_run)


def results_beside(edit_file: Path, given: Path | None) -> Mapping[str, Any] | None:
    """The results that a card can show: of the file given, or of the one that lies beside an edit.

    Raises:
        InputError: the file given does not exist, or holds no results of a run.
    """
    path = given or edit_file.with_name(RESULTS)
    try:
        is_there = path.is_file()
    except OSError as error:  # too long a name
        raise InputError(f"results {path} can't be read ({error.strerror}); check the path") from error
    if not is_there:
        if given is not None:
            raise InputError(f"results {path} do not exist; give the results.json of a run")
        return None
    try:
        content = parse_json(read_bytes(path))
        known = content["format"] == RESULTS_FORMAT and content["version"] == RESULTS_VERSION
        if known:
            # What can't be shown on a card is refused now, not when the model is saved.
            card("edit", Edit(neurons=()), ModelOrigin(), content)
    except (OSError, jinja2.TemplateError, *MALFORMED):
        known = False
    if not known:
        raise InputError(f"{path} holds no results of this version of crispr-lm run; give another one, or none")
    found: Mapping[str, Any] = content
    return found


def check_measured_with(edit: Edit, results: Mapping[str, Any], where: Path) -> None:
    """Check that results were measured with this edit: a card must not show figures of another.

    Raises:
        InputError: they are of no edit, or of another.
    """
    measured = results.get("edit")
    same = measured == described_edit(edit)
    if same and "neurons" in results:  # a run names them one by one
        named = {(neuron["kind"], neuron["module"], neuron["index"]) for neuron in results["neurons"]}
        same = named == {(neuron.kind, neuron.module, neuron.index) for neuron in edit.neurons}
    if not same:
        what = "no edit" if measured is None else "another edit"
        raise InputError(
            f"{where} holds figures of {what}; measure this one (crispr-lm evaluate --edit) and give --results FILE, "
            "or put the edit into a folder of its own"
        )


def edit_with_results(source: Path, given: Path | None) -> tuple[Edit, Mapping[str, Any] | None]:
    """The edit that a job applies, and the results that its card can show.

    Args:
        source: A file, or ``hf:OWNER/NAME``.
        given: A file of results; None for the one beside the edit, if there is one.

    Raises:
        InputError: as `Edit.load`, `results_beside` and `check_measured_with`.
    """
    edit_file = local_edit(source)
    edit, results = Edit.load(edit_file), results_beside(edit_file, given)
    if results is not None:
        check_measured_with(edit, results, given or edit_file.with_name(RESULTS))
    return edit, results


def edits_within(models: Iterable[str]) -> list[Edit]:
    """The edits that lie in the folders of saved models; none where a folder's edit.json is something else."""
    found = []
    for model in models:
        with suppress(InputError, OSError, RuntimeError, ValueError):  # no such home, a null character
            found.append(Edit.load(Path(model).expanduser() / EDIT))
    return found


def write_card(
    lm: LanguageModel,
    edit: Edit,
    what: Shared,
    folder: Path,
    results: Mapping[str, Any] | None = None,
    doubt: str | None = None,
) -> None:
    """Write the card, the edit and the results into a folder that will be shared; `doubt` as for `card`."""
    text = card(what, edit, origin_of(lm.given or lm.name), results, doubt, is_encoder_decoder=lm.is_encoder_decoder)
    _write(edit, text, folder, results)


def save_edit(edit: Edit, folder: Path, results_file: Path | None = None) -> None:
    """Write an edit with its card, and with the figures of a file of results where one is given.

    Raises:
        InputError: the file holds no results, or those of another edit; or the folder can't be written.
    """
    results = None if results_file is None else results_beside(folder / EDIT, results_file)
    if results is not None and results_file is not None:
        check_measured_with(edit, results, results_file)
    name = str(edit.base_model.get("name"))
    known = name.startswith("builtin:") or "/" in name  # else it may be a folder's: nothing is guessed
    text = card("edit", edit, origin_of(name) if known else ModelOrigin(), results)
    make_folder(folder)
    _write(edit, text, folder, results)


def _write(edit: Edit, text: str, folder: Path, results: Mapping[str, Any] | None) -> None:
    edit.save(folder / EDIT)
    if results is not None:
        write_json(folder / RESULTS, results)
    write_bytes(folder / CARD, text.encode("utf-8"))


def with_upload(results: dict[str, Any], folder: Path, settings: HubSettings, progress: Progress) -> dict[str, Any]:
    """Upload a folder where that is asked for, unless its results say that something is wrong with it.

    Returns:
        The results with what was uploaded (``upload``), or with why nothing was (in ``failed``).
    """
    if settings.push_to_hub is None:
        return results
    done: dict[str, Any] = {}
    if failures(results):
        reason: str | None = "nothing was uploaded, because something before it has failed"
    else:
        reason = attempt(lambda: done.update(_uploaded(folder, settings, progress)))
    return results | (done if reason is None else {"failed": {**results.get("failed", {}), "upload": reason}})


def _uploaded(folder: Path, settings: HubSettings, progress: Progress) -> dict[str, Any]:
    assert settings.push_to_hub is not None
    with progress.step("Uploading" if not settings.dry_run else "Looking at what would be uploaded"):
        done = upload(folder, settings.push_to_hub, private=not settings.public, dry_run=settings.dry_run)
    return {
        "upload": {
            "repository": done.repository,
            "private": done.private,
            "dry_run": settings.dry_run,
            "url": done.url,
            "files": dict(done.files),
        }
    }
