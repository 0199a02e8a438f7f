"""Layers brought in turn: everything computed is what it is with all weights in memory, and memory stays flat."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

import crispr_lm
from crispr_lm.attribution.gate_gradients import Gates, continuation_logits
from crispr_lm.edits.fingerprint import weights_fingerprint
from crispr_lm.edits.logit_lens import promoted_tokens
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import EncodedPrompt, encode_all
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.jobs.run import run
from crispr_lm.model.offload import is_offloaded
from crispr_lm.settings import RunSettings

from ..helpers import VOCABULARY, build_model

ARCHITECTURES = ["llama-tied", "gpt2", "t5-gated", "bart"]


@pytest.fixture(autouse=True)
def _allocator_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for the rest of a process would make other tests slower."""
    monkeypatch.setattr("crispr_lm.model.load.give_memory_back", lambda: None)


@pytest.fixture(scope="module")
def task() -> crispr_lm.Task:
    return crispr_lm.load_task("builtin:everyday")


@pytest.fixture(params=ARCHITECTURES)
def both(request: pytest.FixtureRequest, saved_model: Callable[[str], Path]) -> tuple[crispr_lm.LanguageModel, ...]:
    """A model with its weights in memory, and the same with its layers brought in turn."""
    folder = saved_model(request.param)
    return tuple(crispr_lm.load_model(folder, device=device) for device in ("cpu", "offload"))


def test_scores_attributions_and_gate_gradients_are_those_of_weights_in_memory(both, task: crispr_lm.Task) -> None:
    one, other = both
    assert is_offloaded(other.model)
    assert not is_offloaded(one.model)
    assert all(weight.is_meta for weight in other.model.parameters())
    examples, instruction = task.examples[:6], task.instructions[0]
    prompts = encode_all(one, examples, instruction)
    for here, there in zip(prompt_scores(one, prompts), prompt_scores(other, prompts), strict=True):
        torch.testing.assert_close(there, here)
    for kind in ("linear", "ffn"):
        formula = crispr_lm.BiasInfluence(kind)
        here, there = (crispr_lm.score_neurons(lm, examples, [instruction], formula).values for lm in both)
        assert list(here) == list(there)
        for name, values in here.items():
            torch.testing.assert_close(there[name], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()) + 1e-12)
        gates = [Gates(lm, [kind]) for lm in both]
        openness = torch.linspace(0.5, 1, gates[0].count)
        of_scores = [of.gradient(openness, prompts, lambda _, scores: scores[0]) for of in gates]
        torch.testing.assert_close(of_scores[1], of_scores[0], rtol=1e-4, atol=1e-6)
        alone = [EncodedPrompt(prompt.prompt_ids, prompt.option_ids[:1]) for prompt in prompts[:3]]
        of_logits = [
            of.gradient(openness, alone, lambda _, logits: logits[0, 0], continuation_logits, batch_size=1)
            for of in gates
        ]
        torch.testing.assert_close(of_logits[1], of_logits[0], rtol=1e-4, atol=1e-6)
    assert all(weight.is_meta for weight in other.model.parameters())  # nothing was left in memory


def test_an_edit_made_there_is_the_one_made_in_memory(both, task: crispr_lm.Task) -> None:
    one, other = both
    kind = "ffn"
    site = crispr_lm.score_neurons(one, task.examples[:2], task.instructions[:1], crispr_lm.BiasInfluence(kind))
    neurons = site.top(3)
    here, there = (crispr_lm.Edit.from_neurons(lm, neurons) for lm in both)
    assert here == there
    assert weights_fingerprint(one.model) == weights_fingerprint(other.model)
    assert promoted_tokens(one, neurons) == promoted_tokens(other, neurons)
    prompts = encode_all(one, task.examples[:4], task.instructions[0])
    with here.applied(one), here.applied(other):
        torch.testing.assert_close(prompt_scores(other, prompts)[0], prompt_scores(one, prompts)[0])
    with pytest.raises(InputError, match="not whole in memory"):
        there.bake(other)


