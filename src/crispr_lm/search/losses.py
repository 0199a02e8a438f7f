"""The losses of one prompt that the loop trades against each other. Knows scores; knows no model and no task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

STAY = 3.0
"""Weight of what an edit changes among the answers that do not abstain, against abstaining itself."""


def biased_loss(scores: Tensor, answer: int) -> Tensor:
    """Softplus of how much the best wrong option is ahead of the right one; scores (options,) in nats."""
    return softplus(_without(scores, answer).max() - scores[answer])


def skill_loss(scores: Tensor, unedited: Tensor, unknown: int | None) -> Tensor:
    """How much an answer that the context gives is lost.

    Args:
        scores: (options,), of the edited model, in nats.
        unedited: (options,), of the unedited one.
        unknown: The option that abstains; None where there is none.

    Returns:
        Softplus of how much "unknown" is ahead of the others, and `STAY` times the KL divergence among the others.
    """
    stays, was = (scores, unedited) if unknown is None else (_without(scores, unknown), _without(unedited, unknown))
    moved = STAY * kl_loss(was.log_softmax(0), stays)
    return moved if unknown is None else moved + softplus(scores[unknown] - stays.max())


def kl_loss(before: Tensor, after: Tensor) -> Tensor:
    """Mean KL divergence over rows, before the last dimension.

    Args:
        before: Log-probabilities (..., options).
        after: Scores or logits (..., options).
    """
    before = before.to(after)
    return (before.exp() * (before - after.log_softmax(-1))).sum(-1).mean()


def _without(scores: Tensor, option: int) -> Tensor:
    return torch.cat([scores[:option], scores[option + 1 :]])
