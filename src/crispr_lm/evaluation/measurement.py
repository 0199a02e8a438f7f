"""Measurement: figures of a model with what they were computed from, so that two can be compared in pairs.

Knows columns, formulas and clusters; knows no model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.metrics.family import Columns, MetricFamily, Metrics
from crispr_lm.metrics.instructions import over_instructions, spread
from crispr_lm.metrics.statistics import Difference, paired_differences, value_interval


@dataclass(frozen=True, eq=False)
class Measurement(Mapping[str, "float | None"]):
    """Figures; read it like a dictionary of metric names.

    Attributes:
        family: The metrics, as formulas.
        columns: Per instruction what the metrics are computed from (a single entry where there are none).
        clusters: Per row of the columns what it must not be parted from: its template, its text.
        metrics: Mean over instructions.
        per_instruction: The same metrics, one dictionary per instruction.
    """

    family: MetricFamily
    columns: tuple[Columns, ...]
    clusters: tuple[Hashable, ...]
    metrics: Metrics
    per_instruction: tuple[Metrics, ...]

    @staticmethod
    def of(family: MetricFamily, columns: Sequence[Columns], clusters: Sequence[Hashable]) -> Measurement:
        """The figures that follow from columns."""
        per_instruction = tuple(family.values(of_instruction) for of_instruction in columns)
        return Measurement(family, tuple(columns), tuple(clusters), over_instructions(per_instruction), per_instruction)

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

    def differences_from(self, before: Measurement, seed: int = 0) -> dict[str, Difference]:
        """What has changed since `before`, paired, with 95 % intervals clustered by template, and tests.

        Raises:
            InputError: the other measurement is not of the same examples and instructions.
        """
        if before.clusters != self.clusters or before.family.name != self.family.name:
            raise InputError("before and after must be answers to the same examples under the same instructions")
        return paired_differences(before.columns, self.columns, self.family, self.clusters, seed)

    def interval(self, name: str, seed: int = 0) -> tuple[float | None, float | None]:
        """The 95 % interval of one metric by itself, clustered by template."""
        (metric,) = (metric for metric in self.family.metrics if metric.name == name)
        return value_interval(self.columns, metric, self.clusters, seed)
