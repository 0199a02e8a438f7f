"""What rankings are computed from, measured when it is first asked for, and anew with an edit in place.

Owns what a search has measured; knows a model and tasks, no strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.attribution.effects import Effects
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.task_scores import score_tasks
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron, NeuronKind
from crispr_lm.runtime.distributed import on_first
from crispr_lm.runtime.progress import Progress
from crispr_lm.search.evidence import Asked, Ordinary, evidence_anew, ordinary_answers, search_effects
from crispr_lm.search.options import SearchOptions
from crispr_lm.search.rankings import Evidence, Recipe, ranked
from crispr_lm.tasks.base import AttributeOn, of_condition, sample
from crispr_lm.tasks.parts import Parts

TaskEffects = list[dict[NeuronKind, Effects]]
"""Of each task the effects of each kind of neurons, on the unedited model."""

KeepEffects = Callable[[Callable[[], TaskEffects], int, Sequence[NeuronKind]], TaskEffects]
"""Gives the effects of so many tasks on these kinds: those that are kept, or else what the callable measures."""


def measured_once(measure: Callable[[], TaskEffects], _tasks: int, _kinds: Sequence[NeuronKind]) -> TaskEffects:
    """Keep nothing beyond the search itself."""
    return on_first(measure)


class EvidenceSource:
    """Measures what rankings are computed from."""

    def __init__(
        self,
        lm: LanguageModel,
        parts: Sequence[Parts],
        scores: NeuronScores,
        kinds: Sequence[NeuronKind],
        options: SearchOptions,
        progress: Progress,
    ) -> None:
        """Take what to measure on.

        Args:
            lm: The model, unedited.
            parts: Of every task.
            scores: The published ranking for the options as they are.
            kinds: Kinds of neurons to measure effects of.
            options: Sizes of samples, and how neurons are scored.
            progress: Shows how far it is.
        """
        self._lm = lm
        self._parts = parts
        self._kinds = tuple(kinds)
        self._options = options
        self._progress = progress
        self._asked = [Asked(part.effects, options.effect_examples, part.task.instructions) for part in parts]
        self.keep: KeepEffects = measured_once

        @cache
        def published(attribute_on: AttributeOn, token_aggregation: TokenAggregation) -> NeuronScores:
            """B on as many examples of this condition, of those that effects are measured on."""
            wanted = replace(options, attribute_on=attribute_on, token_aggregation=token_aggregation)
            if wanted == options:
                return scores
            drawn = [sample(of_condition(part.effects, attribute_on), wanted.examples, wanted.seed) for part in parts]
            fits = [(part.task, examples) for part, examples in zip(parts, drawn, strict=True)]
            return score_tasks(lm, fits, wanted, progress)

        self.published = published
        # Trials that follow from the same edit come one after the other; more evidence would not fit in memory.
        self._anew = lru_cache(1)(
            partial(evidence_anew, lm, self.published, self._asked, options.seed, options.batch_size, progress=progress)
        )

    @cached_property
    def ordinary(self) -> Ordinary:
        """What the unedited model answers where no stereotype is near."""
        options = self._options
        with self._progress.step("Measuring effects on the unedited model's answers"):
            return on_first(
                lambda: ordinary_answers(
                    self._lm, options.neutral_prompts, self._kinds, options.seed, options.batch_size
                )
            )

    @cached_property
    def evidence(self) -> Evidence:
        """Of the unedited model."""
        of_tasks = self.keep(self._measure, len(self._parts), self._kinds)
        joined = {kind: Effects.joined([of_task[kind] for of_task in of_tasks]) for kind in self._kinds}
        several = of_tasks if len(of_tasks) > 1 else ()
        return Evidence(self.published, joined, self.ordinary.unedited(), self.ordinary.kept, several)

    def following(self, recipe: Recipe) -> Sequence[Neuron]:
        """The changes that `pursuit` ranks first, measured with the recipe's eliminated neurons in place."""
        if not recipe.eliminated:
            return ranked("pursuit", self.evidence, recipe)
        ordinary = self.ordinary
        return on_first(
            lambda: ranked("pursuit", self._anew(ordinary, recipe.kind, recipe.eliminated, recipe.scale), recipe)
        )

    def _measure(self) -> TaskEffects:
        """Effects on every task."""
        options = self._options
        total = sum(len(of_task.drawn(options.seed)) for of_task in self._asked)
        with self._progress.step("Measuring effects", total) as advance:
            return [
                search_effects(self._lm, of_task, self._kinds, options.seed, options.batch_size, advance)
                for of_task in self._asked
            ]
