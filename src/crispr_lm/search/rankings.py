"""Rankings: orders of neurons, best to eliminate first. The search tries the beginning of each as an edit.

The published one is always among them; `register_ranking` adds others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crispr_lm.runtime.plugins import Registry, check_name

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel
    from crispr_lm.model.neuron_sites import Neuron
    from crispr_lm.tasks.parts import Parts

PUBLISHED = "published"


@dataclass(frozen=True)
class Ranking:
    """An order of neurons.

    Attributes:
        name: Letters, digits, ``-`` and ``_``.
        rank: Given the unedited model and what of each task is used for what (`Parts.attribution` is there to rank
            by), returns neurons, best to eliminate first; at least as many as may be eliminated, where there are.
    """

    name: str
    rank: Callable[[LanguageModel, Sequence[Parts]], Sequence[Neuron]]


RANKINGS: Registry[Ranking] = Registry("ranking", ())
"""Rankings that were registered, by name."""


def register_ranking(ranking: Ranking) -> None:
    """Add a ranking, which the search then tries beside the published one.

    Raises:
        InputError: the name is taken or is no name.
    """
    check_name("ranking", ranking.name, (PUBLISHED,))
    RANKINGS.register(ranking.name, ranking)
