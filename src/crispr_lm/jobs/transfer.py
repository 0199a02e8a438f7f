"""Transfer: what an edit found on one task alone does to the others. An edit for each task, measured on all of them.

The run's own edit is found on all of its tasks together; this shows what each of them contributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, divergence
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.suite import Subject, measure_all
from crispr_lm.jobs.attribution import attribute
from crispr_lm.jobs.edit_search import Start, find_edit
from crispr_lm.jobs.preparation import searched_aside
from crispr_lm.metrics.statistics import corrected_over_tasks
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.runtime.distributed import on_first
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import RunSettings
from crispr_lm.storage.files import make_folder
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks.parts import Parts


def check_transfer(settings: RunSettings) -> None:
    """Refuse to measure the transfer between fewer than two tasks, before anything is done.

    Raises:
        InputError: there is one task alone.
    """
    if settings.transfer and len(settings.task) < 2:
        raise InputError(
            "--transfer finds an edit on each of several tasks alone; give --task more than once, or leave it away"
        )


@dataclass(frozen=True)
class Unedited:
    """What a run has measured of the unedited model.

    Attributes:
        subjects: What the run measures; the transfer is measured on those of bias.
        before: Subject's name to its measurement.
        reference: The model's distribution on neutral prompts.
    """

    subjects: Sequence[Subject]
    before: Mapping[str, Measurement]
    reference: ReferenceDistribution


def measure_transfer(
    lm: LanguageModel,
    parts: Sequence[Parts],
    unedited: Unedited,
    settings: RunSettings,
    folder: RunFolder,
    progress: Progress,
) -> dict[str, Any]:
    """Search an edit on each task alone and measure it on every bias task; what was tried is kept, and resumed.

    Args:
        lm: The model; left as it was.
        parts: Of the tasks that edits are found on.
        unedited: What the run has measured of the unedited model.
        settings: All options.
        folder: The run's folder.
        progress: Shows how far it is.

    Returns:
        Task that an edit was found on to the edit, why it was chosen, and figures of every task with their differences
        from the unedited model (95 % intervals, paired, clustered by template; tests corrected over these tasks).
    """
    measured = [subject for subject in unedited.subjects if subject.role == "bias"]
    alone = settings.model_copy(update={"pick": None})
    aside = searched_aside([part.task for part in parts], settings)  # every task is measured, so none is another kind
    transferred = {}
    for number, part in enumerate(parts):
        progress.say(f"Transfer: an edit for {part.task.name} alone ({number + 1} of {len(parts)})")
        below = folder.transfer(number)
        begun = on_first(partial(_begin, below))
        scores = attribute(lm, [(part.task, part.attribution)], alone, progress)
        start = Start(scores, unedited.reference, below, begun, aside, alone.time_budget)
        found = find_edit(lm, [part], start, alone, progress)
        edit = Edit.from_neurons(lm, found.neurons, found.scale)
        with edit.applied(lm):
            after = measure_all(lm, measured, settings, progress, "Measuring")
            diverged = divergence(lm, unedited.reference, settings.batch_size)
        changed = corrected_over_tasks(
            {name: of_task.differences_from(unedited.before[name], settings.seed) for name, of_task in after.items()}
        )
        transferred[part.task.name] = {
            "neurons": [[neuron.kind, neuron.module, neuron.index] for neuron in found.neurons],
            "scale": found.scale,
            "verdict": found.verdict,
            "reason": found.reason,
            "kl": diverged["kl"],
            "tasks": {
                name: {
                    "after": of_task.metrics,
                    "spread": of_task.spread,
                    "statistics": {metric: difference.to_dict() for metric, difference in changed[name].items()},
                }
                for name, of_task in after.items()
            },
        }
    return transferred


def _begin(folder: RunFolder) -> bool:
    """Make the folder; whether an interrupted run has tried something there."""
    make_folder(folder.path)
    return folder.search.exists()
