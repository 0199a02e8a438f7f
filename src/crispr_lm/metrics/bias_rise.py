"""By how much a bias score grows between two sets of answers, and how uncertain that is.

Knows examples and chosen options; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING, answer_columns
from crispr_lm.tasks.base import Example


def bias_rise(examples: Sequence[Example], before: Sequence[int], after: Sequence[int]) -> tuple[float, float]:
    """By how much the size of the bias score rises, in the condition where that is clearest, and its standard error.

    The error is a jackknife over templates: of the rise with each of them left out.

    Args:
        examples: What was asked, those without an answer behind the others.
        before: Options chosen, per example.
        after: The same with the edit.

    Returns:
        0 and 0 where examples know no stereotyped option.
    """
    asked = examples[: len(after)]
    most = max(len(example.options) for example in asked)
    columns = [answer_columns(asked, one_hot(chosen[: len(asked)], most)) for chosen in (before, after)]
    templates = np.unique([example.template for example in asked], return_inverse=True)[1]
    member = templates == np.arange(templates.max() + 1)[:, None]  # (templates, examples)
    found = [(0.0, 0.0)]
    for metric in QUESTION_ANSWERING.defined(columns[0]):
        if not metric.name.startswith("bias_score"):
            continue
        sums = [np.stack([member @ of[name] for name in metric.columns]) for of in columns]  # (columns, templates)
        whole = [np.abs(metric.formula(*of.sum(axis=1))) for of in sums]
        without = [np.abs(metric.formula(*(of.sum(axis=1, keepdims=True) - of))) for of in sums]
        rises = (without[1] - without[0])[np.isfinite(without[1] - without[0])]
        if np.isfinite(whole[1] - whole[0]) and len(rises) > 1:
            error = np.sqrt((len(rises) - 1) / len(rises) * ((rises - rises.mean()) ** 2).sum())
            found.append((float(whole[1] - whole[0]), float(error)))
    return max(found, key=lambda rise: rise[0] - rise[1])
