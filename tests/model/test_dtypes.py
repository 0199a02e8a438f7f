"""Number formats and devices: half precision gives the answers of float32 up to rounding, and edits stay exact."""

import pytest
import torch
from accelerate import dispatch_model

import crispr_lm
from crispr_lm import Edit, InputError
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.jobs import preparation
from crispr_lm.model import load
from crispr_lm.model.devices import computes
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.settings import ModelSettings

from ..gguf_files import write_llama
from ..helpers import EXAMPLES, INSTRUCTIONS, assert_same_weights, build_model, snapshot

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated", "bart"])
def test_half_precision_gives_the_scores_of_float32_up_to_rounding(architecture, dtype):
    exact, rounded = build_model(architecture), build_model(architecture)
    rounded.model.to(dtype)
    exact.model.load_state_dict(rounded.model.float().state_dict())  # the same weights, in the wider format
    rounded.model.to(dtype)
    for kind in crispr_lm.model.neuron_sites.NEURON_KINDS:
        wide = crispr_lm.score_neurons(exact, EXAMPLES, INSTRUCTIONS, BiasInfluence(kind))
        narrow = crispr_lm.score_neurons(rounded, EXAMPLES, INSTRUCTIONS, BiasInfluence(kind))
        joined = torch.stack([torch.cat(list(scores.values.values())) for scores in (wide, narrow)])
        assert torch.corrcoef(joined)[0, 1] > 0.95, kind
        assert all(values.dtype == torch.float32 for values in narrow.values.values())


@pytest.mark.parametrize("dtype", HALVES)
def test_an_edit_of_a_half_precision_model_is_undone_to_the_bit(dtype):
    lm = build_model("llama")
    lm.model.to(dtype)
    before = snapshot(lm.model)
    edit = Edit.from_neurons(lm, crispr_lm.score_neurons(lm, EXAMPLES, INSTRUCTIONS).top(20), scale=0.3)
    edit.bake(lm)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())
    edit.undo(lm)
    assert_same_weights(lm.model, before)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("has_instructions", [True, False])
def test_auto_is_the_stored_format_unless_the_processor_emulates_it(dtype, has_instructions, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "computes", lambda wanted, _: has_instructions or wanted == torch.float32)
    lm = build_model("llama")
    lm.model.to(dtype).save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    loaded = crispr_lm.load_model(tmp_path, dtype="auto", device="cpu")
    assert loaded.dtype == (dtype if has_instructions else torch.float32)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_auto_takes_a_gguf_file_in_bfloat16_unless_the_processor_emulates_it(has_instructions, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "computes", lambda wanted, _: has_instructions or wanted == torch.float32)
    write_llama(tmp_path / "model.gguf")
    loaded = crispr_lm.load_model(tmp_path / "model.gguf", dtype="auto", device="cpu")
    assert loaded.dtype == (torch.bfloat16 if has_instructions else torch.float32)


def test_every_device_computes_float32_and_no_processor_without_amx_float16(monkeypatch):
    cpu = torch.device("cpu")
    assert computes(torch.float32, cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False, raising=False)
    assert not computes(torch.float16, cpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert computes(torch.bfloat16, cpu)


@pytest.mark.parametrize("has_instructions", [True, False])
def test_a_run_says_when_the_processor_emulates_its_format(has_instructions, saved_model, monkeypatch):
    monkeypatch.setattr(preparation, "computes", lambda *_: has_instructions)
    said: list[str] = []
    progress = SilentProgress()
    monkeypatch.setattr(progress, "say", said.append)
    settings = ModelSettings(dtype="bfloat16", device="cpu")
    preparation.load(str(saved_model("llama")), settings, preparation.Needs(), preparation.Timings(), progress)
    assert any("no instructions for bfloat16" in sentence for sentence in said) != has_instructions


def test_a_model_that_accelerate_has_dispatched_gives_the_same_scores():
    plain, dispatched = build_model("llama"), build_model("llama")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu", "model.norm": "cpu"}
    places |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(dispatched.model, places, main_device="cpu", force_hooks=True)
    expected = crispr_lm.score_neurons(plain, EXAMPLES, INSTRUCTIONS)
    scores = crispr_lm.score_neurons(dispatched, EXAMPLES, INSTRUCTIONS)
    assert all(torch.equal(scores.values[name], values) for name, values in expected.values.items())


def test_a_model_can_not_be_spread_over_devices_that_are_not_there(monkeypatch, saved_model):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="there is none"):
        crispr_lm.load_model(saved_model("llama"), device="balanced")


def test_four_bits_have_no_gradients_on_a_cpu(monkeypatch, saved_model):
    monkeypatch.setattr("crispr_lm.model.devices.importlib.util.find_spec", lambda _: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="give 8bit"):
        crispr_lm.load_model(saved_model("llama"), quantize="4bit")


@pytest.mark.parametrize("quantize", ["8bit", "4bit"])
def test_weights_are_not_shortened_without_the_package_for_it(monkeypatch, saved_model, quantize):
    monkeypatch.setattr("crispr_lm.model.devices.importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs bitsandbytes"):
        crispr_lm.load_model(saved_model("llama"), quantize=quantize)
