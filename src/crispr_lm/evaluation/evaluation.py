"""Evaluation: what a model answers, and the metrics of it, mean and spread over instructions.

Where scoring and metrics meet. Knows no benchmark's files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.inference.generation import generated_scores
from crispr_lm.inference.scoring import option_scores
from crispr_lm.metrics.family import MetricFamily, with_unmatched
from crispr_lm.metrics.instructions import over_instructions
from crispr_lm.metrics.registry import family_named
from crispr_lm.tasks.base import Example, Task

if TYPE_CHECKING:
    from crispr_lm.edits.edit import Edit
    from crispr_lm.model.language_model import LanguageModel

ScoringMethod = Literal["sum", "mean", "generate"]
"""How the model's answer is found: the option of highest summed log-probability, of highest mean log-probability per
token, or the one that it writes by greedy generation."""


@dataclass(frozen=True, eq=False)
class Evaluation(Measurement):
    """Metrics of a model on a set of examples; read it like a dictionary of metric names.

    Attributes:
        examples: What was asked.
        option_scores: float32 (examples, options) per instruction; -inf where an example has no such option.
    """

    examples: tuple[Example, ...]
    option_scores: tuple[Tensor, ...]

    def part(self, indices: Sequence[int]) -> Evaluation:
        """The evaluation of some of the examples."""
        chosen = list(indices)
        tables = [table[chosen] for table in self.option_scores]
        return evaluation_of([self.examples[index] for index in chosen], tables, self.family)


def evaluate(
    lm: LanguageModel,
    examples: Task | Sequence[Example],
    instructions: Sequence[str] | None = None,
    *,
    family: str | None = None,
    scoring: ScoringMethod | None = None,
    edit: Edit | None = None,
) -> Evaluation:
    """Let the model choose an option for every example under every instruction: the one with the highest score.

    Of equal scores the first option wins.

    Args:
        lm: The model.
        examples: One or more; or a task, whose instructions, metrics and way of scoring are taken where none are given.
        instructions: One or more; needed where no task is given.
        family: Name of the metrics; "question_answering" by default.
        scoring: "sum" (by default) or "mean" (per token) of log-probabilities, or "generate": what the model writes is
            matched to the options, and the share that matches none is a metric of its own (`unmatched_share`).
        edit: Applied while the model answers; the weights are not touched.

    Raises:
        InputError: no examples or instructions, a prompt that does not fit, an unknown family, or an edit of another
            model.
        CrisprError: the model gives scores that are not finite.
    """
    if isinstance(instructions, str):
        raise InputError("instructions must be a list of strings; put a single one into a list")
    task = examples if isinstance(examples, Task) else Task("", tuple(examples), ())
    task = replace(
        task,
        instructions=task.instructions if instructions is None else tuple(instructions),
        family=family or task.family,
    )
    if edit is None:
        return evaluate_task(lm, task, scoring or task.scoring or "sum")
    with edit.applied(lm):
        return evaluate_task(lm, task, scoring or task.scoring or "sum")


def evaluate_task(
    lm: LanguageModel,
    task: Task,
    scoring: ScoringMethod,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """As `evaluate`, of all examples of a task under its instructions.

    Args:
        lm: The model as it is now.
        task: What to ask.
        scoring: How options are compared.
        batch_size: Prompts in one forward pass; results do not depend on it.
        progress: Called with the number of prompts just finished.
    """
    examples, instructions = task.examples, task.instructions
    if not examples or not instructions:
        raise InputError("nothing to evaluate; give at least one example and one instruction")
    metrics = family_named(task.family)
    if scoring == "generate":
        tables = [generated_scores(lm, examples, instruction, batch_size, progress) for instruction in instructions]
        return evaluation_of(examples, tables, with_unmatched(metrics))
    tables = [
        option_scores(lm, examples, instruction, batch_size, progress, scoring=scoring) for instruction in instructions
    ]
    return evaluation_of(examples, tables, metrics)


def evaluation_of(examples: Sequence[Example], tables: Sequence[Tensor], family: MetricFamily) -> Evaluation:
    """The evaluation that follows from option scores, one table (examples, options) per instruction."""
    columns = tuple(family.columns(examples, table.double().cpu().numpy().astype(np.float64)) for table in tables)
    per_instruction = tuple(family.values(of_instruction) for of_instruction in columns)
    return Evaluation(
        family=family,
        columns=columns,
        clusters=tuple(example.template for example in examples),
        metrics=over_instructions(per_instruction),
        per_instruction=per_instruction,
        examples=tuple(examples),
        option_scores=tuple(tables),
    )
