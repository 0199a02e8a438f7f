"""Out to every runtime: what is saved is exactly the edited model, or it is refused with the reason."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from crispr_lm import Edit, InputError, Neuron
from crispr_lm.cli.commands import main
from crispr_lm.edits.export import export_folder, export_lora, export_slim
from crispr_lm.jobs.steps import apply
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.other_settings import ApplySettings
from crispr_lm.runtime.progress import SilentProgress

from ..helpers import (
    ARCHITECTURES,
    DOWN_PROJECTIONS,
    VOCABULARY,
    assert_same_weights,
    build_mixture,
    build_model,
    snapshot,
)


def logits_of(model, is_encoder_decoder):
    ids = torch.arange(3, 23)[None] % VOCABULARY
    more = {"decoder_input_ids": ids[:, :7]} if is_encoder_decoder else {}
    with torch.inference_mode():
        return model(input_ids=ids, **more).logits


def edited_logits(lm, edit):
    with edit.applied(lm):
        return logits_of(lm.model, lm.is_encoder_decoder)


def some_neurons(lm, kinds):
    """Three neurons of every second module, so that modules differ in the number touched."""
    neurons = []
    for kind in kinds:
        for number, site in enumerate(find_sites(lm.model, kind)[::2]):
            neurons += [Neuron(site.name, index, kind) for index in range(1, 3 + number % 3)]
    return neurons


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kinds", [("linear",), ("ffn",), ("linear", "ffn")])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_on_the_base_model_is_the_edited_model(architecture, kinds, scale, tmp_path):
    lm = build_model(architecture)
    edit = Edit.from_neurons(lm, some_neurons(lm, kinds), scale=scale)
    expected = edited_logits(lm, edit)
    assert (expected - logits_of(lm.model, lm.is_encoder_decoder)).abs().max() > 0.05  # the edit does something
    export_lora(lm, edit, tmp_path)
    base = build_model(architecture)
    adapted = PeftModel.from_pretrained(base.model, str(tmp_path))
    torch.testing.assert_close(logits_of(adapted, lm.is_encoder_decoder), expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_has_one_rank_and_no_more_than_the_neurons_touched_in_it(tmp_path):
    lm = build_model("llama")
    down, query = "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"
    neurons = [Neuron(down, 1, "ffn"), Neuron(down, 2, "ffn"), Neuron(down, 3, "linear"), Neuron(query, 0, "linear")]
    export_lora(lm, Edit.from_neurons(lm, neurons), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (3, 3, {}, {})
    assert config["target_modules"] == sorted([down, query])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    used = {name: int(tensor.any(dim=1).sum()) for name, tensor in tensors.items() if "lora_A" in name}
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {3}
    assert used == {f"base_model.model.{down}.lora_A.weight": 3, f"base_model.model.{query}.lora_A.weight": 1}


def test_an_adapter_of_a_built_in_model_names_its_repository(tmp_path):
    lm = build_model("llama")
    lm.name = "builtin:smollm2"
    export_lora(lm, Edit.from_neurons(lm, [Neuron("model.layers.0.mlp.down_proj", 1, "ffn")]), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_adapter_of_no_neurons_is_refused(tmp_path):
    lm = build_model("llama")
    with pytest.raises(InputError, match="no neurons"):
        export_lora(lm, Edit.from_neurons(lm, []), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mixture():
    return build_mixture()


@pytest.mark.parametrize("export", [export_lora, export_slim])
def test_fused_experts_fit_no_adapter_and_can_not_be_cut(mixture, export, tmp_path):
    edit = Edit.from_neurons(mixture, [Neuron("model.layers.0.mlp.experts.down_proj", 5, "ffn")])
    with pytest.raises(InputError, match="fused experts"):
        export(mixture, edit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2", "t5-gated", "t5-relu"])
def test_a_slim_model_is_the_edited_model_with_fewer_weights(architecture, tmp_path):
    lm = build_model(architecture)
    # Two units of every block, and one more of the first: that one must stay as zeros.
    blocks = DOWN_PROJECTIONS[architecture]
    neurons = [Neuron(name, index, "ffn") for name in blocks for index in (4, 17)] + [Neuron(blocks[0], 30, "ffn")]
    edit = Edit.from_neurons(lm, neurons)
    before = snapshot(lm.model)
    saved, _ = export_slim(lm, edit, tmp_path)
    assert_same_weights(lm.model, before)
    auto_class = AutoModelForSeq2SeqLM if lm.is_encoder_decoder else AutoModelForCausalLM
    slim = auto_class.from_pretrained(tmp_path, dtype=torch.float32).eval()
    torch.testing.assert_close(logits_of(slim, lm.is_encoder_decoder), edited_logits(lm, edit), rtol=1e-4, atol=1e-4)
    # Per unit: a row of the up (and gate) projection and a column of the down projection, and GPT-2's bias of the row.
    per_unit = {"llama": 3 * 32, "llama-tied": 3 * 32, "gpt2": 2 * 32 + 1, "t5-gated": 3 * 32, "t5-relu": 2 * 32}
    assert saved == 2 * len(blocks) * per_unit[architecture]


@pytest.mark.parametrize(
    ("neurons", "scale", "reason"),
    [
        ([Neuron("model.layers.0.mlp.down_proj", 3, "ffn")], 0.0, "layers.1.mlp.down_proj is eliminated"),
        ([Neuron(f"model.layers.{n}.mlp.down_proj", 3, "ffn") for n in (0, 1)], 0.5, "damps"),
        ([Neuron(f"model.layers.{n}.mlp.up_proj", 3, "linear") for n in (0, 1)], 0.0, "'linear'"),
    ],
)
def test_what_can_not_be_cut_is_refused_with_the_reason(neurons, scale, reason, tmp_path):
    lm = build_model("llama")
    with pytest.raises(InputError, match=reason):
        export_slim(lm, Edit.from_neurons(lm, neurons, scale=scale), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_the_edited_model_and_leaves_the_one_in_memory_alone(tmp_path):
    lm = build_model("gpt2")
    edit = Edit.from_neurons(lm, some_neurons(lm, ("linear", "ffn")))
    before = snapshot(lm.model)
    export_folder(lm, edit, tmp_path)
    assert_same_weights(lm.model, before)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(saved, False), edited_logits(lm, edit), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["folder", "lora", "slim"])
def test_the_command_line_saves_and_checks_every_format(form, saved_model, tmp_path, capsys):
    lm = build_model("llama")
    neurons = [Neuron(name, index, "ffn") for name in DOWN_PROJECTIONS["llama"] for index in (4, 17)]
    Edit.from_neurons(lm, neurons).save(tmp_path / "edit.json")
    command = ["apply", saved_model("llama"), tmp_path / "edit.json"]
    command += ["--output", tmp_path / "out", "--format", form, "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, command)))
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert "option scores agree" in printed.out
    assert ("Parameters saved: 384" in printed.out) == (form == "slim")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("adapter_config.json" in names) == (form == "lora")
    assert ("config.json" in names) == (form != "lora")
    if form == "slim":
        assert json.loads((tmp_path / "out" / "config.json").read_text())["intermediate_size"] == 46


class Meanwhile(SilentProgress):
    """Starts a command when a model has been written and is about to be loaded again."""

    def __init__(self, command):
        self.command, self.ended = command, None

    @contextmanager
    def step(self, description, total=None):
        if description.startswith("Loading it again"):
            self.ended = subprocess.run(self.command, capture_output=True, text=True, check=False)
        yield lambda _count: None


@pytest.mark.slow
def test_a_second_command_on_the_same_folder_is_refused_and_takes_nothing_from_the_first(saved_model, tmp_path):
    lm, edit, output = build_model("llama"), tmp_path / "edit.json", tmp_path / "out"
    Edit.from_neurons(lm, [Neuron(DOWN_PROJECTIONS["llama"][0], 4, "ffn")]).save(edit)
    command = [sys.executable, "-m", "crispr_lm", "apply", saved_model("llama"), edit, "--output", output]
    second = Meanwhile([*map(str, command), "--device=cpu"])
    saved = apply(str(saved_model("llama")), edit, output, ApplySettings(device="cpu"), second)
    assert second.ended.returncode == 2
    assert second.ended.stderr == (
        f"crispr-lm: another process is writing to {output} now; wait until it is done, or give another folder\n"
    )
    assert saved["saved_model"]["options_compared"] > 0
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "model.safetensors", "edit.json", "README.md"} <= names
    assert not [name for name in names if name.startswith(".")]
