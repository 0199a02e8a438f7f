"""The examples of docs/extend.md run as printed, and do what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import crispr_lm
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.search.options import search_parts
from crispr_lm.tasks import KINDS

from .helpers import build_model
from .runtime.test_plugins import _as_before

__all__ = ["_as_before"]

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")


def example(title):
    """The Python under a heading, and the table before it, if there is one."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return code, re.findall(r"```csv\n(.*?)```", section, flags=re.DOTALL)


def test_the_own_metric(saved_model):
    code, _ = example("An own metric")
    names = {}
    exec(code.replace('"builtin:smollm2"', repr(str(saved_model("llama")))), names)
    tables = [table.numpy() for table in names["found"].option_scores]
    assert len(tables) == 2
    assert names["found"]["first_share"] == pytest.approx(np.mean([table.argmax(axis=1) == 0 for table in tables]))


def test_the_own_ranking_is_tried_by_a_search(saved_model):
    exec(example("An own ranking")[0], {})
    lm, task = crispr_lm.load_model(saved_model("llama"), device="cpu"), crispr_lm.load_task("builtin:everyday", "1")
    limits = crispr_lm.Limits(kl=9.0, accuracy_loss=1.0, overabstention=1.0, neurons=4, fact_loss=1.0, spillover=1.0)
    options = crispr_lm.SearchOptions(rounds=0, examples=4, validation_examples=8, neutral_prompts=2)
    found = crispr_lm.search_edit(lm, task, limits, options)
    (trial,) = [trial for trial in found.trials if trial.recipe.get("ranking") == "outliers"]
    scores = crispr_lm.score_neurons(lm, search_parts(task, options).attribution, task.instructions[:1])
    above = {name: values - values.median() for name, values in scores.values.items()}
    best = max(above, key=lambda name: above[name].max())
    assert trial.neurons[0] == crispr_lm.Neuron(best, int(above[best].argmax()), "linear")
    assert len(trial.neurons) == 4


def test_the_own_task(tmp_path, monkeypatch):
    code, (table,) = example("An own task")
    monkeypatch.chdir(tmp_path)
    Path("reviews.csv").write_text(table, encoding="utf-8")
    names = {}
    exec(code, names)
    task = names["task"]
    assert [(e.context, e.answer, e.template, e.source) for e in task.examples] == [
        ("A film without a single idea.", 0, "one", "reviews.csv:2"),
        ("I laughed for two hours.", 1, "two", "reviews.csv:3"),
    ]
    assert task.family == "classification"
    assert KINDS["reviews"].title == "Reviews"
    Path("reviews.csv").write_text(table + "More.,three,maybe\n", encoding="utf-8")
    with pytest.raises(crispr_lm.InputError, match=r"reviews\.csv:4: column 'good' is 'maybe'"):
        crispr_lm.load_task("reviews:reviews.csv")


class Block(nn.Module):
    """A feed-forward block whose layers have names of their own."""

    def __init__(self, size, width):
        super().__init__()
        self.grow, self.shrink = nn.Linear(size, width), nn.Linear(width, size)

    def forward(self, hidden):
        return self.shrink(torch.tanh(self.grow(hidden)))


def test_the_own_architecture():
    lm = build_model("llama")
    torch.manual_seed(0)
    for layer in lm.model.model.layers:
        layer.mlp = Block(32, 40)
    with pytest.raises(crispr_lm.InputError, match="no 'ffn' neurons found"):
        find_sites(lm.model, "ffn")
    names = {"model": lm.model, "tokenizer": lm.tokenizer}
    exec(example("An own architecture")[0], names)
    assert {name: len(values) for name, values in names["scores"].values.items()} == {
        "model.layers.0.mlp.shrink": 40,
        "model.layers.1.mlp.shrink": 40,
    }
    for neuron in names["edit"].neurons:  # eliminated: the last layer reads nothing of it
        weight = lm.model.get_submodule(neuron.module).weight
        assert not weight[:, neuron.index].any()
        assert weight.any()
