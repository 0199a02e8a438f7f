"""The doctor: what this machine has, what is installed, and what fits. Measures nothing and loads no weights."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import urllib.error
import urllib.request
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import constants

from crispr_lm.errors import InputError
from crispr_lm.inference.batching import ACTIVATIONS_PER_NEURON
from crispr_lm.inference.chat_template import depends_on_date, template_of
from crispr_lm.inference.prompts import answer_place, uses_chat_template
from crispr_lm.inference.reader import PromptFormat
from crispr_lm.jobs.self_check import self_check
from crispr_lm.model.devices import computes
from crispr_lm.model.language_model import count_parameters
from crispr_lm.model.load import ModelSource, open_model
from crispr_lm.model.memory import free_memory, weight_bytes
from crispr_lm.model.neuron_sites import NEURON_KINDS, find_sites
from crispr_lm.runtime.threads import observe_cores
from crispr_lm.version import __version__

PACKAGES = ("torch", "transformers", "huggingface_hub", "safetensors", "gguf", "scipy", "plotly")
"""Whose versions matter."""

EXTRAS = {
    "lora": ("peft",),
    "hub": ("datasets",),
    "app": ("gradio",),
    "benchmark": ("captum", "lm_eval", "matplotlib"),
}
"""Extra to the modules that it brings."""

FORMATS = (torch.float32, torch.bfloat16)

PROMPT_TOKENS = 300
"""Tokens of a long question with its options, for the memory of one pass with gradients."""

PATIENCE = 3.0
"""Seconds to wait for the hub."""


def examine_machine(
    model: str | None = None,
    *,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    prompt_format: PromptFormat = "chat",
    self_checked: bool = False,
) -> dict[str, Any]:
    """Report versions, devices, memory, the hub and, of a model, whether it fits; as JSON types.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``; its configuration and tokenizer alone are
            read, unless it is checked.
        trust_remote_code: Run Python code that comes with the model.
        allow_pickle: Also read weights stored as pickle.
        prompt_format: Whether prompts go through the model's chat template.
        self_checked: Load the weights and run `crispr_lm.jobs.self_check` on them.

    Raises:
        InputError: the model can't be found, or is no language model; or there is none to check.
    """
    if self_checked and model is None:
        raise InputError("--self-check needs a model to check; name one")
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    report: dict[str, Any] = {
        "versions": {"crispr-lm": __version__, "python": platform.python_version()}
        | {package: _version(package) for package in PACKAGES},
        "extras": {name: _extra(modules) for name, modules in EXTRAS.items()},
        "devices": [_device(device) for device in devices],
        "disk": {"folder": str(Path.cwd()), "free": shutil.disk_usage(Path.cwd()).free},
        "hub": _hub(),
    }
    if model is not None:
        source = open_model(model, trust_remote_code=trust_remote_code, prompt_format=prompt_format)
        report["model"] = _model(source, devices) | {"prompt": _prompt(source)}
        if self_checked:
            checked = self_check(source.load("float32", allow_pickle=allow_pickle, twice=True))
            report["model"]["self_check"] = {
                kind: asdict(found) | {"passed": found.passed} for kind, found in checked.items()
            }
    return report


def _prompt(source: ModelSource) -> dict[str, Any]:
    """Which template prompts go through, and how the place of an answer was found; the reason where there is none."""
    if not uses_chat_template(source):
        return {"template": None, "place": answer_place(source).how, "refused": None}
    template = template_of(source.tokenizer, source.name)
    about = {"template": f"chat template of {len(template):,} characters", "date": depends_on_date(template)}
    try:
        place = answer_place(source)
    except InputError as error:
        return about | {"place": None, "refused": str(error)}
    switches = [f"{name}={value!r}" for name, value in place.variables.items()]
    in_text = (("system turn", place.system), ("behind the words", place.suffix))
    switches += [f"{where} {text.strip()!r}" for where, text in in_text if text]
    return about | {
        "place": place.how,
        "before": place.before,
        "lead": place.lead,
        "in_parts": place.in_parts,
        "switches": switches,
        "refused": None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extra(modules: tuple[str, ...]) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _device(device: torch.device) -> dict[str, Any]:
    free = free_memory(device)
    if device.type == "cuda":
        name, total = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        threads = None
    else:
        name, total, threads = platform.processor() or platform.machine(), psutil.virtual_memory().total, _threads()
    return {
        "device": str(device),
        "name": name,
        "threads": threads,
        "memory": total,
        "free": free,
        "bfloat16": computes(torch.bfloat16, device),
        # Weights alone; a batch takes what is left, and finds its own size.
        "largest_model": {str(dtype).removeprefix("torch."): free // dtype.itemsize for dtype in FORMATS},
    }


def _threads() -> dict[str, Any]:
    """Cores, how many of them are busy, and how many threads a command would take."""
    cores = observe_cores()
    return {"cores": cores.there, "used": min(torch.get_num_threads(), cores.free), **cores.to_dict()}


def _hub() -> dict[str, Any]:
    """Whether the hub answers."""
    endpoint = constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return {"endpoint": endpoint, "reachable": False, "reason": "offline mode (HF_HUB_OFFLINE)"}
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PATIENCE):
            return {"endpoint": endpoint, "reachable": True, "reason": None}
    except urllib.error.HTTPError:  # it answers, if only with an error
        return {"endpoint": endpoint, "reachable": True, "reason": None}
    except (OSError, ValueError) as error:
        return {"endpoint": endpoint, "reachable": False, "reason": str(getattr(error, "reason", error))}


def _model(source: ModelSource, devices: list[torch.device]) -> dict[str, Any]:
    """What a model needs, and where it fits."""
    empty = source.without_weights()
    kinds: dict[str, int] = {}
    for kind in NEURON_KINDS:
        try:
            kinds[kind] = sum(site.width for site in find_sites(empty, kind))
        except InputError:
            kinds[kind] = 0
    needs = {}
    for dtype in FORMATS:
        weights = weight_bytes(empty, dtype)
        activations = int(ACTIVATIONS_PER_NEURON * kinds["linear"] * PROMPT_TOKENS * dtype.itemsize)
        needs[str(dtype).removeprefix("torch.")] = {
            "weights": weights,
            "attribution": weights + activations,
            "fits": [str(device) for device in devices if weights + activations <= free_memory(device)],
        }
    return {
        "name": source.name,
        "architecture": type(empty).__name__,
        "parameters": count_parameters(empty),
        "context_length": source.context_length,
        "not_embedded": _not_embedded(source),
        "neurons": kinds,
        "needs": needs,
    }


def _not_embedded(source: ModelSource) -> dict[str, Any] | None:
    """How many tokens of the tokenizer the model has no embedding of, and the first; None where it has all of them."""
    size = source.embedded_tokens
    found = [] if size is None else [(n, token) for token, n in source.tokenizer.get_vocab().items() if n >= size]
    return {"tokens": len(found), "first": min(found)[1], "embeddings": size} if found else None
