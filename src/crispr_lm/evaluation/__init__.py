"""What a model answers, and the figures of it: before an edit, after it, and the differences.

`suite` is all that a run measures; `results` turns measurements into ``results.json``.
"""

from __future__ import annotations

from crispr_lm.evaluation.evaluation import Evaluation, evaluate, evaluation_of
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, divergence, reference_distribution
from crispr_lm.evaluation.measurement import Measurement

__all__ = [
    "Evaluation",
    "Measurement",
    "ReferenceDistribution",
    "divergence",
    "evaluate",
    "evaluation_of",
    "reference_distribution",
]
