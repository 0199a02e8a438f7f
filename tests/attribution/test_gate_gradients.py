"""Gate gradients against the gradients of weights, which PyTorch computes by another way."""

import pytest
import torch

from crispr_lm import Edit
from crispr_lm.attribution import gate_gradients
from crispr_lm.attribution.bias_influence import frozen
from crispr_lm.attribution.gate_gradients import Gates, continuation_logits, option_scores
from crispr_lm.inference import kv_cache, layouts
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.neuron_sites import find_sites

from ..helpers import build_model

PROMPTS = [
    EncodedPrompt([5, 9, 13, 21, 8], [[7], [11, 3]]),
    EncodedPrompt([6, 30, 12], [[4, 4, 9], [2]]),
]


def loss(index, scores):
    return (index + 1) * (scores[0] - 0.5 * scores[1])


def by_weights(lm, kind):
    """Scaling a unit's weights scales its activation: so its gate's gradient is weight x gradient, summed."""
    for parameter in lm.model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    with torch.enable_grad():
        scores = option_scores(lm, PROMPTS)
        (sum(loss(index, of) for index, of in enumerate(scores)) / len(PROMPTS)).backward()
    found = []
    for site in find_sites(lm.model, kind):
        (layer,) = site.modules
        product = layer.weight * layer.weight.grad
        if layer.weight.shape[1 if kind == "linear" else 0] == site.width and type(layer).__name__ == "Conv1D":
            product = product.T
        of_site = product.sum(1) if kind == "linear" else product.sum(0)
        if kind == "linear" and layer.bias is not None:
            of_site = of_site + layer.bias * layer.bias.grad
        found.append(of_site)
    for parameter in lm.model.parameters():
        parameter.requires_grad_(False)
    return torch.cat(found).detach()


@pytest.mark.parametrize("kind", ["linear", "ffn"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5-relu", "bart"])
def test_a_gate_s_gradient_is_that_of_the_weights_it_scales(name, kind):
    lm = build_model(name)
    expected = by_weights(lm, kind)
    gates = Gates(lm, [kind])
    found = gates.gradient(torch.ones(gates.count), PROMPTS, loss)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def test_both_kinds_are_side_by_side_and_places_are_found_again():
    lm = build_model("llama")
    apart = [
        Gates(lm, [kind]).gradient(torch.ones(Gates(lm, [kind]).count), PROMPTS, loss) for kind in ("linear", "ffn")
    ]
    gates = Gates(lm, ["linear", "ffn"])
    assert torch.allclose(gates.gradient(torch.ones(gates.count), PROMPTS, loss), torch.cat(apart), atol=1e-6)
    places = torch.tensor([0, gates.count - 1, len(apart[0]) - 1, len(apart[0])])
    assert gates.indices(gates.neurons(places)).tolist() == places.tolist()
    assert [neuron.kind for neuron in gates.neurons(places)] == ["linear", "ffn", "linear", "ffn"]


def test_of_a_closed_gate_it_says_what_opening_it_a_little_would_do():
    """So it is taken with the edit in place, and of the edit's own neurons too."""
    lm = build_model("llama")
    gates = Gates(lm, ["ffn"])
    closed = torch.tensor([3, 17])
    openness = torch.ones(gates.count)
    openness[closed] = 0.0
    found = gates.gradient(openness, PROMPTS, loss)
    step = 1e-2

    def mean_loss(scale):
        one, other = gates.neurons(closed)
        with Edit.from_neurons(lm, [one], scale).applied(lm), Edit.from_neurons(lm, [other], 0.0).applied(lm):
            scores = prompt_scores(lm, PROMPTS)
        return float(sum(loss(index, of) for index, of in enumerate(scores)) / len(PROMPTS))

    slope = (mean_loss(step) - mean_loss(0.0)) / step
    assert float(found[closed[0]]) == pytest.approx(slope, rel=0.05, abs=1e-5)


@pytest.mark.parametrize("gates_are", [1.0, 0.4])
def test_a_beginning_that_is_read_once_has_its_part_in_the_gradient(lm, gates_are, monkeypatch):
    alike = [EncodedPrompt([5, 9, 13, 21, 8], [[7], [11, 3]]), EncodedPrompt([5, 9, 13, 30, 12, 6], [[4, 4, 9], [2]])]
    behind = []
    monkeypatch.setattr(
        gate_gradients, "behind_beginning", lambda *given: behind.append(given[2]) or layouts.behind_beginning(*given)
    )
    gates = Gates(lm, ["linear", "ffn"])
    openness = torch.full((gates.count,), gates_are)
    apart = gates.gradient(openness, alike, loss)
    assert not behind
    monkeypatch.setattr(kv_cache, "FEWEST_SAVED", 1)
    shared = gates.gradient(openness, alike, loss)
    takes = layouts.capabilities_of(lm)
    assert behind == [3] * (takes.branches and takes.cache)
    assert float((shared - apart).abs().max()) <= 1e-5 * float(apart.abs().max())


def test_it_does_not_depend_on_batches_and_leaves_no_hook(llama):
    gates = Gates(llama, ["linear"])
    before = prompt_scores(llama, PROMPTS)
    one, both = (gates.gradient(torch.ones(gates.count), PROMPTS, loss, batch_size=size) for size in (1, 2))
    assert torch.allclose(one, both, atol=1e-5 * float(both.abs().max()))
    assert torch.equal(prompt_scores(llama, PROMPTS), before)


def test_logits_along_a_continuation_are_those_that_score_it(llama):
    prompts = [EncodedPrompt(prompt.prompt_ids, prompt.option_ids[:1]) for prompt in PROMPTS]
    with frozen(llama.model):
        logits = continuation_logits(llama, prompts)
    for prompt, of_prompt, score in zip(prompts, logits, prompt_scores(llama, prompts), strict=True):
        tokens = torch.tensor(prompt.option_ids[0])
        assert float(of_prompt.log_softmax(1)[torch.arange(len(tokens)), tokens].sum()) == pytest.approx(
            float(score[0]), abs=1e-4
        )
