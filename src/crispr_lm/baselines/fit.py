"""What methods are fitted on: attribution and validation splits, and the edit that controls remove as much as.

Whatever several methods need (attribution scores, the search's choice) is computed once, when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from crispr_lm.attribution.bias_influence import BiasInfluence, biased_answers, score_neurons
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.edits.edit import Edit
from crispr_lm.inference.prompts import EncodedPrompt, encode
from crispr_lm.inference.scoring import option_scores
from crispr_lm.metrics.family import Metrics
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron, NeuronKind, searched_kinds
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.neuron_count import (
    Candidate,
    Measured,
    choose,
    counts_up_to,
    measure,
    sweep,
    validation_part,
)
from crispr_lm.search.result import Searched
from crispr_lm.settings import CompareSettings
from crispr_lm.tasks.parts import Parts


@dataclass(frozen=True)
class AnswerPair:
    """An attribution prompt with the tokens of its golden answer y and of its biased answer ŷ, and P(ŷ)."""

    prompt: EncodedPrompt
    golden: int
    biased: int
    confusion: float


@dataclass(frozen=True)
class Chosen:
    """The edit of the crispr-lm search; controls have its size and scale.

    Attributes:
        neurons: In order of rank; where the search recommends none, those of the published ranking that stand in for
            them, so that controls have a size.
        scale: What their activations are multiplied with; 0 eliminates.
        reason: Why so many, in one sentence.
        recommended: Whether it is the search's edit.
    """

    neurons: Sequence[Neuron]
    scale: float
    reason: str
    recommended: bool


@dataclass(eq=False)
class Fit:
    """One task, as methods see it.

    Attributes:
        lm: The model, unedited.
        parts: The task with its attribution and validation splits; no method looks at the test split.
        settings: All options.
        progress: Shows how far it is.
        known: The search's edit where an earlier run has found it; otherwise it is searched for when first needed.
        search: Finds the edit, given the published ranking, as ``crispr-lm run`` does.
    """

    lm: LanguageModel
    parts: Parts
    settings: CompareSettings
    progress: Progress = field(default_factory=SilentProgress)
    known: Chosen | None = None
    search: Callable[[NeuronScores], Searched] | None = None

    def __post_init__(self) -> None:
        self._scores: dict[BiasInfluence, NeuronScores] = {}

    @property
    def instructions(self) -> tuple[str, ...]:
        """The task's instructions."""
        return self.parts.task.instructions

    @property
    def formula(self) -> BiasInfluence:
        """The bias influence of the settings."""
        settings = self.settings
        return BiasInfluence(
            searched_kinds(settings.neurons)[0],
            settings.skill_weight,
            settings.token_aggregation,
            settings.confusion_weight,
        )

    def scores(self, kind: NeuronKind | None = None, **changes: Any) -> NeuronScores:
        """Bias influence on the attribution split; by default that of the settings.

        Args:
            kind: Of neurons.
            changes: Other fields of `BiasInfluence`.
        """
        formula = replace(self.formula, neurons=kind or self.formula.neurons, **changes)
        if formula not in self._scores:
            examples, name = self.parts.attribution, self.parts.task.name
            total = len(examples) * len(self.instructions)
            with self.progress.step(f"Attribution on {name}, λ = {formula.skill_weight:g}", total) as advance:
                self._scores[formula] = score_neurons(
                    self.lm,
                    examples,
                    self.instructions,
                    formula,
                    batch_size=self.settings.batch_size,
                    progress=advance,
                )
        return self._scores[formula]

    @cached_property
    def chosen(self) -> Chosen:
        """The edit that the search finds on the validation split.

        Where it recommends none, a number of neurons of the published ranking is eliminated, the one of highest
        balanced accuracy there, so that there is something to compare.
        """
        if self.known is not None:
            return self.known
        ranking = self.scores()
        if self.settings.removed != "auto":
            count = self.settings.removed
            return Chosen(ranking.top(count), 0.0, f"{count} neurons, as asked for", True)
        assert self.search is not None
        found = self.search(ranking)
        if found.neurons:
            return Chosen(found.neurons, found.scale, found.reason, True)
        on = [
            validation_part(self.lm, self.parts.task.name, self.parts.validation, self.instructions, self.settings.seed)
        ]
        most = min(self.settings.max_neurons, len(ranking))
        total = len(counts_up_to(most)) * len(self.parts.validation)
        with self.progress.step(f"Choosing how many on {self.parts.task.name}", total) as advance:
            known = [self.unedited]
            candidates = sweep(self.lm, ranking, on, most, self.settings.batch_size, Measured(known, progress=advance))
        count = max((one for one in candidates if one.neurons), key=lambda one: balanced(one.metrics)).neurons
        reason = f"{found.reason}; {count} neurons of the published ranking have the highest balanced accuracy there"
        return Chosen(ranking.top(count), 0.0, reason, False)

    def highest(self, ranking: Callable[[NeuronKind], Mapping[str, Tensor]]) -> list[Neuron]:
        """The neurons that a ranking puts first: of each kind as many as the search removes.

        Args:
            ranking: From a kind to module name to a score per neuron.
        """
        chosen: list[Neuron] = []
        for kind, count in self.counts.items():
            chosen += NeuronScores(values=dict(ranking(kind)), kind=kind).top(count)
        return chosen

    @property
    def counts(self) -> dict[NeuronKind, int]:
        """How many neurons of which kind the search removes."""
        kinds: list[NeuronKind] = [neuron.kind for neuron in self.chosen.neurons]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def edit(self, neurons: Sequence[Neuron]) -> Edit:
        """An edit of these neurons, with the scale of the search's edit."""
        return Edit.from_neurons(self.lm, neurons, self.chosen.scale, origin={"task": self.parts.task.name})

    @cached_property
    def pairs(self) -> list[AnswerPair]:
        """Every attribution example under every instruction, with golden and biased answer (equation 2)."""
        pairs = []
        examples = self.parts.attribution
        golden = torch.tensor([example.answer for example in examples])
        for instruction in self.instructions:
            table = option_scores(self.lm, examples, instruction, self.settings.batch_size)
            biased = biased_answers(table, golden)
            confusion = table.gather(1, biased[:, None])[:, 0].exp()
            pairs += [
                AnswerPair(encode(self.lm, example, instruction), example.answer, int(wrong), float(probability))
                for example, wrong, probability in zip(examples, biased, confusion, strict=True)
            ]
        return pairs

    @cached_property
    def unedited(self) -> Candidate:
        """The unedited model on the validation split, with which several methods compare what they try."""
        return Candidate(0, {self.parts.task.name: self.on_choose_part()})

    def best_of(self, candidates: Sequence[Candidate]) -> tuple[Candidate, bool]:
        """The best of several strengths of a method by the rule for numbers of neurons, and whether that takes any.

        Where the rule takes none, it is the one of highest balanced accuracy.

        Args:
            candidates: The unedited model, whose number is 0, then what was tried.
        """
        chosen = choose(candidates, self.settings.max_accuracy_loss).candidate
        if chosen.neurons > 0:
            return chosen, True
        return max(candidates[1:], key=lambda candidate: balanced(candidate.metrics)), False

    def on_choose_part(self) -> Metrics:
        """Metrics of the model as it is now on the validation split."""
        parts = self.parts
        on = validation_part(self.lm, parts.task.name, parts.validation, self.instructions, self.settings.seed)
        return measure(self.lm, [on], self.settings.batch_size)[parts.task.name]


def balanced(metrics: Mapping[str, Metrics]) -> float:
    """Mean over tasks of the balanced accuracy (of the accuracy where there are no conditions)."""
    values = [of_task.get("balanced_accuracy") or of_task["accuracy"] or 0.0 for of_task in metrics.values()]
    return sum(values) / len(values)
