"""Metrics: numbers from option scores, and what can be said of their differences. Know no model.

A new family is one file and one line in `registry`.
"""

from __future__ import annotations

from crispr_lm.metrics.family import Metric, MetricFamily
from crispr_lm.metrics.registry import FAMILIES, ordered_metrics, register_metrics

__all__ = [
    "FAMILIES",
    "Metric",
    "MetricFamily",
    "ordered_metrics",
    "register_metrics",
]
