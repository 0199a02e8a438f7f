"""What can't fit into memory is refused with figures, before its weights are read or a second copy is loaded."""

import pytest
import torch

from crispr_lm import CrisprError, InputError, load_model
from crispr_lm.edits.verification import Saved, verify_saved
from crispr_lm.model import memory
from crispr_lm.model.load import open_model
from crispr_lm.model.memory import check_fits, place_of_copy, weight_bytes

from ..helpers import EXAMPLES, INSTRUCTIONS, build_model

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def free(monkeypatch):
    """Sets the bytes that devices have free."""
    table = {}
    monkeypatch.setattr(memory, "free_memory", table.__getitem__)
    monkeypatch.setattr("crispr_lm.edits.verification.free_memory", table.__getitem__)
    return table


def files_of(kind, saved_model, tmp_path):
    if kind == "gguf":
        return "builtin:smollm2"
    if kind == "safetensors":
        return saved_model("llama")
    lm = build_model("llama")
    lm.model.save_pretrained(tmp_path, max_shard_size="50KB")
    lm.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    return tmp_path


@pytest.mark.parametrize("kind", ["safetensors", "sharded", pytest.param("gguf", marks=pytest.mark.real_model)])
def test_files_of_every_kind_are_measured_before_weights_are_read(kind, saved_model, tmp_path, monkeypatch, free):
    model = files_of(kind, saved_model, tmp_path)
    needed = weight_bytes(open_model(model).without_weights(), torch.float32)
    if kind == "gguf":
        assert 134e6 * 4 < needed < 136e6 * 4  # SmolLM2-135M
    free[CPU] = needed - 1
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    with pytest.raises(InputError, match=rf"needs {needed / 2**30:.1f} GiB for its weights in float32, but .* on cpu"):
        load_model(model, device="cpu")


def test_a_model_whose_edit_is_to_be_checked_must_fit_twice(saved_model, monkeypatch, free):
    source = open_model(saved_model("llama"))
    needed = weight_bytes(source.without_weights(), torch.float32)
    free[CPU] = 2 * needed - 1
    assert source.load(device="cpu").device == CPU
    with pytest.raises(InputError, match="and as much again to load the edited model beside it and compare"):
        source.load(device="cpu", twice=True)
    free[CPU] = 2 * needed
    assert source.load(device="cpu", twice=True).device == CPU


@pytest.mark.parametrize(
    ("on_gpu", "in_system", "fits", "place"),
    [(2.0, 0.0, True, GPU), (1.5, 1.0, True, CPU), (1.5, 0.5, False, None), (0.5, 9.0, False, CPU)],
)
def test_a_copy_that_does_not_fit_on_the_accelerator_may_lie_in_the_systems_memory(
    free, on_gpu, in_system, fits, place
):
    model = build_model("llama").model
    needed = weight_bytes(model, torch.float32)
    free[GPU], free[CPU] = int(on_gpu * needed), int(in_system * needed)
    if fits:
        check_fits("m", model, torch.float32, GPU, twice=True)
    else:
        with pytest.raises(InputError, match="free on cuda:0"):
            check_fits("m", model, torch.float32, GPU, twice=True)
    free[GPU] -= needed  # loaded
    assert place_of_copy(needed, GPU) == place


@pytest.mark.parametrize("device", ["balanced", "sequential"])
def test_a_model_that_is_spread_must_fit_on_all_accelerators_together(saved_model, monkeypatch, free, device):
    source = open_model(saved_model("llama"))
    needed = weight_bytes(source.without_weights(), torch.float32)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    free[GPU], free[torch.device("cuda:1")] = needed // 2, needed // 2 - 8
    with pytest.raises(InputError, match=r"are free on cuda:0 and cuda:1; give .*--device cpu, .* or a smaller model"):
        source.load(device=device)
    free[GPU] += 8
    with pytest.raises(InputError, match="weights can't be loaded"):  # there is no reader of weights here
        source.load(device=device)


def test_shortened_weights_are_counted_as_they_will_be(free):
    model = build_model("llama").model
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    )
    whole = weight_bytes(model, torch.bfloat16)
    assert weight_bytes(model, torch.bfloat16, 8) == whole - linear
    assert weight_bytes(model, torch.bfloat16, 4) == whole - linear - linear // 2
    free[GPU] = whole - linear - linear // 2 - 1
    with pytest.raises(InputError, match=r"for its weights in 4 bits, but 0\.0 GiB are free on cuda:0"):
        check_fits("m", model, torch.bfloat16, GPU, bits=4)


def test_a_saved_model_is_not_loaded_where_memory_has_become_short(free, tmp_path):
    lm = build_model("llama")
    free[CPU] = weight_bytes(lm.model, torch.float32) - 1
    with pytest.raises(CrisprError, match="end other programs, then give the same command again"):
        verify_saved(lm, Saved(tmp_path), EXAMPLES, INSTRUCTIONS[0])


def test_a_model_that_runs_out_while_it_is_moved_is_reported(saved_model, monkeypatch):
    def full(*_given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(CrisprError, match=r"memory runs out while model .* is moved to cpu; use"):
        load_model(saved_model("llama"), device="cpu")
