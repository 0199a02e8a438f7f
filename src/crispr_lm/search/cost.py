"""What a search costs, before it is begun. The unit is the forward pass of one prompt.

Knows sizes; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crispr_lm.inference.passes import BACKWARD
from crispr_lm.search.backward_elimination import TO_FEWER, TO_LIMITS
from crispr_lm.search.options import BIASED, ORDINARY, REFERENCE_PROMPTS, SKILLED, STEPS, SearchOptions
from crispr_lm.search.reevaluation import REEVALUATED
from crispr_lm.search.side_effects import AskedAside
from crispr_lm.tasks.parts import Parts

AFTER_ROUNDS = ("candidates", "side effects", "re-evaluation", "random neurons")
"""Steps of `search_passes` that a search without rounds has as well."""


class Planned(NamedTuple):
    """Passes of prompts that are to come.

    Attributes:
        forward: Forward passes.
        both: Forward passes that a backward pass follows.
    """

    forward: float
    both: float

    def total(self, backward: float = BACKWARD) -> float:
        """In forward passes, of which a backward pass takes as long as so many."""
        return self.forward + (1 + backward) * self.both


def search_passes(
    parts: Sequence[Parts], options: SearchOptions, aside: AskedAside | None = None
) -> dict[str, Planned]:
    """What a search does at most, by step, the published ranking not among it.

    Args:
        parts: Of every task.
        options: Sizes of samples.
        aside: Questions on side effects (`asked_aside`), of the original and of re-evaluated edits.
    """
    of_side_effects = (1 + REEVALUATED) * len(aside.examples if aside else ())
    tried = sum(len(part.validation) for part in parts)
    further = sum(len(part.reevaluation) for part in parts)
    steps, tasks = options.rounds * STEPS, len(parts)
    candidates = 2 + options.rounds + TO_LIMITS + TO_FEWER
    reevaluated = (1 + REEVALUATED) * further
    control = tried + options.neutral_prompts + further
    return {
        # Eight tokens more than their prompt each, from its cache; then the distributions along them.
        "reference answers": Planned(2 * (REFERENCE_PROMPTS + options.neutral_prompts), REFERENCE_PROMPTS),
        "gradients": Planned(steps * tasks * SKILLED, steps * (tasks * (BIASED + SKILLED) + ORDINARY)),
        "candidates": Planned(candidates * (tried + options.neutral_prompts), 0),
        "side effects": Planned(of_side_effects, 0),
        "re-evaluation": Planned(reevaluated, 0),
        "random neurons": Planned(control, 0),
    }
