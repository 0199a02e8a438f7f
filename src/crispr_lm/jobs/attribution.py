"""The attribution step of a job: the published ranking, with how its examples were drawn on record."""

from __future__ import annotations

from collections.abc import Sequence

from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.task_scores import score_tasks, with_draws
from crispr_lm.jobs.preparation import seeds_of
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.other_settings import ScoreSettings
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.base import Example, Task


def attribute(
    lm: LanguageModel,
    fits: Sequence[tuple[Task, Sequence[Example]]],
    settings: RunSettings | ScoreSettings,
    progress: Progress,
) -> NeuronScores:
    """Score every neuron on the examples drawn for each task, those of all draws together.

    Args:
        lm: The model.
        fits: Tasks, each with its examples.
        settings: How neurons are scored and examples were drawn.
        progress: Shows how far it is.
    """
    return with_draws(score_tasks(lm, fits, settings, progress), seeds_of(settings), settings.sampling)
