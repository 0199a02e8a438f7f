"""Evaluation: what a model answers, and the metrics of it, mean and spread over instructions.

Where scoring and metrics meet. Knows no benchmark's files and no edit; to measure an edit, evaluate inside
``with edit.applied(lm)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from crispr_lm.errors import InputError, nearest
from crispr_lm.metrics import FAMILIES
from crispr_lm.metrics.family import Columns, MetricFamily, Metrics
from crispr_lm.metrics.instructions import over_instructions, spread
from crispr_lm.metrics.statistics import Difference, paired_differences
from crispr_lm.scoring import BatchSize, ProgressCallback, ScoringMethod, option_scores
from crispr_lm.tasks.task import Example

if TYPE_CHECKING:
    from crispr_lm.model.load import LanguageModel


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, "float | None"]):
    """Metrics of a model on a set of examples; read it like a dictionary of metric names.

    Attributes:
        metrics: Mean over instructions.
        per_instruction: The same metrics, one dictionary per instruction.
        option_scores: float32 (examples, options) per instruction; -inf where an example has no such option.
        examples: What was asked.
        family: The metrics, as formulas.
        columns: Per instruction what the metrics are computed from.
    """

    metrics: Metrics
    per_instruction: tuple[Metrics, ...]
    option_scores: tuple[Tensor, ...]
    examples: tuple[Example, ...]
    family: MetricFamily
    columns: tuple[Columns, ...]

    def __getitem__(self, name: str) -> float | None:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    @property
    def spread(self) -> dict[str, dict[str, float | None]]:
        """Standard deviation and worst value over instructions, per metric."""
        return spread(self.per_instruction, self.family)

    def to_dict(self) -> dict[str, Any]:
        """Metrics and metrics per instruction as JSON types."""
        return {**self.metrics, "per_instruction": list(self.per_instruction)}

    def differences_from(self, before: Evaluation, seed: int = 0) -> dict[str, Difference]:
        """What has changed since `before`, paired, with 95 % intervals clustered by template, and tests.

        Raises:
            InputError: the other evaluation is not of the same examples and instructions.
        """
        if before.examples != self.examples:
            raise InputError("before and after must be answers to the same examples under the same instructions")
        clusters = [example.template for example in self.examples]
        return paired_differences(before.columns, self.columns, self.family, clusters, seed)

    def part(self, indices: Sequence[int]) -> Evaluation:
        """The evaluation of some of the examples."""
        return from_scores(
            [self.examples[index] for index in indices],
            [table[list(indices)] for table in self.option_scores],
            self.family,
        )


def evaluate(
    lm: LanguageModel,
    examples: Sequence[Example],
    instructions: Sequence[str],
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
    *,
    family: str = "question_answering",
    scoring: ScoringMethod = "sum",
) -> Evaluation:
    """Let the model choose an option for every example under every instruction: the one with the highest score.

    Of equal scores the first option wins.

    Args:
        lm: The model.
        examples: One or more.
        instructions: One or more.
        batch_size: Prompts in one forward pass; results do not depend on it.
        progress: Called with the number of prompts just finished.
        family: Name of the metrics, ``task.family``.
        scoring: How options are compared, see `crispr_lm.scoring.option_scores`.

    Raises:
        InputError: no examples or instructions, a prompt that does not fit, or an unknown family.
        CrisprError: the model gives scores that are not finite.
    """
    if isinstance(instructions, str):
        raise InputError("instructions must be a list of strings; put a single one into a list")
    if not examples or not instructions:
        raise InputError("nothing to evaluate; give at least one example and one instruction")
    if family not in FAMILIES:
        raise InputError(f"no metrics {family!r}{nearest(family, FAMILIES)}; there are: {', '.join(sorted(FAMILIES))}")
    tables = [
        option_scores(lm, examples, instruction, batch_size, progress, scoring=scoring) for instruction in instructions
    ]
    return from_scores(examples, tables, FAMILIES[family])


def from_scores(examples: Sequence[Example], tables: Sequence[Tensor], family: MetricFamily) -> Evaluation:
    """The evaluation that follows from option scores, one table (examples, options) per instruction."""
    columns = tuple(family.columns(examples, table.double().cpu().numpy().astype(np.float64)) for table in tables)
    per_instruction = tuple(family.values(of_instruction) for of_instruction in columns)
    return Evaluation(
        metrics=over_instructions(per_instruction),
        per_instruction=per_instruction,
        option_scores=tuple(tables),
        examples=tuple(examples),
        family=family,
        columns=columns,
    )
