"""Scores with the settings of a job."""

import torch

from crispr_lm import SearchOptions, Task, score_neurons
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.attribution.task_scores import score_tasks
from crispr_lm.runtime.progress import SilentProgress

from ..helpers import build_model
from .test_bias_influence import EXAMPLES, INSTRUCTIONS


def test_the_confusion_weight_can_be_left_out():
    lm = build_model("llama")
    task = Task("task", tuple(EXAMPLES), tuple(INSTRUCTIONS[:1]))
    found = {
        weight: score_tasks(lm, [(task, EXAMPLES)], SearchOptions(confusion_weight=weight), SilentProgress())
        for weight in (True, False)
    }
    expected = score_neurons(lm, EXAMPLES, INSTRUCTIONS[:1], BiasInfluence(confusion_weight=False))
    assert [found[weight].origin["confusion_weight"] for weight in found] == [True, False]
    for name, values in expected.values.items():
        assert torch.allclose(found[False].values[name], values)
    assert any(not torch.allclose(found[True].values[name], values) for name, values in expected.values.items())
