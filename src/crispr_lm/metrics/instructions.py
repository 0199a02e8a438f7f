"""Over instructions: mean, spread and worst of every metric. Knows metrics as numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from crispr_lm.metrics.family import Metric, MetricFamily, Metrics


def over_instructions(per_instruction: Sequence[Metrics]) -> Metrics:
    """Mean of every metric over instructions, with the standard deviation (population) of the accuracy.

    A metric that is undefined under some instructions is averaged over the others.
    """
    means: Metrics = {}
    for name in per_instruction[0]:
        values = _defined(per_instruction, name)
        means[name] = fmean(values) if values else None
    if accuracies := _defined(per_instruction, "accuracy"):
        means["accuracy_std_over_instructions"] = pstdev(accuracies)
    return means


def spread(per_instruction: Sequence[Metrics], family: MetricFamily) -> dict[str, dict[str, float | None]]:
    """Standard deviation (population) and worst value of every metric over instructions.

    Returns:
        Metric name to ``{"std": ..., "worst": ...}``. The worst is the one farthest from where better is; None for a
        metric of which neither way is better, and where the metric is undefined under every instruction.
    """
    spreads = {}
    for metric in family.metrics:
        if metric.name in per_instruction[0]:
            values = _defined(per_instruction, metric.name)
            spreads[metric.name] = {"std": pstdev(values) if values else None, "worst": _worst(values, metric)}
    return spreads


def differences(before: Metrics, after: Metrics) -> Metrics:
    """After minus before, None where either is undefined."""
    differences: Metrics = {}
    for name, old in before.items():
        new = after[name]
        differences[name] = None if old is None or new is None else new - old
    return differences


def _defined(per_instruction: Sequence[Metrics], name: str) -> list[float]:
    return [value for metrics in per_instruction if (value := metrics.get(name)) is not None]


def _worst(values: Sequence[float], metric: Metric) -> float | None:
    if not values or metric.better == "neither":
        return None
    return min(values, key=lambda value: metric.gain(0.0, value))
