"""How wide intervals will be with so many templates, before anything is measured.

The 95 % interval of a mean over g templates whose values have the standard deviation s reaches

    h = t(0.975, g − 1) · s / √g

to either side, with Student's t: what `crispr_lm.metrics.statistics.percentiles` widens the bootstrap to.
"""

from __future__ import annotations

import math

from scipy.stats import t

from crispr_lm.metrics.statistics import CONFIDENCE

SPREAD = 0.18
"""s, the standard deviation over templates of the change in ambiguous accuracy: the mean of 42 edits measured on BBQ
with eight templates or so each (docs/results/search.md; their half-widths times √8 / t). Single ones have 0.05 to 0.38,
so that an interval may be twice as wide, or half."""

WIDTHS = (0.1, 0.05)
"""Half-widths that people ask for: a tenth and a twentieth of all answers."""


def half_width(templates: int, spread: float = SPREAD) -> float:
    """Half-width h for so many templates in the test split; infinite for one, of which no interval can be made."""
    if templates < 2:
        return math.inf
    return float(t.ppf((1 + CONFIDENCE) / 2, templates - 1) * spread / math.sqrt(templates))


def templates_for(width: float, spread: float = SPREAD) -> int:
    """The fewest templates in the test split with which h is no larger than a width."""
    templates = 2
    while half_width(templates, spread) > width:
        templates += 1
    return templates
