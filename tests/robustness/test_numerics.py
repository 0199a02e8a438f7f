"""Numbers that are none are named with their module; float16 that overflows is computed in float32."""

import contextlib
import json

import pytest
import torch

import crispr_lm
from crispr_lm import CrisprError, option_scores, score_neurons
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.evaluation.kl_divergence import divergence, reference_distribution
from crispr_lm.evaluation.perplexity import perplexity
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import encode_all
from crispr_lm.inference.streaming import Decoding, stream_answer
from crispr_lm.model.numerics import finite, widened
from crispr_lm.storage.files import append_line, write_json, write_lines

from ..helpers import EXAMPLES, INSTRUCTIONS, assert_same_weights, build_model, snapshot


def overflowing(architecture="llama"):
    """A float16 model whose first feed-forward block writes more than float16 holds, and the same in float32."""
    narrow, wide = build_model(architecture), build_model(architecture)
    for lm in (narrow, wide):
        lm.model.to(torch.float16)
        lm.model.model.layers[0].mlp.down_proj.weight.data[:] = 60000.0
        lm.model.model.layers[0].mlp.up_proj.weight.data *= 40
    wide.model.float()
    return narrow, wide


def gate_gradient(lm, prompts):
    gates = Gates(lm, ["ffn"])
    return gates.gradient(torch.ones(gates.count), prompts, lambda _, scores: scores[0] - scores[1])


MEASURED = {
    "scores": lambda lm: option_scores(lm, EXAMPLES, INSTRUCTIONS[0]),
    "attribution": lambda lm: torch.cat(list(score_neurons(lm, EXAMPLES, INSTRUCTIONS).values.values())),
    "gates": lambda lm: gate_gradient(lm, encode_all(lm, EXAMPLES, INSTRUCTIONS[0])),
    "perplexity": lambda lm: torch.tensor(perplexity(lm, "The old man met a nurse. " * 8)["perplexity"]),
    "divergence": lambda lm: torch.tensor(divergence(lm, reference_distribution(lm, ["Who was late?", "She"]))["kl"]),
    "generation": lambda lm: torch.tensor(continuations(lm, [[5, 9, 30, 41]], 6)),
}  # fmt: skip


@pytest.mark.parametrize("what", MEASURED)
def test_what_overflows_in_float16_is_what_float32_gives(what, caplog):
    narrow, wide = overflowing()
    before = snapshot(narrow.model)
    with caplog.at_level("INFO", logger="crispr_lm"):
        found = MEASURED[what](narrow)
    torch.testing.assert_close(found, MEASURED[what](wide), rtol=0, atol=0)
    assert "float16 is too short for" in caplog.text
    assert_same_weights(narrow.model, before)
    assert narrow.dtype == torch.float16


def test_what_does_not_overflow_stays_in_float16(monkeypatch):
    lm = build_model("llama")
    lm.model.to(torch.float16)
    monkeypatch.setattr(crispr_lm.model.numerics, "widened", lambda _lm: pytest.fail("widened"))
    assert torch.isfinite(MEASURED["attribution"](lm)).all()


def test_widened_weights_are_the_same_afterwards_also_where_something_fails():
    lm = build_model("llama-tied")
    lm.model.to(torch.float16)
    before = snapshot(lm.model)
    with contextlib.suppress(KeyError), torch.inference_mode(), widened(lm):
        assert lm.dtype == torch.float32
        raise KeyError
    assert lm.dtype == torch.float16
    assert_same_weights(lm.model, before)
    assert lm.model.lm_head.weight is lm.model.model.embed_tokens.weight


def test_without_memory_to_widen_the_advice_is_another_format(monkeypatch):
    narrow, _ = overflowing()
    monkeypatch.setattr(crispr_lm.model.numerics, "free_memory", lambda _device: 10)
    with pytest.raises(CrisprError, match=r"overflows in float16.*--dtype bfloat16"):
        MEASURED["scores"](narrow)


@pytest.mark.parametrize("what", MEASURED)
def test_broken_weights_are_named(what):
    lm = build_model("llama")
    lm.model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3, 2] = torch.nan
    with pytest.raises(CrisprError, match=r"the weights model\.layers\.1\.mlp\.up_proj\.weight hold NaN"):
        MEASURED[what](lm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wider_format_is_advised_where_there_is_one(dtype):
    lm = build_model("llama")
    lm.model.to(dtype)
    lm.model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3, 2] = torch.inf
    with pytest.raises(CrisprError) as error:
        MEASURED["scores"](lm)
    assert "download it again" in str(error.value)
    assert ("--dtype float32" in str(error.value)) == (dtype != torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_module_that_overflows_is_named(dtype):
    lm = build_model("llama")
    lm.model.to(dtype)
    # One product in each sum: infinities of both signs would be NaN, or not, as the processor's order of adding has it.
    lm.model.get_parameter("model.layers.1.mlp.down_proj.weight").data[:, 1:] = 0
    lm.model.get_parameter("model.layers.1.mlp.down_proj.weight").data[:, 0] = 3e38
    lm.model.get_parameter("model.layers.1.mlp.up_proj.weight").data *= 1e6
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CrisprError, match=rf"infinity is module model\.layers\.1\.mlp\.down_proj, in {name}") as error:
        MEASURED["scores"](lm)
    # Neither is error to take the format that it has, or one that reaches no further.
    assert "bfloat16, which" not in str(error.value)
    assert ("--dtype float32" in str(error.value)) == (dtype == torch.bfloat16)
    assert "the checkpoint is damaged, or an edit's scale is too large" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_that_overflow_outside_of_modules_are_distinguished(dtype):
    lm = build_model("llama")
    lm.model.to(dtype)
    name = str(dtype).removeprefix("torch.")

    def add_up():
        lm.model(torch.tensor([[1, 2, 3]]))
        return torch.tensor(torch.finfo(dtype).max, dtype=dtype) * 2

    with pytest.raises(CrisprError, match=f"though every module's output is; in {name} gradients or sums") as error:
        finite(lm, add_up, lambda found: [found])
    assert ("--dtype float32" in str(error.value)) == (dtype == torch.bfloat16)


def test_a_chat_names_the_module_too():
    lm = build_model("llama")
    lm.model.get_parameter("model.layers.1.mlp.down_proj.weight").data[:] = torch.inf
    with pytest.raises(CrisprError, match=r"the weights model\.layers\.1\.mlp\.down_proj\.weight hold"):
        list(stream_answer(lm, ["Who was late?"], Decoding(3)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_no_file_of_ours_holds_a_number_that_is_none(number, tmp_path):
    for write in (write_json, append_line, lambda path, row: write_lines(path, [row])):
        with pytest.raises(CrisprError, match="NaN or infinite"):
            write(tmp_path / "results.json", {"accuracy": number})
    assert json.dumps([file.name for file in tmp_path.iterdir() if file.stat().st_size]) == "[]"
