"""Metrics: numbers from option scores, and what can be said of their differences. Know no model.

A new family is one file and one line here.
"""

from __future__ import annotations

from crispr_lm.metrics.family import Metric, MetricFamily
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING

__all__ = ["FAMILIES", "Metric", "MetricFamily"]

FAMILIES: dict[str, MetricFamily] = {family.name: family for family in (QUESTION_ANSWERING,)}
"""Metric families by the name that tasks refer to."""
