"""crispr-lm: find the neurons that make a language model answer with a stereotype, remove them, measure what changed.

The public API, re-exported, nothing else. Names are looked up when first used, so that importing the package (and with
it ``crispr-lm --help``) stays fast; PyTorch and transformers are imported by the parts that need them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crispr_lm.errors import CrisprError, EditMismatchError, InputError, VerificationError, WriteError
from crispr_lm.runtime.provided import provide
from crispr_lm.version import __version__

if TYPE_CHECKING:
    from crispr_lm.attribution.bias_influence import BiasInfluence, score_neurons
    from crispr_lm.attribution.neuron_scores import NeuronScores
    from crispr_lm.baselines.method import Method, Treatment
    from crispr_lm.baselines.registry import register_baseline
    from crispr_lm.edits.edit import Edit
    from crispr_lm.evaluation.evaluation import Evaluation, evaluate
    from crispr_lm.inference.prompts import EncodedPrompt, encode, render_prompt
    from crispr_lm.inference.scoring import option_scores
    from crispr_lm.jobs.in_python import Run, run
    from crispr_lm.metrics.family import Metric, MetricFamily
    from crispr_lm.metrics.registry import register_metrics
    from crispr_lm.model.language_model import LanguageModel
    from crispr_lm.model.load import load_model
    from crispr_lm.model.neuron_sites import Neuron, register_architecture
    from crispr_lm.search.options import SearchOptions
    from crispr_lm.search.paper import PaperEdit, PaperOptions, crispr
    from crispr_lm.search.rankings import Ranking, register_ranking
    from crispr_lm.search.result import Found
    from crispr_lm.search.search import Checkpoint, search_edit
    from crispr_lm.search.trial import Limits, Trial
    from crispr_lm.settings import RunSettings
    from crispr_lm.tasks.base import Example, Split, Task, sample
    from crispr_lm.tasks.registry import TaskKind, load_task, register_task

_HOMES = {
    "attribution.bias_influence": ("BiasInfluence", "score_neurons"),
    "baselines.method": ("Method", "Treatment"),
    "baselines.registry": ("register_baseline",),
    "edits.edit": ("Edit",),
    "evaluation.evaluation": ("Evaluation", "evaluate"),
    "metrics.family": ("Metric", "MetricFamily"),
    "metrics.registry": ("register_metrics",),
    "model.language_model": ("LanguageModel",),
    "model.load": ("load_model",),
    "model.neuron_sites": ("Neuron", "register_architecture"),
    "attribution.neuron_scores": ("NeuronScores",),
    "inference.prompts": ("EncodedPrompt", "encode", "render_prompt"),
    "inference.scoring": ("option_scores",),
    "jobs.in_python": ("Run", "run"),
    "search.rankings": ("Ranking", "register_ranking"),
    "search.options": ("SearchOptions",),
    "search.paper": ("PaperEdit", "PaperOptions", "crispr"),
    "search.result": ("Found",),
    "search.search": ("Checkpoint", "search_edit"),
    "search.trial": ("Limits", "Trial"),
    "settings": ("RunSettings",),
    "tasks.base": ("Example", "Split", "Task", "sample"),
    "tasks.registry": ("TaskKind", "load_task", "register_task"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BiasInfluence",
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
    "Method",
    "Metric",
    "MetricFamily",
    "Neuron",
    "NeuronScores",
    "PaperEdit",
    "PaperOptions",
    "Ranking",
    "Run",
    "RunSettings",
    "SearchOptions",
    "Split",
    "Task",
    "TaskKind",
    "Treatment",
    "Trial",
    "VerificationError",
    "WriteError",
    "__version__",
    "crispr",
    "encode",
    "evaluate",
    "load_model",
    "load_task",
    "option_scores",
    "register_architecture",
    "register_baseline",
    "register_metrics",
    "register_ranking",
    "register_task",
    "render_prompt",
    "run",
    "sample",
    "score_neurons",
    "search_edit",
]


# What methods of `Edit` and `Task` do that stand below it.
provide("save_edit", "crispr_lm.jobs.sharing", "save_edit")
provide("task_of", "crispr_lm.tasks.in_memory", "task_of")
provide("renamed_rows", "crispr_lm.tasks.in_memory", "renamed_rows")


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
