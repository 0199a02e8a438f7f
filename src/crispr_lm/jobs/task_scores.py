"""Neuron scores of a run: attribution on every task, each counting the same. Where settings and attribution meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from crispr_lm.attribution.bias_influence import BiasInfluence, score_neurons
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import RunSettings, ScoreSettings
from crispr_lm.tasks.base import Example, Task


def score_tasks(
    lm: LanguageModel,
    fits: Sequence[tuple[Task, Sequence[Example]]],
    settings: RunSettings | ScoreSettings,
    progress: Progress,
) -> NeuronScores:
    """Scores averaged over tasks: each task counts the same, whatever its number of examples."""
    pairs = sum(len(examples) * len(task.instructions) for task, examples in fits)
    with progress.step("Finding bias neurons", pairs) as advance:
        of_tasks = [
            score_neurons(
                lm,
                examples,
                task.instructions,
                BiasInfluence(settings.neurons, settings.skill_weight, settings.token_aggregation),
                batch_size=settings.batch_size,
                progress=advance,
            )
            for task, examples in fits
        ]
    values = {
        module: torch.stack([scores.values[module] for scores in of_tasks]).mean(dim=0) for module in of_tasks[0].values
    }
    return NeuronScores(
        values=values,
        kind=settings.neurons,
        origin={
            "model": lm.name,
            "tasks": [task.name for task, _ in fits],
            "examples": settings.examples,
            "instructions": len(fits[0][0].instructions),
            "attribute_on": settings.attribute_on,
            "skill_weight": settings.skill_weight,
            "token_aggregation": settings.token_aggregation,
            "seed": settings.seed,
        },
    )
