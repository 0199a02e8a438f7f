"""Which tokens count in what is made of them; worked out by hand."""

import pytest
import torch
from torch import nn

from crispr_lm.attribution.activation_gradients import ActivationGradients
from crispr_lm.inference.packing import Stream
from crispr_lm.model.hooks import Seen
from crispr_lm.model.neuron_sites import NeuronSite

TOKENS, APPENDED, UNITS = 3, 2, 2


def largest_of(activation, *, tokens=None, token_count=0):
    """Maxima of activation x gradient, both of them the same, in a pass of one prompt of three tokens."""
    stream = Stream((1, TOKENS), rows=torch.tensor([0]), counted=torch.ones(1, TOKENS, dtype=torch.bool))
    relevance = ActivationGradients([stream], [1], "max", alone=True)
    site = NeuronSite("layer", (nn.Linear(UNITS, UNITS),), "ffn", "input", UNITS, ())
    seen = relevance.see(Seen(site, activation, tokens=tokens, token_count=token_count))
    return relevance.backward((seen * activation).sum(), keep_graph=False)[site].tolist()


@pytest.mark.parametrize("turned", [False, True])
def test_tokens_that_a_model_appends_by_itself_do_not_count_in_a_prompt_alone(turned):
    activation = torch.zeros(TOKENS + APPENDED, UNITS)
    activation[1, 0], activation[2, 1] = 2.0, 3.0
    activation[TOKENS:] = 10.0
    shaped = activation[:, None] if turned else activation[None]
    assert largest_of(shaped) == [[4.0, 9.0]]


@pytest.mark.parametrize("shape", [(TOKENS + APPENDED, UNITS), (1, TOKENS + APPENDED, UNITS)])
def test_of_an_expert_s_tokens_all_count_however_many_there_are(shape):
    """It is given them in an order of its own, a token perhaps more than once."""
    activation = torch.zeros(TOKENS + APPENDED, UNITS)
    activation[-1] = 10.0
    activation = activation.reshape(shape)
    assert largest_of(activation, tokens=torch.tensor([0, 1, 2, 0, 1]), token_count=TOKENS) == [[100.0, 100.0]]


def test_tokens_of_several_rows_on_one_line_belong_to_their_prompts():
    """Some layers are given (rows x tokens, width); a token that does not count may be anywhere."""
    counted = torch.tensor([[True, True, False], [False, True, True]])
    relevance = ActivationGradients([Stream((2, TOKENS), rows=torch.tensor([0, 1]), counted=counted)], [1, 1], "max")
    activation = torch.tensor([[1.0, 0], [0, 2], [9, 9], [8, 8], [3, 0], [0, 4]])
    site = NeuronSite("layer", (nn.Linear(UNITS, UNITS),), "ffn", "input", UNITS, ())
    seen = relevance.see(Seen(site, activation))
    scores = (seen * activation).reshape(2, TOKENS, UNITS).sum(dim=(1, 2))
    found = relevance.backward(scores.sum(), keep_graph=False)[site]
    assert found.tolist() == [[1.0, 4.0], [9.0, 16.0]]


@pytest.mark.parametrize(("token_aggregation", "expected"), [("max", [[4.0], [16.0]]), ("mean", [[2.5], [12.5]])])
def test_an_expert_s_tokens_are_aggregated_by_prompt(token_aggregation, expected):
    """It is given tokens of both prompts, some that do not count among them; and a second time further ones."""
    counted = torch.tensor([[True, True, False], [True, True, False]])
    stream = Stream((2, TOKENS), rows=torch.tensor([0, 1]), counted=counted)
    relevance = ActivationGradients([stream], [1, 1], token_aggregation)
    site = NeuronSite("layer", (nn.Linear(1, 1),), "ffn", "input", 1, ())
    first, second = torch.tensor([[1.0], [7.0], [4.0]]), torch.tensor([[2.0], [3.0]])
    given = relevance.see(Seen(site, first, tokens=torch.tensor([0, 2, 3]), token_count=2 * TOKENS))
    again = relevance.see(Seen(site, second, tokens=torch.tensor([1, 4]), token_count=2 * TOKENS))
    scores = torch.stack(
        [(given[:2] * first[:2]).sum() + (again[:1] * second[:1]).sum(), (given[2:] * first[2:]).sum()]
    )
    scores = scores + torch.stack([torch.zeros(()), (again[1:] * second[1:]).sum()])
    assert relevance.backward(scores.sum(), keep_graph=False)[site].tolist() == expected
