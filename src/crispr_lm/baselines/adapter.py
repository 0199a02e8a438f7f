"""LoRA adapters around a model in memory, put on and taken off again by PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

RANK = 8
"""r; α is twice as large. PEFT's default rank."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Weights of a LoRA adapter.

    Attributes:
        weights: As `peft.get_peft_model_state_dict` names them.
    """

    weights: dict[str, Tensor]

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[None]:
        """Put the adapter around the model's linear layers while the block runs."""
        from peft import set_peft_model_state_dict

        with adapted(lm) as wrapped:
            set_peft_model_state_dict(wrapped, self.weights)
            yield


@contextmanager
def adapted(lm: LanguageModel, seed: int = 0) -> Iterator[Any]:
    """PEFT's wrapper of the model, with an adapter that does nothing yet; afterwards the model is what it was."""
    from peft import LoraConfig, get_peft_model

    trainable = {parameter: parameter.requires_grad for parameter in lm.model.parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(lm.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"))
    try:
        wrapped.eval()
        yield wrapped
    finally:
        wrapped.unload()
        vars(lm.model).pop("peft_config", None)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
