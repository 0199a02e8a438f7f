"""The whole weights of a model, which edits are tied to: in memory, or in the model's files. Knows no edit."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from crispr_lm.edits.fingerprint import dtype_name, module_hashes
from crispr_lm.edits.stored_tensors import StoredModel
from crispr_lm.model.offload import is_offloaded
from crispr_lm.model.tensor_parallel import has_parts

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

    AnyModel: TypeAlias = LanguageModel | nn.Module
    """A loaded model, or the transformers model itself."""


# A search applies one edit after the other to a model: its files are read once.
_stored: weakref.WeakKeyDictionary[nn.Module, StoredModel] = weakref.WeakKeyDictionary()


def module_of(model: AnyModel) -> nn.Module:
    """The transformers model."""
    return model if isinstance(model, nn.Module) else model.model


def name_of(model: AnyModel) -> str:
    """What it is called in messages."""
    if isinstance(model, nn.Module):
        return str(getattr(model, "name_or_path", "") or f"a {type(model).__name__}")
    return model.name


def weights_can_change(model: nn.Module) -> bool:
    """Whether weights are whole and in memory: not brought in from disk in turn, shortened, or divided."""
    return not (is_offloaded(model) or getattr(model, "is_quantized", False) or has_parts(model))


class _WeightsInMemory:
    def __init__(self, model: nn.Module) -> None:
        self.dtype_name = dtype_name(model)

    def hashes(self, _name: str, module: nn.Module) -> dict[str, str]:
        return module_hashes(module)


def whole_weights(model: AnyModel) -> _WeightsInMemory | StoredModel:
    """What an edit is tied to: whole weights, in memory or else in the model's files."""
    module = module_of(model)
    if not (getattr(module, "is_quantized", False) or has_parts(module)):
        return _WeightsInMemory(module)
    if module not in _stored:
        _stored[module] = StoredModel(None if isinstance(model, nn.Module) else model.source)
    return _stored[module]
