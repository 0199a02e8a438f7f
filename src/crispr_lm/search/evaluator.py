"""The evaluator: tries edits on the validation split, each on the same examples.

Scoring, divergence and figures meet here. Knows a model, examples and edits; knows no search strategy.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crispr_lm.edits.edit import Edit
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, divergence
from crispr_lm.inference.batching import BatchSize
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.metrics.bias_rise import bias_rise
from crispr_lm.metrics.family import Metrics
from crispr_lm.metrics.question_answering import question_answering_metrics
from crispr_lm.metrics.statistics import clustered_error
from crispr_lm.model.neuron_sites import Neuron, find_sites
from crispr_lm.runtime.distributed import with_model
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.neuron_count import ChoosePart
from crispr_lm.search.side_effects import SideEffects
from crispr_lm.search.trial import Figures, Limits, Trial, figures_of
from crispr_lm.tasks.base import DISAMBIGUATED, Example

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

Answers = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Proposal:
    """An edit to try, and how it came about."""

    stage: str
    recipe: Mapping[str, Any]
    neurons: tuple[Neuron, ...]
    scale: float = 0.0

    @property
    def edit(self) -> tuple[frozenset[Neuron], float]:
        """As `Trial.edit`."""
        return frozenset(self.neurons), self.scale


class Evaluator:
    """Tries edits. Every edit is asked the same examples, in the same order, so that trials compare in pairs.

    A trial asks the first examples of every task; the last few edits of a search are asked the further ones as well,
    and for side effects (`reevaluate`), which none of them was made or taken for.
    """

    def __init__(
        self,
        lm: LanguageModel,
        parts: Sequence[ChoosePart],
        original: ReferenceDistribution,
        limits: Limits,
        batch_size: BatchSize = "auto",
        further: Sequence[ChoosePart] = (),
    ) -> None:
        """Take what to try edits on.

        Args:
            lm: The model; left as it was after every trial.
            parts: The examples of every task.
            original: The unedited model on neutral prompts.
            limits: An edit whose divergence is above its limit is asked nothing.
            batch_size: Prompts in one pass.
            further: Further examples of the same tasks, in the same order, for the last few edits.
        """
        self.lm = lm
        self.parts = list(parts)
        self._asked_first = {part.task: len(part.prompts) for part in self.parts}
        for index, more in enumerate(further):
            self.parts[index] = self.parts[index].joined(more)
        self.original = original
        self.limits = limits
        self.batch_size = batch_size
        self.progress: Progress = SilentProgress()
        self.side_effects: SideEffects | None = None
        self._tried: dict[tuple[frozenset[Neuron], float], Trial] = {}
        self._reevaluated: dict[tuple[frozenset[Neuron], float], Trial] = {}

    @property
    def prompts(self) -> int:
        """Prompts of a complete trial."""
        return sum(self._asked_first.values())

    @property
    def further_prompts(self) -> int:
        """Prompts that only the last few edits are asked."""
        return sum(len(part.prompts) for part in self.parts) - self.prompts

    def remember(self, trial: Trial) -> None:
        """Take a trial that was done before (by an interrupted run): the same edit is not measured again."""
        known = self._tried if trial.is_candidate else self._reevaluated
        known.setdefault(trial.edit, trial)

    def _divergence(self) -> float:
        """Of the model as it is now; one process tells all, so that they decide the same."""
        kl = with_model(lambda: divergence(self.lm, self.original, self.batch_size)["kl"])
        assert kl is not None
        return kl

    def attempt(self, number: int, proposal: Proposal, original: Trial | None = None) -> Trial:
        """Try an edit. One whose divergence is above its limit is asked nothing: all its figures but KL are 0.

        Args:
            number: Of the trial.
            proposal: The edit.
            original: The trial of the original model; None for that itself.
        """
        start = time.perf_counter()
        known = self._tried.get(proposal.edit)
        if known is not None:
            return _renumbered(known, number, proposal)
        answers: dict[str, list[int]] = {part.task: [] for part in self.parts}
        aside: Answers = {}
        with Edit.from_neurons(self.lm, proposal.neurons, proposal.scale).applied(self.lm):
            kl = self._divergence() if proposal.neurons else 0.0
            figures = Figures(0.0, 0.0, 0.0, kl)
            complete = not figures.too_far(self.limits)
            if complete:
                for part in self.parts:
                    answers[part.task] = self._asked(part.prompts[: self._asked_first[part.task]])
                of_original = answers if original is None else original.answers
                figures = self._figures(answers, of_original, kl)
            if self.side_effects is not None and original is None:
                aside = self.side_effects.of_original()
        trial = Trial(
            number,
            proposal.stage,
            proposal.recipe,
            proposal.neurons,
            proposal.scale,
            figures,
            self._metrics(answers, answers) if complete else {},
            answers,
            complete,
            round(time.perf_counter() - start, 3),
            aside,
        )
        self._tried[proposal.edit] = trial
        return trial

    def reevaluate(self, number: int, proposal: Proposal, trial: Trial, original: Trial | None = None) -> Trial:
        """Ask the edit of a complete trial the further examples as well; its figures are then of all there are.

        Args:
            number: Of the new trial.
            proposal: Its stage and recipe, with the trial's edit.
            trial: The edit, asked what edits are tried on.
            original: The original model, re-evaluated before; None for the original itself.
        """
        known = self._reevaluated.get(proposal.edit)
        if known is not None:
            return replace(known, number=number, stage=proposal.stage, recipe=proposal.recipe, seconds=0.0)
        start = time.perf_counter()
        answers = {task: list(first) for task, first in trial.answers.items()}
        aside, of_original = trial.aside, answers if original is None else original.answers
        with Edit.from_neurons(self.lm, proposal.neurons, proposal.scale).applied(self.lm):
            for part in self.parts:
                ahead = part.prompts[self._asked_first[part.task] :]
                if ahead:
                    answers[part.task] += self._asked(ahead)
            figures = self._figures(answers, of_original, trial.figures.kl)
            if self.side_effects is not None and original is not None and proposal.stage != "control":
                aside = self.side_effects.answers(original.aside)
                figures = self.side_effects.judged(figures, aside, original.aside)
        reevaluated = replace(
            trial,
            number=number,
            stage=proposal.stage,
            recipe=proposal.recipe,
            figures=figures,
            metrics=self._metrics(answers, answers),
            answers=answers,
            seconds=round(time.perf_counter() - start, 3),
            aside=aside,
        )
        self._reevaluated[proposal.edit] = reevaluated
        return reevaluated

    def random_control(self, trial: Trial, seed: int) -> Proposal:
        """As many neurons of the same kinds, drawn at random from the whole model."""
        recipe = {"ranking": "random", "like": trial.number}
        return Proposal("control", recipe, random_neurons(self.lm, trial.neurons, seed), trial.scale)

    def examples(self, task: str) -> tuple[Example, ...]:
        """The examples of a task in the order of asking."""
        return next(part.examples for part in self.parts if part.task == task)

    def _asked(self, prompts: Sequence[EncodedPrompt]) -> list[int]:
        """The option of the highest score for each prompt, the first of several."""
        with self.progress.step("Evaluating a candidate", len(prompts)) as advance:
            return prompt_scores(self.lm, prompts, self.batch_size, advance).argmax(dim=1).tolist()

    def _figures(self, answers: Answers, original: Answers, kl: float) -> Figures:
        before, after = self._metrics(original, answers), self._metrics(answers, answers)
        doubts = [self._doubts(part, answers[part.task], original[part.task]) for part in self.parts]
        implied = (
            (before[part.task].get("answered_accuracy") or 0.0) * of_rise
            for part, (_, of_rise) in zip(self.parts, doubts, strict=True)
        )
        figures = figures_of(before, after, kl, max(of_loss for of_loss, _ in doubts), max(implied))
        rises = [bias_rise(part.examples, original[part.task], answers[part.task]) for part in self.parts]
        clearest = max(rises, key=lambda rise: rise[0] - self.limits.caution * rise[1])
        return replace(figures, bias_rise=clearest[0], bias_doubt=clearest[1])

    @staticmethod
    def _doubts(part: ChoosePart, answers: Sequence[int], original: Sequence[int]) -> tuple[float, float]:
        """Standard errors over the disambiguated examples asked, clustered by template.

        Returns:
            Of the loss of accuracy, and of the rise of "unknown".
        """
        rows = [
            (example, after, before)
            for example, after, before in zip(part.examples, answers, original, strict=False)
            if example.condition == DISAMBIGUATED
        ]
        if not rows:
            return 0.0, 0.0
        templates = [example.template for example, _, _ in rows]
        losses = [float(before == example.answer) - (after == example.answer) for example, after, before in rows]
        rises = [float(after == example.unknown) - (before == example.unknown) for example, after, before in rows]
        of_loss, of_rise = (float(clustered_error(np.array(values), templates)) for values in (losses, rises))
        return of_loss, of_rise

    def _metrics(self, answers: Answers, like: Answers) -> dict[str, Metrics]:
        """Metrics by task, over as many examples as the other has answered."""
        return {
            part.task: question_answering_metrics(
                part.examples[: len(like[part.task])], answers[part.task][: len(like[part.task])]
            )
            for part in self.parts
        }


def random_neurons(lm: LanguageModel, like: Sequence[Neuron], seed: int) -> tuple[Neuron, ...]:
    """As many neurons of the same kinds, drawn at random from the whole model."""
    generator = random.Random(seed)
    chosen: list[Neuron] = []
    for kind in sorted({neuron.kind for neuron in like}):
        sites = find_sites(lm.model, kind)
        everywhere = [Neuron(site.name, index, kind) for site in sites for index in range(site.width)]
        chosen += generator.sample(everywhere, sum(neuron.kind == kind for neuron in like))
    return tuple(chosen)


def _renumbered(trial: Trial, number: int, proposal: Proposal) -> Trial:
    recipe = {**proposal.recipe, "same_edit_as": trial.number}
    return replace(trial, number=number, stage=proposal.stage, recipe=recipe, neurons=proposal.neurons, seconds=0.0)
