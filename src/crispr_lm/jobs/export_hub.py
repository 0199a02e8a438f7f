"""The Hugging Face hub's evaluation results: ``.eval_results/*.yaml``, and the ``model-index`` of a model card.

The first is shown on a model's page and on the leaderboard of a dataset that the hub knows as a benchmark, so the user
says which dataset and task that is. The second is read from the card's metadata, for any data.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

from crispr_lm.errors import InputError, nearest
from crispr_lm.jobs.finished import Finished
from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.other_settings import ExportSettings
from crispr_lm.report.card import model_index
from crispr_lm.storage.files import make_folder, write_bytes
from crispr_lm.storage.sanitize import all_visible
from crispr_lm.tasks.registry import dataset_of


def write(finished: Finished, folder: Path, settings: ExportSettings) -> list[str]:
    """Write a folder for each model, to be copied into its repository.

    Raises:
        InputError: a dataset is of no task that was measured, or is not written as it should be.
    """
    datasets = dict(_dataset(given, finished) for given in settings.dataset)
    for model in finished.models:
        when = finished.when(model)
        below = folder / when
        make_folder(below)
        write_bytes(below / "README.md", model_index(model, finished.results, when).encode("utf-8"))
        entries = [
            _entry(finished, model, task, dataset, task_id)
            for task, (dataset, task_id) in datasets.items()
            if finished.models[model][task][FAMILIES[finished.results["tasks"][task]["family"]].headline] is not None
        ]
        if entries:
            make_folder(below / ".eval_results")
            text = yaml_dump(all_visible(eval_result_entries_to_yaml(entries)), sort_keys=False)
            write_bytes(below / ".eval_results" / "crispr-lm.yaml", text.encode("utf-8"))
    notes = ["README.md holds metadata alone: copy its model-index into the card of the model."]
    if not datasets:
        notes.append(
            "No .eval_results were written: name the hub's benchmark of a task with --dataset TASK=OWNER/NAME:TASK_ID."
        )
    return notes


def _dataset(given: str, finished: Finished) -> tuple[str, tuple[str, str]]:
    """A task, with the hub's dataset and the task's id there."""
    task, separator, rest = given.rpartition("=")
    dataset, colon, task_id = rest.partition(":")
    if not separator or not colon or not task_id or dataset.count("/") != 1:
        raise InputError(f"--dataset {given!r} is not understood; write TASK=OWNER/NAME:TASK_ID")
    if task not in finished.measured.before:
        raise InputError(
            f"--dataset {given!r}: {task!r} was not measured{nearest(task, finished.measured.before)}; there are: "
            f"{', '.join(finished.measured.before)}"
        )
    return task, (dataset, task_id)


def _entry(finished: Finished, model: str, task: str, dataset: str, task_id: str) -> EvalResultEntry:
    """The headline figure of a task, with its interval."""
    found = finished.models[model][task]
    headline = found.family.headline
    low, high = found.interval(headline, finished.written.seed)
    interval = "" if low is None or high is None else f", 95 % interval {low:.4f} to {high:.4f}"
    return EvalResultEntry(
        dataset_id=dataset,
        task_id=task_id,
        value=found[headline],
        date=finished.sealed["content"]["time"],
        notes=f"{headline} of {len(found.clusters)} questions of {dataset_of(task).title}{interval}; crispr-lm, seal "
        f"{finished.sealed['seal']}",
    )
