"""A trained adapter: it learns, it is taken off again without a trace, and its price is counted."""

import importlib.util

import pytest
import torch

from crispr_lm import option_scores
from crispr_lm.baselines import NotRunError
from crispr_lm.baselines.lora import EPOCHS, lora
from crispr_lm.inference.passes import BACKWARD, counted_passes

from ..helpers import assert_same_weights, snapshot


def right_answers(fit):
    """Mean log-probability of the right option among the options, of the examples that are trained on."""
    examples = fit.parts.attribution
    scores = option_scores(fit.lm, examples, fit.instructions[0]).log_softmax(dim=1)
    return float(scores.gather(1, torch.tensor([[example.answer] for example in examples])).mean())


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_an_adapter_learns_and_is_taken_off_again(make_fit, architecture):
    fit = make_fit(architecture)
    fit.lm.model.lm_head.weight.requires_grad_(True)
    trainable = [parameter.requires_grad for parameter in fit.lm.model.parameters()]
    weights, names = snapshot(fit.lm.model), [name for name, _ in fit.lm.model.named_modules()]
    before = right_answers(fit)
    state = torch.get_rng_state()
    treatment = lora(fit, 0)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers depend on it
    assert treatment.changes_model
    with treatment.applied(fit.lm):
        assert right_answers(fit) > before
    assert right_answers(fit) == before
    assert [parameter.requires_grad for parameter in fit.lm.model.parameters()] == trainable
    assert [name for name, _ in fit.lm.model.named_modules()] == names
    assert not hasattr(fit.lm.model, "peft_config")
    assert_same_weights(fit.lm.model, weights)
    assert 1 <= treatment.details["epoch"] <= EPOCHS
    assert len(treatment.details["tried"]) == 1 + EPOCHS


def test_its_price_is_that_of_training_and_of_choosing_the_epoch(make_fit):
    fit = make_fit("llama")
    with counted_passes(fit.lm) as passes:
        lora(fit, 0)
    trained, tried = len(fit.parts.attribution), len(fit.parts.validation)
    assert passes.count >= EPOCHS * (1 + BACKWARD) * trained + (1 + EPOCHS) * tried


def test_without_its_package_or_on_short_weights_it_is_not_run(make_fit, monkeypatch):
    fit = make_fit("llama")
    fit.lm.quantized = True
    with pytest.raises(NotRunError, match="--quantize none"):
        lora(fit, 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(NotRunError, match=r"crispr-lm\[lora\]"):
        lora(fit, 0)
