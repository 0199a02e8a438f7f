"""Edits against weights changed by hand: applied, baked, undone, saved, and refused where they do not belong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crispr_lm import Edit, EditMismatchError, InputError, LanguageModel, Neuron, load_model
from crispr_lm.edits.fingerprint import weights_fingerprint

from ..helpers import assert_same_weights, build_model, hook_count, snapshot

LINEAR = {
    "llama": (
        ("model.layers.0.self_attn.k_proj", 3),
        ("model.layers.1.mlp.gate_proj", 40),
        ("model.layers.1.mlp.gate_proj", 2),
        ("model.layers.0.mlp.down_proj", 31),
    ),
    "gpt2": (
        ("transformer.h.0.attn.c_attn", 95),
        ("transformer.h.0.mlp.c_fc", 47),
        ("transformer.h.1.mlp.c_proj", 31),
        ("transformer.h.1.mlp.c_proj", 0),
    ),
    "t5-gated": (
        ("decoder.block.1.layer.1.EncDecAttention.k", 5),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0", 41),
        ("decoder.block.0.layer.2.DenseReluDense.wo", 7),
    ),
    "t5-relu": (("encoder.block.1.layer.1.DenseReluDense.wi", 9), ("decoder.block.0.layer.0.SelfAttention.v", 30)),
    "bart": (
        ("model.decoder.layers.1.encoder_attn.v_proj", 2),
        ("model.encoder.layers.0.fc1", 45),
        ("model.decoder.layers.0.fc2", 31),
    ),
}
FFN = {
    "llama": (("model.layers.0.mlp.down_proj", 47), ("model.layers.1.mlp.down_proj", 0)),
    "gpt2": (("transformer.h.0.mlp.c_proj", 47), ("transformer.h.1.mlp.c_proj", 3)),
    "t5-gated": (
        ("encoder.block.0.layer.1.DenseReluDense.wo", 47),
        ("decoder.block.1.layer.2.DenseReluDense.wo", 1),
        ("decoder.block.1.layer.2.DenseReluDense.wo", 46),
    ),
    "t5-relu": (("encoder.block.0.layer.1.DenseReluDense.wo", 47), ("decoder.block.1.layer.2.DenseReluDense.wo", 5)),
    "bart": (("model.encoder.layers.1.fc2", 47), ("model.decoder.layers.0.fc2", 39)),
}
LINEAR["llama-tied"], FFN["llama-tied"] = LINEAR["llama"], FFN["llama"]


def neurons_of(architecture: str, kind: str) -> list[Neuron]:
    """Some neurons of one kind, or of both."""
    linear = [Neuron(module, index, "linear") for module, index in LINEAR[architecture]]
    ffn = [Neuron(module, index, "ffn") for module, index in FFN[architecture]]
    return {"linear": linear, "ffn": ffn, "both": linear + ffn}[kind]


def logits(lm: LanguageModel) -> Tensor:
    """What the model says to some fixed tokens."""
    tokens = torch.arange(5, 25).reshape(2, 10)
    arguments = {"decoder_input_ids": torch.tensor([[0, 31, 32], [0, 33, 34]])} if lm.is_encoder_decoder else {}
    with torch.no_grad():
        return lm.model(input_ids=tokens, **arguments).logits


def changed_by_hand(lm: LanguageModel, neurons: Sequence[Neuron], scale: float) -> LanguageModel:
    """A copy of the model whose weights are scaled one neuron at a time, as the method defines it."""
    other = replace(lm, model=copy.deepcopy(lm.model))
    for neuron in neurons:
        module = other.model.get_submodule(neuron.module)
        # Rows of a Linear's weight are outputs; a Conv1D's weight lies the other way round.
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        if neuron.kind == "linear":
            weight[neuron.index, :] *= scale
            if module.bias is not None:
                module.bias[neuron.index] *= scale
        else:
            weight[:, neuron.index] *= scale
    return other


# Applied, baked, undone


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["linear", "ffn", "both"])
def test_an_applied_edit_gives_the_logits_of_weights_changed_by_hand(
    lm: LanguageModel, architecture: str, kind: str, scale: float
) -> None:
    neurons = neurons_of(architecture, kind)
    before, weights = logits(lm), snapshot(lm.model)
    expected = logits(changed_by_hand(lm, neurons, scale))
    assert (expected - before).abs().max() > 1e-3
    with Edit.from_neurons(lm, neurons, scale).applied(lm):
        assert_same_weights(lm.model, weights)
        torch.testing.assert_close(logits(lm), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(logits(lm), before)
    assert hook_count(lm.model) == 0


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["linear", "ffn", "both"])
def test_a_baked_edit_changes_the_weights_as_by_hand(
    lm: LanguageModel, architecture: str, kind: str, scale: float
) -> None:
    neurons = neurons_of(architecture, kind)
    by_hand = changed_by_hand(lm, neurons, scale)
    Edit.from_neurons(lm, neurons, scale).bake(lm)
    assert_same_weights(lm.model, snapshot(by_hand.model))
    assert torch.equal(logits(lm), logits(by_hand))
    assert hook_count(lm.model) == 0


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["linear", "ffn", "both"])
def test_undo_brings_back_every_bit(lm: LanguageModel, architecture: str, kind: str, scale: float) -> None:
    weights = snapshot(lm.model)
    edit = Edit.from_neurons(lm, neurons_of(architecture, kind), scale)
    for _ in range(2):
        edit.bake(lm)
        edit.undo(lm)
        assert_same_weights(lm.model, weights)


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_undo_brings_back_weights_that_two_kinds_of_neurons_share(llama: LanguageModel, scale: float) -> None:
    """Row 7 and column 9 of the same down projection cross in one weight."""
    module = "model.layers.0.mlp.down_proj"
    neurons = [Neuron(module, 7, "linear"), Neuron(module, 9, "ffn")]
    weights = snapshot(llama.model)
    edit = Edit.from_neurons(llama, neurons, scale)
    edit.bake(llama)
    assert llama.model.get_submodule(module).weight[7, 9] == weights[f"{module}.weight"][7, 9] * scale * scale
    edit.undo(llama)
    assert_same_weights(llama.model, weights)


def test_eliminated_linear_neurons_are_silent_in_spite_of_their_biases(gpt2: LanguageModel) -> None:
    module = gpt2.model.get_submodule("transformer.h.0.mlp.c_fc")
    seen: list[Tensor] = []
    edit = Edit.from_neurons(gpt2, [Neuron("transformer.h.0.mlp.c_fc", 46)])
    assert module.bias[46] != 0
    edit.bake(gpt2)
    handle = module.register_forward_hook(lambda _module, _arguments, output: seen.append(output))
    logits(gpt2)
    handle.remove()
    assert torch.all(seen[0][..., 46] == 0)
    assert torch.all(seen[0][..., 45] != 0)


def test_eliminated_ffn_neurons_may_be_infinite(llama: LanguageModel) -> None:
    neuron = Neuron("model.layers.1.mlp.down_proj", 9, "ffn")
    expected = logits(changed_by_hand(llama, [neuron], 0))
    llama.model.get_submodule("model.layers.1.mlp.up_proj").weight[9] = torch.inf
    edit = Edit.from_neurons(llama, [neuron])
    assert not torch.isfinite(logits(llama)).all()
    with edit.applied(llama):
        torch.testing.assert_close(logits(llama), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", ["up_proj", "gate_proj"])
def test_a_model_whose_neurons_are_eliminated_where_their_values_come_from_is_another(llama, layer: str) -> None:
    edit = Edit.from_neurons(llama, [Neuron("model.layers.1.mlp.down_proj", 9, "ffn")])
    llama.model.get_submodule(f"model.layers.1.mlp.{layer}").weight[9] = 0
    with pytest.raises(EditMismatchError, match=f"layers.1.mlp.{layer} differ"):
        edit.check(llama)


def test_an_edit_without_neurons_changes_nothing(llama: LanguageModel) -> None:
    before, weights = logits(llama), snapshot(llama.model)
    edit = Edit.from_neurons(llama, [])
    with edit.applied(llama):
        assert torch.equal(logits(llama), before)
    edit.bake(llama)
    assert_same_weights(llama.model, weights)
    edit.undo(llama)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated"])
def test_no_hook_is_left_after_an_exception(lm: LanguageModel, architecture: str) -> None:
    before = logits(lm)
    edit = Edit.from_neurons(lm, neurons_of(architecture, "both"))
    hooks: list[int] = []

    def stumble() -> None:
        with edit.applied(lm):
            hooks.append(hook_count(lm.model))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert hooks[0] > 0
    assert hook_count(lm.model) == 0
    assert torch.equal(logits(lm), before)


# Files


@pytest.mark.parametrize("kind", ["linear", "ffn", "both"])
def test_an_edit_survives_saving_and_loading(lm: LanguageModel, architecture: str, kind: str, tmp_path: Path) -> None:
    neurons = neurons_of(architecture, kind)[::-1]
    edit = Edit.from_neurons(lm, neurons, 0.25, origin={"task": "hand-made", "values": [1, 2.5, None]})
    edit.save(tmp_path / "edit.json")
    loaded = Edit.load(tmp_path / "edit.json")
    assert loaded == edit
    assert loaded.neurons == tuple(neurons)  # the order of rank is kept
    assert loaded.scale == 0.25
    assert loaded.origin == {"task": "hand-made", "values": [1, 2.5, None]}
    assert loaded.made_in == "float32"
    assert loaded.base_model["name"] == f"tiny-{architecture}"
    assert loaded.base_model["architecture"] == type(lm.model).__name__
    expected = logits(changed_by_hand(lm, neurons, 0.25))
    with loaded.applied(lm):
        torch.testing.assert_close(logits(lm), expected, rtol=1e-6, atol=1e-6)


def test_a_baked_edit_is_undone_by_itself_read_from_its_file(llama: LanguageModel, tmp_path: Path) -> None:
    weights = snapshot(llama.model)
    edit = Edit.from_neurons(llama, neurons_of("llama", "both"))
    edit.save(tmp_path / "edit.json")
    edit.bake(llama)
    Edit.load(tmp_path / "edit.json").undo(llama)
    assert_same_weights(llama.model, weights)


def test_an_edit_file_is_small_and_readable(t5: LanguageModel, tmp_path: Path) -> None:
    """Thirty neurons, every one in another module: the worst case."""
    modules = [name for name, module in t5.model.named_modules() if isinstance(module, torch.nn.Linear)][:30]
    assert len(modules) == 30
    edit = Edit.from_neurons(t5, [Neuron(module, 3) for module in modules])
    edit.save(tmp_path / "edit.json")
    assert (tmp_path / "edit.json").stat().st_size < 20_000
    content = json.loads((tmp_path / "edit.json").read_text(encoding="utf-8"))
    assert content["format"] == "crispr-lm-edit"
    assert content["version"] == 2
    assert content["scale"] == 0
    assert content["neurons"] == [["linear", module, 3] for module in modules]


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda content: [content],
    "a number": lambda content: 7,
    "null": lambda content: None,
    "another format": lambda content: content | {"format": "crispr-lm-scores"},
    "no format": lambda content: {key: value for key, value in content.items() if key != "format"},
    "a later version": lambda content: content | {"version": 3},
    "no neurons": lambda content: {key: value for key, value in content.items() if key != "neurons"},
    "neurons null": lambda content: content | {"neurons": None},
    "neurons of two parts": lambda content: content | {"neurons": [["model.layers.0.self_attn.k_proj", 3]]},
    "neurons that are numbers": lambda content: content | {"neurons": [7]},
    "an unknown kind": lambda content: content | {"neurons": [["conv", "model.layers.0.self_attn.k_proj", 3]]},
    "a kind that is a list": lambda content: content | {"neurons": [[[], "model.layers.0.self_attn.k_proj", 3]]},
    "a negative index": lambda content: content | {"neurons": [["linear", "model.layers.0.self_attn.k_proj", -1]]},
    "an index that is a fraction": lambda content: (
        content | {"neurons": [["linear", "model.layers.0.self_attn.k_proj", 3.0]]}
    ),
    "an index that is true": lambda content: (
        content | {"neurons": [["linear", "model.layers.0.self_attn.k_proj", True]]}
    ),
    "a module that is null": lambda content: content | {"neurons": [["linear", None, 3]]},
    "a neuron twice": lambda content: content | {"neurons": [content["neurons"][0], content["neurons"][0]]},
    "no scale": lambda content: {key: value for key, value in content.items() if key != "scale"},
    "a scale that is text": lambda content: content | {"scale": "0"},
    "a scale that is true": lambda content: content | {"scale": True},
    "a scale that is not a number": lambda content: content | {"scale": float("nan")},
    "an infinite scale": lambda content: content | {"scale": -float("inf")},
    "a scale of 400 digits": lambda content: content | {"scale": 10**400},
    "no fingerprint": lambda content: {key: value for key, value in content.items() if key != "fingerprint"},
    "an empty fingerprint": lambda content: content | {"fingerprint": {}},
    "a fingerprint that is a list": lambda content: content | {"fingerprint": []},
    "a fingerprint of one dtype": lambda content: (
        content | {"fingerprint": {name: {"float32": "00"} for name in content["fingerprint"]}}
    ),
    "no base model": lambda content: {key: value for key, value in content.items() if key != "base_model"},
    "a base model without dtype": lambda content: content | {"base_model": {"name": "x"}},
    "a base model of unknown dtype": lambda content: content | {"base_model": {"dtype": "int8"}},
    "an origin that is a number": lambda content: content | {"origin": 5},
    "no templates": lambda content: {key: value for key, value in content.items() if key != "made_on"},
    "templates that are a text": lambda content: content | {"made_on": "0123456789"},
    "templates that are numbers": lambda content: content | {"made_on": [1]},
}


@pytest.mark.parametrize("spoil", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_edit_file_is_refused_with_its_name(
    llama: LanguageModel, tmp_path: Path, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    edit = Edit.from_neurons(llama, neurons_of("llama", "linear"))
    edit.save(tmp_path / "good.json")
    content = json.loads((tmp_path / "good.json").read_text(encoding="utf-8"))
    (tmp_path / "spoilt.json").write_text(json.dumps(spoil(content)), encoding="utf-8")
    with pytest.raises(InputError, match=r"spoilt\.json"):
        Edit.load(tmp_path / "spoilt.json")
    assert Edit.load(tmp_path / "good.json") == edit


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "format is 'other', not 'crispr-lm-edit'"),
        ({"version": 99}, "version 99 is not "),
        ({"version": 1}, "is of version 1, which does not record the questions it was made on; make it again"),
    ],
)
def test_a_file_of_another_format_is_reported_as_such(
    llama: LanguageModel, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    Edit.from_neurons(llama, neurons_of("llama", "linear")).save(tmp_path / "edit.json")
    content = json.loads((tmp_path / "edit.json").read_text(encoding="utf-8"))
    (tmp_path / "edit.json").write_text(json.dumps(content | change), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        Edit.load(tmp_path / "edit.json")
    assert reason in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"neurons: []"])
def test_an_edit_file_that_is_no_json_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spoilt.json").write_bytes(content)
    with pytest.raises(InputError, match=r"spoilt\.json"):
        Edit.load(tmp_path / "spoilt.json")


def test_an_edit_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        Edit.load(tmp_path / "absent.json")
    with pytest.raises(InputError, match=tmp_path.name):
        Edit.load(tmp_path)


# Other models, other dtypes


def enter(edit: Edit, lm: LanguageModel) -> None:
    """Apply an edit that must be refused."""
    with edit.applied(lm):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("action", [Edit.check, Edit.bake, enter])
def test_an_edit_for_other_weights_is_refused_and_the_module_named(
    llama: LanguageModel, action: Callable[[Edit, LanguageModel], None]
) -> None:
    edit = Edit.from_neurons(llama, neurons_of("llama", "linear"))
    other = build_model("llama")
    other.model.get_submodule("model.layers.1.mlp.gate_proj").weight[5, 5] += 1e-3
    weights = snapshot(other.model)
    with pytest.raises(EditMismatchError, match=r"model\.layers\.1\.mlp\.gate_proj"):
        action(edit, other)
    assert_same_weights(other.model, weights)
    assert hook_count(other.model) == 0
    edit.check(build_model("llama"))


def _one_weight(weight: Tensor) -> None:
    weight[5, 5] += 1e-3


def _two_rows(weight: Tensor) -> None:
    weight[[2, 9]] = weight[[9, 2]]


def _two_columns(weight: Tensor) -> None:
    weight[:, [0, 4]] = weight[:, [4, 0]]


@pytest.mark.parametrize("change", [_one_weight, _two_rows, _two_columns])
@pytest.mark.parametrize("way", ["in place", "through data", "new data", "new parameter"])
def test_weights_that_change_after_a_check_are_noticed(
    llama: LanguageModel, change: Callable[[Tensor], None], way: str
) -> None:
    edit = Edit.from_neurons(llama, neurons_of("llama", "linear"))
    for _ in range(2):
        edit.check(llama)
    module = llama.model.get_submodule("model.layers.1.mlp.gate_proj")
    original = module.weight.detach().clone()
    changed = original.clone()
    change(changed)
    if way == "in place":
        module.weight.copy_(changed)
    elif way == "through data":
        module.weight.data[:] = changed  # leaves the parameter's version counter as it is
    elif way == "new data":
        module.weight.data = changed
    else:
        module.weight = torch.nn.Parameter(changed, requires_grad=False)
    with pytest.raises(EditMismatchError, match=r"model\.layers\.1\.mlp\.gate_proj"):
        edit.check(llama)
    with torch.no_grad():
        module.weight.copy_(original)
    edit.check(llama)


def test_a_bias_that_changes_after_a_check_is_noticed(gpt2: LanguageModel) -> None:
    edit = Edit.from_neurons(gpt2, neurons_of("gpt2", "linear"))
    gpt2.model.get_submodule("transformer.h.0.mlp.c_fc").bias.data[1] += 1e-3
    with pytest.raises(EditMismatchError, match=r"transformer\.h\.0\.mlp\.c_fc"):
        edit.check(gpt2)


@pytest.mark.parametrize("other", ["gpt2", "t5-gated"])
def test_an_edit_for_another_architecture_is_refused_and_a_module_named(llama: LanguageModel, other: str) -> None:
    edit = Edit.from_neurons(llama, neurons_of("llama", "ffn"))
    with pytest.raises(EditMismatchError, match=r"model\.layers\.0\.mlp\.down_proj"):
        edit.check(build_model(other))


def test_an_edit_for_a_wider_model_is_refused(llama: LanguageModel) -> None:
    neuron = Neuron("model.layers.0.mlp.down_proj", 47, "ffn")
    edit = Edit.from_neurons(llama, [neuron])
    module = llama.model.get_submodule("model.layers.0.mlp.down_proj")
    module.weight = torch.nn.Parameter(module.weight[:, :40].clone(), requires_grad=False)
    with pytest.raises(EditMismatchError, match=r"model\.layers\.0\.mlp\.down_proj"):
        edit.check(llama)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated"])
@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_an_edit_made_in_float32_fits_the_same_checkpoint_in_a_narrow_dtype(
    architecture: str, narrow: str, saved_model: Callable[[str], Path]
) -> None:
    wide = load_model(saved_model(architecture), dtype="float32", device="cpu")
    edit = Edit.from_neurons(wide, neurons_of(architecture, "linear"))
    lm = load_model(saved_model(architecture), dtype=narrow, device="cpu")
    assert lm.dtype == getattr(torch, narrow)
    edit.check(lm)
    by_hand = changed_by_hand(lm, neurons_of(architecture, "linear"), 0)
    edit.bake(lm)
    assert_same_weights(lm.model, snapshot(by_hand.model))


def test_an_edit_made_in_bfloat16_fits_the_same_checkpoint_in_float32(saved_model: Callable[[str], Path]) -> None:
    narrow = load_model(saved_model("llama"), dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(narrow, neurons_of("llama", "ffn"))
    assert edit.made_in == "bfloat16"
    edit.check(load_model(saved_model("llama"), dtype="float32", device="cpu"))


def test_an_edit_made_in_float32_is_refused_by_other_weights_in_bfloat16(saved_model: Callable[[str], Path]) -> None:
    edit = Edit.from_neurons(load_model(saved_model("llama"), device="cpu"), neurons_of("llama", "ffn"))
    lm = load_model(saved_model("llama"), dtype="bfloat16", device="cpu")
    lm.model.get_submodule("model.layers.1.mlp.down_proj").weight[3, 3] += 0.5
    with pytest.raises(EditMismatchError, match=r"model\.layers\.1\.mlp\.down_proj"):
        edit.check(lm)


# Misuse


def test_an_edit_can_not_be_baked_twice(llama: LanguageModel) -> None:
    edit = Edit.from_neurons(llama, neurons_of("llama", "linear"))
    edit.bake(llama)
    weights = snapshot(llama.model)
    with pytest.raises(EditMismatchError, match="baked"):
        edit.bake(llama)
    with pytest.raises(EditMismatchError, match="baked"):
        enter(edit, llama)
    with pytest.raises(InputError, match="baked"):
        Edit.from_neurons(llama, neurons_of("llama", "ffn"))
    assert_same_weights(llama.model, weights)


def test_undo_without_bake_is_refused(llama: LanguageModel) -> None:
    edit = Edit.from_neurons(llama, neurons_of("llama", "linear"))
    with pytest.raises(EditMismatchError, match="not baked"):
        edit.undo(llama)
    edit.bake(llama)
    edit.undo(llama)
    with pytest.raises(EditMismatchError, match="not baked"):
        edit.undo(llama)


def test_undo_of_another_edit_is_refused(llama: LanguageModel) -> None:
    one = Edit.from_neurons(llama, neurons_of("llama", "linear"))
    other = Edit.from_neurons(llama, neurons_of("llama", "ffn"))
    one.bake(llama)
    weights = snapshot(llama.model)
    with pytest.raises(EditMismatchError, match="not baked"):
        other.undo(llama)
    assert_same_weights(llama.model, weights)


def test_the_same_neuron_twice_is_refused(llama: LanguageModel) -> None:
    neuron = Neuron("model.layers.0.mlp.down_proj", 3)
    with pytest.raises(InputError, match="twice"):
        Edit.from_neurons(llama, [neuron, neuron])


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (Neuron("model.layers.7.mlp.down_proj", 3), r"model\.layers\.7\.mlp\.down_proj"),
        (Neuron("lm_head", 3), "lm_head"),
        (Neuron("model.layers.0.mlp.up_proj", 3, "ffn"), r"mlp\.up_proj holds no 'ffn'"),
        (Neuron("model.layers.0.mlp.down_proj", 32), r"has 32 'linear' neurons, there is no 32"),
        (Neuron("model.layers.0.mlp.down_proj", 48, "ffn"), r"has 48 'ffn' neurons, there is no 48"),
        (Neuron("model.layers.0.mlp.down_proj", -1), r"there is no -1"),
        (Neuron("model.layers.0.mlp.down_proj", 3, "conv"), "conv"),  # type: ignore[arg-type]
    ],
)
def test_a_neuron_that_the_model_lacks_is_refused(llama: LanguageModel, neuron: Neuron, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Edit.from_neurons(llama, [neuron])


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_scale_that_is_not_finite_is_refused(llama: LanguageModel, scale: float) -> None:
    with pytest.raises(InputError, match="scale"):
        Edit.from_neurons(llama, neurons_of("llama", "ffn"), scale)


def test_an_edit_without_neurons_is_refused_for_another_architecture(llama, gpt2):
    made = Edit.from_neurons(llama, [])
    made.check(llama)
    with pytest.raises(EditMismatchError, match="made for a LlamaForCausalLM, but tiny-gpt2 is a GPT2LMHeadModel"):
        made.check(gpt2)


def test_the_fingerprint_of_a_model_tells_apart_what_is_not_the_same():
    def layer(rows=2, columns=3, name="layer", dtype=torch.float32, changed=None):
        values = torch.arange(6.0)
        if changed is not None:
            values[changed] += 0.5
        module = nn.Module()
        module.register_parameter(name, nn.Parameter(values.reshape(rows, columns).to(dtype)))
        return module

    others = [layer(3, 2), layer(name="other"), layer(dtype=torch.bfloat16), *(layer(changed=at) for at in range(6))]
    known = [weights_fingerprint(module) for module in (layer(), *others)]
    assert len(set(known)) == len(known)
    assert weights_fingerprint(layer()) == known[0]
    assert weights_fingerprint(copy.deepcopy(others[0])) == known[1]


def test_the_fingerprint_of_a_large_matrix_looks_at_some_four_thousand_values_from_its_first_to_its_last():
    large = nn.Linear(1000, 1000, bias=False).requires_grad_(False)  # every 244th of a million values
    known = weights_fingerprint(large)
    seen = []
    for at in [*range(488), 999_912, 999_999]:
        weight = large.weight.view(-1)
        before = weight[at].clone()
        weight[at] += 1
        if weights_fingerprint(large) != known:
            seen.append(at)
        weight[at] = before
    assert seen == [0, 244, 999_912]
