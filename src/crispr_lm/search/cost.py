"""What a search costs, before it is begun. The unit is the forward pass of one prompt.

Knows sizes; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from crispr_lm.search.backward_elimination import HALVINGS, RETURNS
from crispr_lm.search.options import BIASED, ORDINARY, REFERENCE_PROMPTS, SKILLED, STEPS, SearchOptions
from crispr_lm.search.reevaluation import REEVALUATED
from crispr_lm.tasks.parts import Parts


class Passes(NamedTuple):
    """Passes of prompts.

    Attributes:
        forward: Forward passes.
        both: Forward passes that a backward pass follows.
    """

    forward: float
    both: float

    def total(self, backward: float = 2.0) -> float:
        """In forward passes.

        Args:
            backward: Forward passes that a backward pass takes as long as: of SmolLM2-135M in bfloat16 on one core a
                pass each way takes 3.0 times as long as a forward pass.
        """
        return self.forward + (1 + backward) * self.both


def search_passes(parts: Sequence[Parts], options: SearchOptions) -> dict[str, Passes]:
    """What a search does at most, by step, the published ranking not among it.

    Args:
        parts: Of every task.
        options: Sizes of samples.
    """
    tried = sum(len(part.validation) for part in parts)
    further = sum(len(part.reevaluation) for part in parts)
    steps, tasks = options.rounds * STEPS, len(parts)
    candidates = 2 + options.rounds + RETURNS + HALVINGS
    reevaluated = (1 + REEVALUATED) * further
    control = tried + options.neutral_prompts + further
    return {
        # Eight tokens more than their prompt each, from its cache; then the distributions along them.
        "reference answers": Passes(2 * (REFERENCE_PROMPTS + options.neutral_prompts), REFERENCE_PROMPTS),
        "gradients": Passes(steps * tasks * SKILLED, steps * (tasks * (BIASED + SKILLED) + ORDINARY)),
        "candidates": Passes(candidates * (tried + options.neutral_prompts), 0),
        "re-evaluation": Passes(reevaluated, 0),
        "random neurons": Passes(control, 0),
    }
