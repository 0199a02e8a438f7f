"""crispr-lm: find the neurons that make a language model answer with a stereotype, remove them, prove what that did.

The public API, re-exported, nothing else. Names are looked up when first used, so that importing the package (and with
it ``crispr-lm --help``) stays fast; PyTorch and transformers are imported by the parts that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crispr_lm.errors import CrisprError, EditMismatchError, InputError, VerificationError, WriteError
from crispr_lm.version import __version__

if TYPE_CHECKING:
    from crispr_lm.attribution.bias_influence import score_neurons
    from crispr_lm.attribution.neuron_scores import NeuronScores
    from crispr_lm.edits.edit import Edit
    from crispr_lm.evaluation.evaluation import Evaluation, evaluate
    from crispr_lm.inference.prompts import EncodedPrompt, encode, render_prompt
    from crispr_lm.inference.scoring import option_scores
    from crispr_lm.model.load import LanguageModel, load_model
    from crispr_lm.model.neuron_sites import Neuron
    from crispr_lm.search.options import SearchOptions
    from crispr_lm.search.result import Found
    from crispr_lm.search.search import Checkpoint, search_edit
    from crispr_lm.search.trial import Limits, Trial
    from crispr_lm.settings import RunSettings
    from crispr_lm.tasks.base import Example, Split, Task, sample
    from crispr_lm.tasks.registry import load_task

_HOMES = {
    "attribution.bias_influence": ("score_neurons",),
    "edits.edit": ("Edit",),
    "evaluation.evaluation": ("Evaluation", "evaluate"),
    "model.load": ("LanguageModel", "load_model"),
    "model.neuron_sites": ("Neuron",),
    "attribution.neuron_scores": ("NeuronScores",),
    "inference.prompts": ("EncodedPrompt", "encode", "render_prompt"),
    "inference.scoring": ("option_scores",),
    "search.options": ("SearchOptions",),
    "search.result": ("Found",),
    "search.search": ("Checkpoint", "search_edit"),
    "search.trial": ("Limits", "Trial"),
    "settings": ("RunSettings",),
    "tasks.base": ("Example", "Split", "Task", "sample"),
    "tasks.registry": ("load_task",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Checkpoint",
    "CrisprError",
    "Edit",
    "EditMismatchError",
    "EncodedPrompt",
    "Evaluation",
    "Example",
    "Found",
    "InputError",
    "LanguageModel",
    "Limits",
    "Neuron",
    "NeuronScores",
    "RunSettings",
    "SearchOptions",
    "Split",
    "Task",
    "Trial",
    "VerificationError",
    "WriteError",
    "__version__",
    "encode",
    "evaluate",
    "load_model",
    "load_task",
    "option_scores",
    "render_prompt",
    "sample",
    "score_neurons",
    "search_edit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
