"""Evaluation: what a model answers, and the metrics of it, mean and spread over instructions.

Where scoring and metrics meet. Knows no benchmark's files and no edit; to measure an edit, evaluate inside
``with edit.applied(lm)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.metrics.question_answering import Metrics, over_instructions, question_answering_metrics
from crispr_lm.scoring import BatchSize, ProgressCallback, option_scores
from crispr_lm.tasks.task import Example

if TYPE_CHECKING:
    from crispr_lm.model.load import LanguageModel


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, "float | None"]):
    """Metrics of a model on a set of examples; read it like a dictionary of metric names.

    Attributes:
        metrics: Mean over instructions.
        per_instruction: The same metrics, one dictionary per instruction.
        option_scores: One float32 tensor (examples, options) per instruction.
    """

    metrics: Metrics
    per_instruction: tuple[Metrics, ...]
    option_scores: tuple[Tensor, ...]

    def __getitem__(self, name: str) -> float | None:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Metrics and metrics per instruction as JSON types."""
        return {**self.metrics, "per_instruction": list(self.per_instruction)}


def evaluate(
    lm: LanguageModel,
    examples: Sequence[Example],
    instructions: Sequence[str],
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Let the model choose an option for every example under every instruction: the one with the highest score.

    Of equal scores the first option wins.

    Raises:
        InputError: no examples or instructions, or a prompt that does not fit.
        CrisprError: the model gives scores that are not finite.
    """
    if isinstance(instructions, str):
        raise InputError("instructions must be a list of strings; put a single one into a list")
    if not examples or not instructions:
        raise InputError("nothing to evaluate; give at least one example and one instruction")
    tables = tuple(option_scores(lm, examples, instruction, batch_size, progress) for instruction in instructions)
    per_instruction = tuple(question_answering_metrics(examples, table.argmax(dim=1).tolist()) for table in tables)
    return Evaluation(over_instructions(per_instruction), per_instruction, tables)