@pytest.mark.slow
def test_a_run_finds_the_same_and_saves_the_same(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    small = {"task": ("builtin:everyday",), "instructions": "1", "rounds": 1, "max_neurons": 5, "neutral_prompts": 3}
    small |= {"validation_examples": 12, "reevaluation_examples": 18, "test_examples": 12, "measure_examples": 4}
    found = {}
    for device in ("cpu", "offload"):
        settings = RunSettings(output=tmp_path / device, device=device, max_kl=10, **small)
        found[device] = run(str(saved_model("llama")), settings)
    assert found["cpu"]["search"] == found["offload"]["search"]
    assert found["offload"]["saved_model"]["verified"]
    edits = [json.loads((tmp_path / device / "edit.json").read_text(encoding="utf-8")) for device in found]
    assert edits[0]["neurons"] == edits[1]["neurons"]
    here, there = (load_file(tmp_path / device / "model" / "model.safetensors") for device in found)
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("options", [{"device": "offload"}, {"device": "cpu", "quantize": "8bit"}])
def test_what_has_no_safetensors_files_is_refused(
    saved_model: Callable[[str], Path], tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crispr_lm.model.load.check_quantize", lambda _: None)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved_model("llama") / name, tmp_path)
    torch.save(load_file(saved_model("llama") / "model.safetensors"), tmp_path / "pytorch_model.bin")
    for model, what in (("builtin:smollm2", "is a GGUF file"), (tmp_path, "is without safetensors files")):
        with pytest.raises(InputError, match=what):
            crispr_lm.load_model(model, allow_pickle=True, **options)
    with pytest.raises(InputError, match="does not go with"):
        crispr_lm.load_model(saved_model("llama"), device="offload", quantize="8bit")


PEAK = """
import sys, threading, time
import psutil, torch
import crispr_lm
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.inference.prompts import encode_all

process, peak = psutil.Process(), 0

def watch():
    global peak
    while True:
        memory = process.memory_info()
        peak = max(peak, memory.rss - memory.shared)  # pages of a mapped file can be let go
        time.sleep(0.002)

start = process.memory_info().rss - process.memory_info().shared
threading.Thread(target=watch, daemon=True).start()
lm = crispr_lm.load_model(sys.argv[1], device=sys.argv[2])
task = crispr_lm.load_task("builtin:everyday")
crispr_lm.score_neurons(lm, task.examples[:1], task.instructions[:1], crispr_lm.BiasInfluence("linear"))
gates = Gates(lm, ["linear"])
prompts = encode_all(lm, task.examples[:1], task.instructions[0])
gates.gradient(torch.ones(gates.count), prompts, lambda _, scores: scores[0])
print((peak - start) / 2**20)
"""


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    peaks, per_layer = {}, 0.0
    for layers in (4, 16):
        folder = tmp_path / str(layers)
        tokenizer = build_model("llama").tokenizer
        config = LlamaConfig(
            hidden_size=512, intermediate_size=2048, num_hidden_layers=layers, num_attention_heads=8,
            vocab_size=VOCABULARY, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        per_layer = sum(weight.numel() for weight in model.model.layers[0].parameters()) * 4 / 2**20
        model.save_pretrained(folder, max_shard_size="50MB")
        tokenizer.save_pretrained(folder)
        for device in ("cpu", "offload"):
            command = [sys.executable, "-c", PEAK, str(folder), device]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
            peaks[layers, device] = float(done.stdout.split()[-1])
    grown = {device: peaks[16, device] - peaks[4, device] for device in ("cpu", "offload")}
    print(peaks)  # docs/scaling.md has them
    assert grown["cpu"] > 12 * per_layer  # what it is measured against: all weights, and what gradients keep
    assert grown["offload"] < 3 * per_layer, peaks
