"""The search for an edit: which neurons to remove, within limits on what that costs.

Knows a model, prompts and figures; knows no settings, no folder and no terminal (`crispr_lm.jobs.edit_search` does).
The whole of it is `crispr_lm.search_edit`.
"""

from __future__ import annotations

from crispr_lm.search.rankings import Ranking, register_ranking
from crispr_lm.search.result import Searched
from crispr_lm.search.trial import Figures, Limits, Trial, best_within, pareto_front

__all__ = [
    "Figures",
    "Limits",
    "Ranking",
    "Searched",
    "Trial",
    "best_within",
    "pareto_front",
    "register_ranking",
]
