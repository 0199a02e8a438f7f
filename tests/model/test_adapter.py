"""A PEFT adapter as the model: merged on loading, and named by edits that are made of it."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from crispr_lm import Edit, EditMismatchError, InputError, load_model
from crispr_lm.edits.export import export_folder, export_lora
from crispr_lm.model.load import open_model
from crispr_lm.model.neuron_sites import Neuron

IDS = torch.tensor([[5, 9, 11, 7, 3]])


@pytest.fixture
def adapter(saved_model, tmp_path):
    """A folder as PEFT writes it, of random matrices that change every answer."""
    base = AutoModelForCausalLM.from_pretrained(saved_model("llama"))
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path / "my-adapter")
    return tmp_path / "my-adapter"


def change(adapter, **fields):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


@torch.no_grad()
def test_an_adapter_is_merged_into_its_base(saved_model, adapter):
    lm = load_model(adapter, device="cpu")
    base = AutoModelForCausalLM.from_pretrained(saved_model("llama"))
    plain = base(IDS).logits
    carrying = PeftModel.from_pretrained(base, adapter)(IDS).logits
    assert torch.allclose(lm.model(IDS).logits, carrying, atol=1e-4)
    assert not torch.allclose(plain, carrying, atol=1e-2)
    assert type(lm.model) is type(base)
    assert not hasattr(lm.model, "peft_config")
    assert lm.name == f"my-adapter on {saved_model('llama').name}"


def test_an_edit_names_adapter_and_base_and_is_for_neither_alone(saved_model, adapter, tmp_path):
    lm = load_model(adapter, device="cpu")
    edit = Edit.from_neurons(lm, [Neuron("model.layers.0.mlp.down_proj", 1, "ffn")], 0.0)
    edit.save(tmp_path / "edit.json")
    loaded = Edit.load(tmp_path / "edit.json")
    named = loaded.base_model["adapter"]
    assert (named["name"], named["base"]) == ("my-adapter", saved_model("llama").name)
    assert len(named["sha256"]) == 64
    loaded.check(lm)
    with pytest.raises(EditMismatchError, match="my-adapter on"):
        loaded.check(load_model(saved_model("llama"), device="cpu"))
    with pytest.raises(InputError, match="save the edited model as a folder"):
        export_lora(lm, loaded, tmp_path / "lora")


@torch.no_grad()
def test_the_edited_model_is_saved_with_the_adapter_in_its_weights(adapter, tmp_path):
    lm = load_model(adapter, device="cpu")
    edit = Edit.from_neurons(lm, [Neuron("model.layers.0.mlp.down_proj", 1, "ffn")])
    export_folder(lm, edit, tmp_path / "edited")
    again = load_model(tmp_path / "edited", device="cpu")
    with edit.applied(lm):
        assert torch.allclose(again.model(IDS).logits, lm.model(IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_model_name_or_path": "/not/here"}, "base model can't be opened: model /not/here: no such folder"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"r": 10**9}, "rank outside"),
        ({"megatron_config": {"x": 1}}, "is for Megatron"),
    ],
)
def test_what_cannot_be_opened_says_why(adapter, fields, message):
    change(adapter, **fields)
    with pytest.raises(InputError, match=message):
        open_model(adapter)


def test_weights_that_do_not_fit_or_are_missing_are_refused(saved_model, adapter):
    change(adapter, r=3)  # the matrices are of rank 4
    with pytest.raises(InputError, match="can't be merged into"):
        load_model(adapter, device="cpu")
    change(adapter, r=4, target_modules=["q_proj", "v_proj", "down_proj"])  # it has none for v_proj
    with pytest.raises(InputError, match="can't be merged into"):
        load_model(adapter, device="cpu")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        load_model(adapter, device="cpu")
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors"):
        load_model(adapter, device="cpu")


def test_an_adapter_of_an_adapter_is_refused(adapter):
    change(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(InputError, match="is an adapter itself"):
        open_model(adapter)


def test_an_adapter_that_adds_no_weights_is_refused(saved_model, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(saved_model("llama"))
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(base, config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(InputError, match="adds no weights that could be merged"):
        load_model(tmp_path / "prompt", device="cpu")
