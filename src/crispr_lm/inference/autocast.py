"""Autocast: computing in the format that a model is measured in, which `evaluation_dtype` chooses.

The weights stay as they are; the arithmetic of linear layers and attention is done in the shorter format (autocast).
Only the scores that metrics are computed from are measured so: attribution, KL divergence and the check of a saved
model are not. Knows a model; knows no prompts.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


def evaluating(lm: LanguageModel) -> AbstractContextManager[object]:
    """Compute in the format that the model is measured in while the block runs."""
    if lm.evaluation_dtype is None:
        return nullcontext()
    return torch.autocast(lm.device.type, dtype=lm.evaluation_dtype)


def mask_dtype(lm: LanguageModel) -> torch.dtype:
    """The format that attention is computed in now."""
    if torch.is_autocast_enabled(lm.device.type):
        return torch.get_autocast_dtype(lm.device.type)
    return lm.dtype
