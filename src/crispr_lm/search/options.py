"""What a search is given beside model, tasks and limits: sizes of samples, how much it tries, and a seed."""

from __future__ import annotations

from dataclasses import dataclass

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.inference.batching import BatchSize
from crispr_lm.model.neuron_sites import NeuronKind
from crispr_lm.tasks.base import AttributeOn, Task, sample
from crispr_lm.tasks.parts import Parts, attribution_sample, further


@dataclass(frozen=True)
class SearchOptions:
    """How much a search tries, and on how much of each task. Names and defaults are those of ``crispr-lm run``.

    Attributes:
        rounds: Rounds in which neurons of each kind are first taken, a few at a time; each is an edit that is tried.
        trials: Further edits that are tried: rankings, numbers, kinds and strengths of neurons.
        refinements: Further edits that are tried to improve the best one.
        time_budget: Minutes after which no further edit is tried; None for any.
        examples: Examples of each task that the published ranking is computed on, of the attribution split.
        effect_examples: Examples of each task in one measurement of effects, of the attribution split.
        validation_examples: Examples of each task that edits are tried on, of the validation split.
        reevaluation_examples: Examples of the validation split, those of `validation_examples` among them, for the
            re-evaluation of the best edits.
        neutral_prompts: Bundled prompts that the KL divergence is measured on.
        neurons: Kind of neurons of the published ranking. The search itself takes all kinds that the model has.
        attribute_on: Condition of the examples of the published ranking.
        skill_weight: λ of the published ranking.
        token_aggregation: What counts of a neuron's relevance over a prompt's tokens in the published ranking.
        batch_size: Prompts in one pass. Results do not depend on it.
        seed: Of the split, all samples, the trials and the random neurons.
    """

    rounds: int = 8
    trials: int = 24
    refinements: int = 12
    time_budget: float | None = None
    examples: int = 20
    effect_examples: int = 96
    validation_examples: int = 120
    reevaluation_examples: int = 360
    neutral_prompts: int = 32
    neurons: NeuronKind = "linear"
    attribute_on: AttributeOn = "ambiguous"
    skill_weight: float = 1.0
    token_aggregation: TokenAggregation = "max"
    batch_size: BatchSize = "auto"
    seed: int = 0


def search_parts(task: Task, options: SearchOptions) -> Parts:
    """Split a task by template and draw what a search uses; the test split is left whole.

    Raises:
        InputError: too few templates, or fewer examples to attribute on than asked for.
    """
    split, seed = task.split(options.seed), options.seed
    validation = sample(split.validation, options.validation_examples, seed)
    return Parts(
        task=task,
        attribution=attribution_sample(task, options.examples, options.attribute_on, seed),
        validation=validation,
        test=split.test,
        # Every round measures effects anew, on other examples.
        effects=sample(split.attribution, options.effect_examples * (1 + options.rounds), seed),
        reevaluation=further(split.validation, validation, options.reevaluation_examples, seed),
    )
