"""Perplexity and KL divergence as formulas over sums. Knows no model: `perplexity` and `kl_divergence` do."""

from __future__ import annotations

import numpy as np

from crispr_lm.metrics.family import Array, Metric, MetricFamily, ratio


def _perplexity(loss: Array, tokens: Array) -> Array:
    value: Array = np.exp(ratio(loss, tokens))
    return value


PERPLEXITY = MetricFamily(
    name="perplexity",
    metrics=(Metric("perplexity", "Perplexity per token", ("loss", "tokens"), _perplexity, "lower", extent=None),),
    headline="perplexity",
)

DIVERGENCE = MetricFamily(
    name="divergence",
    metrics=(
        Metric(
            "kl",
            "KL divergence from the original, nats per token",
            ("divergence", "tokens"),
            ratio,
            "lower",
            extent=None,
        ),
    ),
    headline="kl",
)
