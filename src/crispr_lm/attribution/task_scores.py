"""Neuron scores of several tasks: bias influence on every task, each counting the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.attribution.bias_influence import BiasInfluence, score_neurons
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.inference.batching import BatchSize
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import SearchedNeurons, searched_kinds
from crispr_lm.runtime.progress import Progress
from crispr_lm.tasks.base import AttributeOn, Example, Task


class ScoreOptions(Protocol):
    """How neurons are scored; the settings of a job and `crispr_lm.SearchOptions` have these among others.

    Attributes:
        neurons: Kind of neurons; of "both" the linear ones are scored.
        skill_weight: λ of B = Ã - λ A.
        token_aggregation: What counts of a neuron's relevance over a prompt's tokens.
        confusion_weight: Whether A has the factor P(ŷ).
        batch_size: Prompts in one pass.
        examples: Number of examples of each task, for the record.
        attribute_on: Their condition, for the record.
        seed: They were drawn with, for the record.
    """

    @property
    def neurons(self) -> SearchedNeurons: ...  # noqa: D102
    @property
    def skill_weight(self) -> float: ...  # noqa: D102
    @property
    def token_aggregation(self) -> TokenAggregation: ...  # noqa: D102
    @property
    def confusion_weight(self) -> bool: ...  # noqa: D102
    @property
    def batch_size(self) -> BatchSize: ...  # noqa: D102
    @property
    def examples(self) -> int: ...  # noqa: D102
    @property
    def attribute_on(self) -> AttributeOn: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def score_tasks(
    lm: LanguageModel,
    fits: Sequence[tuple[Task, Sequence[Example]]],
    options: ScoreOptions,
    progress: Progress,
) -> NeuronScores:
    """Scores averaged over tasks: each task counts the same, whatever its number of examples."""
    kind = searched_kinds(options.neurons)[0]
    formula = BiasInfluence(kind, options.skill_weight, options.token_aggregation, options.confusion_weight)
    pairs = sum(len(examples) * len(task.instructions) for task, examples in fits)
    with progress.step("Finding bias neurons", pairs) as advance:
        of_tasks = [
            score_neurons(
                lm,
                examples,
                task.instructions,
                formula,
                batch_size=options.batch_size,
                progress=advance,
            )
            for task, examples in fits
        ]
    values = {
        module: torch.stack([scores.values[module] for scores in of_tasks]).mean(dim=0) for module in of_tasks[0].values
    }
    return NeuronScores(
        values=values,
        kind=kind,
        origin={
            "model": lm.name,
            "tasks": [task.name for task, _ in fits],
            "examples": max(len(examples) for _, examples in fits),
            "instructions": len(fits[0][0].instructions),
            "attribute_on": options.attribute_on,
            "skill_weight": options.skill_weight,
            "token_aggregation": options.token_aggregation,
            "confusion_weight": options.confusion_weight,
            "seed": options.seed,
        },
    )


def with_draws(scores: NeuronScores, seeds: Sequence[int], sampling: str) -> NeuronScores:
    """The same scores, with on record how their examples were drawn.

    Args:
        scores: Of the examples of all draws together.
        seeds: One a draw.
        sampling: How examples were drawn.
    """
    drawn = {"examples": scores.origin["examples"] // len(seeds), "sampling": sampling, "seeds": list(seeds)}
    return replace(scores, origin={**scores.origin, **drawn})
