"""Weights of 8 bits through a whole run: the edit is tied to the whole weights, and saved in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import crispr_lm
from crispr_lm.errors import InputError
from crispr_lm.jobs.run import run
from crispr_lm.jobs.search_settings import LIMITS, OF_TUNED
from crispr_lm.jobs.steps import apply
from crispr_lm.other_settings import ApplySettings
from crispr_lm.report.run_summary import warnings
from crispr_lm.settings import RunSettings

pytest.importorskip("bitsandbytes")

SMALL = {
    "task": ("builtin:everyday",), "instructions": "1", "rounds": 1, "max_neurons": 5, "neutral_prompts": 3,
    "validation_examples": 12, "reevaluation_examples": 18, "test_examples": 12, "measure_examples": 4, "max_kl": 10,
    "device": "cpu",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "ffn"])
def test_an_edit_is_that_of_the_whole_weights(saved_model: Callable[[str], Path], kind: str) -> None:
    folder = saved_model("llama")
    whole, short = crispr_lm.load_model(folder), crispr_lm.load_model(folder, device="cpu", quantize="8bit")
    task = crispr_lm.load_task("builtin:everyday")
    formula = crispr_lm.BiasInfluence(kind)
    of_whole, of_short = (
        crispr_lm.score_neurons(lm, task.examples[:4], task.instructions[:1], formula) for lm in (whole, short)
    )
    both = [torch.cat(list(scores.values.values())) for scores in (of_whole, of_short)]
    assert float(torch.corrcoef(torch.stack(both))[0, 1]) > 0.99  # gradients go through shortened weights
    neurons = of_short.top(4)
    edit = crispr_lm.Edit.from_neurons(short, neurons)
    assert edit == crispr_lm.Edit.from_neurons(whole, neurons)
    edit.check(whole)
    crispr_lm.Edit.from_neurons(whole, neurons).check(short)
    with pytest.raises(InputError, match="not whole in memory"):
        edit.bake(short)
    before, after = (
        crispr_lm.evaluate(short, task.examples[:8], task.instructions[:1], edit=one) for one in (None, edit)
    )
    assert before.metrics.keys() == after.metrics.keys()


def test_an_edit_for_other_weights_is_refused(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = saved_model("llama")
    edit = crispr_lm.Edit.from_neurons(
        crispr_lm.load_model(folder), [crispr_lm.Neuron("model.layers.0.mlp.down_proj", 1)]
    )
    other = crispr_lm.load_model(folder)
    with torch.no_grad():
        other.model.model.layers[0].mlp.down_proj.weight[3, 3] += 1
    other.model.save_pretrained(tmp_path)
    other.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(crispr_lm.EditMismatchError, match="down_proj"):
        edit.check(crispr_lm.load_model(tmp_path, device="cpu", quantize="8bit"))


def test_a_run_saves_the_whole_weights_edited(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder, output = saved_model("llama"), tmp_path / "out"
    of_sweep = {name: value for name, value in SMALL.items() if name not in (*LIMITS, *OF_TUNED)}
    results = run(
        str(folder), RunSettings(output=output, quantize="8bit", search="sweep", max_accuracy_loss=1, **of_sweep)
    )
    assert results["saved_model"]["verified"]
    assert "All figures are of weights of 8 bits; the saved model has whole ones." in warnings(results)
    assert "All figures are of weights of 8 bits" in (output / "report.html").read_text(encoding="utf-8")
    neurons = json.loads((output / "edit.json").read_text(encoding="utf-8"))["neurons"]
    original, saved = load_file(folder / "model.safetensors"), load_file(output / "model" / "model.safetensors")
    for _, module, index in neurons:
        original[f"{module}.weight"][index] = 0
    assert all(torch.equal(saved[name], values) for name, values in original.items())


def test_an_edited_model_is_not_written_from_shortened_weights(
    saved_model: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--no-load"):
        apply(str(saved_model("llama")), tmp_path / "edit.json", tmp_path / "out", ApplySettings(quantize="8bit"))
    assert not (tmp_path / "out").exists()
