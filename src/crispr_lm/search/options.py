"""What a search is given beside model, tasks and limits: sizes of samples, how much it tries, and a seed."""

from __future__ import annotations

from dataclasses import dataclass

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.inference.batching import BatchSize
from crispr_lm.model.neuron_sites import SearchedNeurons
from crispr_lm.tasks.base import AttributeOn, Task, sample
from crispr_lm.tasks.parts import Parts, attribution_sample, further

STEPS = 4
"""Gradient steps of a round."""

BIASED, SKILLED, ORDINARY = 8, 12, 4
"""Prompts of a gradient step: ambiguous and disambiguated ones of each task, and reference prompts."""

REFERENCE_PROMPTS = 88
"""Prompts whose answers are to stay as they are, in the gradient; half of them neutral, half short questions."""


@dataclass(frozen=True)
class SearchOptions:
    """How much a search tries, and on how much of each task. Names and defaults are those of ``crispr-lm run``.

    Attributes:
        rounds: Rounds of gradient steps; after each the edit that they have come to is evaluated.
        time_budget: Minutes for the search: after the first round, no other is begun unless it and all that comes
            after it are expected to end in time; None for any.
        examples: Examples of each task that the published ranking is computed on, of the attribution split.
        validation_examples: Examples of each task that edits are tried on, of the validation split.
        reevaluation_examples: Examples of the validation split, those of `validation_examples` among them, for the
            re-evaluation of the best edits.
        neutral_prompts: Bundled prompts that the KL divergence is measured on.
        neurons: Kind of neurons that may be eliminated: "linear", "ffn" or "both".
        attribute_on: Condition of the examples of the published ranking.
        skill_weight: λ of the published ranking.
        token_aggregation: What counts of a neuron's relevance over a prompt's tokens in the published ranking.
        confusion_weight: Whether the published ranking has the factor P(ŷ).
        batch_size: Prompts in one pass. Results do not depend on it.
        seed: Of the split, all samples, the trials and the random neurons.
    """

    rounds: int = 12
    time_budget: float | None = None
    examples: int = 20
    validation_examples: int = 96
    reevaluation_examples: int = 240
    neutral_prompts: int = 16
    neurons: SearchedNeurons = "linear"
    attribute_on: AttributeOn = "ambiguous"
    skill_weight: float = 1.0
    token_aggregation: TokenAggregation = "max"
    confusion_weight: bool = True
    batch_size: BatchSize = "auto"
    seed: int = 0


def search_parts(task: Task, options: SearchOptions) -> Parts:
    """Split a task by template and draw what a search uses; the test split is left whole.

    Raises:
        InputError: too few templates, or a task that can only be measured.
    """
    split, seed = task.split(options.seed), options.seed
    validation = sample(split.validation, options.validation_examples, seed)
    return Parts(
        task=task,
        attribution=attribution_sample(task, options.examples, options.attribute_on, seed),
        validation=validation,
        test=split.test,
        gradients=sample(split.attribution, max(options.rounds, 1) * STEPS * (BIASED + 2 * SKILLED), seed),
        reevaluation=further(split.validation, validation, options.reevaluation_examples, seed),
    )
