"""Is a divided model the whole one? Two processes compare tiny random models of every architecture that can be divided.

    torchrun --nproc-per-node 2 benchmarks/tensor_parallel.py                      # all of them
    torchrun --nproc-per-node 2 benchmarks/tensor_parallel.py --only llama qwen3   # some

Compared are option scores without and with an edit, bias influence, gate gradients, and the hash of the weights. Exits
with status 1 where something differs of a model type in `crispr_lm.model.tensor_parallel.COMPARED`.

Knows the tests' tiny models (`tests/tiny_models.py`) and the library's public functions; knows no benchmark data.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny_models
from architectures import CONFIG_FIXES, WordTokenizer
from crispr_lm.attribution.bias_influence import BiasInfluence, score_neurons
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.edits.edit import neurons_by_site
from crispr_lm.edits.fingerprint import weights_fingerprint
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import encode_all
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.jobs.self_check import EXAMPLES, INSTRUCTION
from crispr_lm.model.hooks import scaling
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NEURON_KINDS, Neuron
from crispr_lm.model.tensor_parallel import COMPARED, check_divisible, division_arguments, prepare_divided
from crispr_lm.runtime import distributed

TOLERANCE = 1e-4
"""Largest difference relative to the largest value that is float32's rounding; where nothing is wrong it is 4e-6."""


def loaded(architecture: tiny_models.Architecture, folder: str, *, divided: bool) -> LanguageModel:
    """The model of a folder, whole or divided among the processes."""
    arguments = division_arguments(distributed.ranks()) if divided else {}
    model = getattr(transformers, architecture.class_name).from_pretrained(folder, dtype=torch.float32, **arguments)
    model.eval().requires_grad_(False)
    for name, value in CONFIG_FIXES.get(architecture.model_type, {}).items():
        setattr(model.config, name, value)
    if divided:
        prepare_divided(model)
    return LanguageModel(
        model, WordTokenizer(), architecture.class_name, is_encoder_decoder=architecture.is_encoder_decoder
    )


def figures(lm: LanguageModel, edited: list[Neuron]) -> dict[str, Any]:
    """What is compared, by name; `edited` is filled with the neurons of the edit if it is empty."""
    prompts = encode_all(lm, EXAMPLES, INSTRUCTION)
    found: dict[str, Any] = {"scores": prompt_scores(lm, prompts), "weights": weights_fingerprint(lm.model)}
    strongest: list[Neuron] = []
    for kind in NEURON_KINDS:
        try:
            gates = Gates(lm, [kind])
        except InputError:  # no feed-forward neurons
            continue
        influence = score_neurons(lm, EXAMPLES, [INSTRUCTION], BiasInfluence(kind))
        strongest += influence.top(4)
        found[f"influence, {kind}"] = torch.cat(list(influence.values.values()))
        openness = torch.linspace(0.5, 1, gates.count)
        found[f"gates, {kind}"] = gates.gradient(openness, prompts, lambda _, scores: scores[0])
    edited.extend([] if edited else strongest)
    for scale in (0.0, 0.3):
        with scaling(neurons_by_site(lm.model, edited), scale):
            found[f"scores, scaled by {scale}"] = prompt_scores(lm, prompts)
    return found


def difference(here: Any, there: Any) -> float:
    """Largest difference relative to the largest value; of texts 0 or 1."""
    if isinstance(here, str):
        return float(here != there)
    here, there = (values.masked_fill(values.isinf(), 0) for values in (here, there))
    return float((here - there).abs().max() / here.abs().max())


def compared(architecture: tiny_models.Architecture) -> tuple[str, bool]:
    """What came out for an architecture, in words, and whether it is the same."""
    with TemporaryDirectory() as own:
        folder = distributed.on_first(lambda: own)
        model = tiny_models.build(architecture)
        try:
            check_divisible(architecture.model_type, model, distributed.ranks())
        except InputError as error:
            return str(error), False
        distributed.on_first(lambda: model.save_pretrained(folder))
        edited: list[Neuron] = []
        try:
            whole, divided = (figures(loaded(architecture, folder, divided=way), edited) for way in (False, True))
        except Exception as error:  # whatever an architecture does that nobody expected is what is looked for
            return f"{type(error).__name__}: {error}".splitlines()[0], False
        distributed.on_first(lambda: None)  # all have read the folder
    differences = {name: difference(value, divided[name]) for name, value in whole.items()}
    worst = max(differences, key=lambda name: differences[name])
    return f"{differences[worst]:.0e} ({worst})", differences[worst] <= TOLERANCE


def main(arguments: Sequence[str]) -> int:
    """Compare and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="model types")
    only = parser.parse_args(arguments).only
    broken = False
    with distributed.joined(divided=True):
        for architecture in tiny_models.architectures():
            if only and architecture.model_type not in only:
                continue
            text, same = compared(architecture)
            broken |= not same and architecture.model_type in COMPARED
            if distributed.is_first():
                print("same  " if same else "  no  ", f"{architecture.model_type}: {text}", flush=True)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
