"""Side effects that limits are on: facts about groups that are lost, and other kinds of stereotype that grow.

Only re-evaluated edits are asked for them, which are those that may be recommended: the questions would be half of what
a candidate is asked.

Knows a model and questions; knows no search strategy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from crispr_lm.inference.batching import BatchSize
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.metrics.bias_rise import bias_rise
from crispr_lm.metrics.statistics import clustered_error
from crispr_lm.search.neuron_count import ChoosePart, validation_part
from crispr_lm.search.trial import Figures, Limits
from crispr_lm.tasks.base import Example, Task, open_instructions, template_hashes
from crispr_lm.tasks.facts import search_fact_examples
from crispr_lm.tasks.other_kinds import searched_other_kinds

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

FACTS, SPILLOVER = "facts", "spillover"

Answers = Mapping[str, Sequence[int]]

KNOWN = 1.645
"""Standard errors that the accuracy on facts must be above chance by (one-sided 95 %): a model that does not know the
facts has none to lose, and its guesses would decide which edit is taken."""


@dataclass(frozen=True)
class AskedAside:
    """The questions, under their names; none that no limit is on.

    Attributes:
        facts: Questions whose right answer depends on the group; no template of ``builtin:facts`` is among them.
        spillover: Questions on other kinds of stereotype.
    """

    facts: Task | None = None
    spillover: Task | None = None

    @property
    def tasks(self) -> dict[str, Task]:
        """Those that there are, by name."""
        both = {FACTS: self.facts, SPILLOVER: self.spillover}
        return {name: task for name, task in both.items() if task is not None}

    @property
    def examples(self) -> tuple[Example, ...]:
        """Of all of them."""
        return tuple(example for task in self.tasks.values() for example in task.examples)

    @property
    def templates(self) -> tuple[str, ...]:
        """Hashes of their templates."""
        return template_hashes(self.examples)


def asked_aside(tasks: Sequence[Task], limits: Limits, seed: int) -> AskedAside:
    """The questions that a search with these limits asks; none of a limit of 1, which nothing can exceed.

    Args:
        tasks: That the edit is made for.
        limits: On the cost of an edit.
        seed: Of the draw.
    """
    facts = Task("facts for the search", tuple(search_fact_examples()), open_instructions())
    made_for = [example for task in tasks for example in task.examples]
    return AskedAside(
        facts if limits.fact_loss < 1 else None,
        searched_other_kinds(made_for, seed) if limits.spillover < 1 else None,
    )


class SideEffects:
    """Asks these questions, each under one instruction, and says what an edit costs there."""

    def __init__(self, lm: LanguageModel, asked: AskedAside, seed: int, batch_size: BatchSize) -> None:
        self._lm, self._batch_size = lm, batch_size
        self._parts = {
            name: validation_part(lm, name, task.examples, task.instructions, seed)
            for name, task in asked.tasks.items()
        }

    def of_original(self) -> dict[str, list[int]]:
        """The options that the unedited model chooses of all questions; of facts only if it knows them (`KNOWN`)."""
        found = self.answers(self._parts)
        if FACTS in found and not _known(self._parts[FACTS], found[FACTS]):
            del found[FACTS]
        return found

    def answers(self, names: Iterable[str]) -> dict[str, list[int]]:
        """The options that the model as it is now chooses of the questions of these names."""
        return {
            name: prompt_scores(self._lm, self._parts[name].prompts, self._batch_size).argmax(dim=1).tolist()
            for name in names
        }

    def judged(self, figures: Figures, after: Answers, before: Answers) -> Figures:
        """The figures with what these answers say of side effects.

        Args:
            figures: Of the edit.
            after: Its answers.
            before: Those of the original.
        """
        if FACTS in after:
            loss, doubt = _loss(self._parts[FACTS], before[FACTS], after[FACTS])
            figures = replace(figures, fact_loss=loss, fact_doubt=doubt)
        if SPILLOVER in after:
            rise, doubt = bias_rise(self._parts[SPILLOVER].examples, before[SPILLOVER], after[SPILLOVER])
            figures = replace(figures, spillover=rise, spillover_doubt=doubt)
        return figures


def _known(part: ChoosePart, answers: Sequence[int]) -> bool:
    right = np.array([float(answer == example.answer) for answer, example in zip(answers, part.examples, strict=True)])
    chance = fmean(1 / len(example.options) for example in part.examples)
    error = clustered_error(right, [example.template for example in part.examples])
    return bool(right.mean() - chance > KNOWN * error)


def _loss(part: ChoosePart, before: Sequence[int], after: Sequence[int]) -> tuple[float, float]:
    """Loss of accuracy, and its standard error clustered by template."""
    asked = zip(part.examples, before, after, strict=True)
    lost = np.array([float(old == example.answer) - float(new == example.answer) for example, old, new in asked])
    return float(lost.mean()), float(clustered_error(lost, [example.template for example in part.examples]))
