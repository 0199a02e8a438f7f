"""Probabilities along an edit and activations on a prompt, against plain forward passes."""

import pytest
import torch

from crispr_lm import Edit, InputError, Neuron, option_scores
from crispr_lm.edits.neuron_activity import ANSWER_BEGINS, firing, option_probabilities
from crispr_lm.inference.prompts import encode_text

from ..helpers import DOWN_PROJECTIONS, EXAMPLES, INSTRUCTIONS, build_model

TEXT = "Anna met Omar at the bus stop."


def test_probabilities_are_shares_of_the_options_mean_over_instructions(llama):
    edit = Edit.from_neurons(llama, [Neuron(DOWN_PROJECTIONS["llama"][1], index, "ffn") for index in range(6)])
    given = option_probabilities(llama, EXAMPLES[0], INSTRUCTIONS, edit.first(4))
    with Edit.from_neurons(llama, edit.neurons[:4]).applied(llama):
        scores = [option_scores(llama, EXAMPLES[:1], instruction)[0].exp() for instruction in INSTRUCTIONS]
    assert given == pytest.approx(((scores[0] / scores[0].sum() + scores[1] / scores[1].sum()) / 2).tolist(), rel=1e-5)
    original = option_probabilities(llama, EXAMPLES[0], INSTRUCTIONS)
    assert option_probabilities(llama, EXAMPLES[0], INSTRUCTIONS, edit.first(0)) == original != given
    with pytest.raises(InputError, match="no instruction"):
        option_probabilities(llama, EXAMPLES[0], [])


def test_the_first_neurons_of_an_edit_are_an_edit_of_the_same_model(llama):
    edit = Edit.from_neurons(llama, [Neuron(DOWN_PROJECTIONS["llama"][1], index, "ffn") for index in range(3)])
    edit.first(2).check(llama)
    assert edit.first(2).neurons == edit.neurons[:2]
    for count in (-1, 4):
        with pytest.raises(InputError, match="has 3 neurons"):
            edit.first(count)


@pytest.mark.parametrize("kind", ["ffn", "linear"])
def test_activations_are_those_of_a_plain_pass(llama, kind):
    module = DOWN_PROJECTIONS["llama"][1]
    neurons = [Neuron(module, index, kind) for index in (7, 2)]
    seen = {}
    layer = llama.model.get_submodule(module)
    hook = layer.register_forward_hook(lambda _, given, out: seen.update(ffn=given[0][0], linear=out[0]))
    ids = encode_text(llama, TEXT)
    llama.model(torch.tensor([ids]))
    hook.remove()
    found = firing(llama, TEXT, neurons)
    torch.testing.assert_close(found.values, seen[kind][:, [7, 2]].T)
    assert found.neurons == tuple(neurons)
    assert "".join(found.tokens) == llama.tokenizer.decode(ids)


@pytest.mark.parametrize("architecture", ["t5-gated", "bart"])
def test_encoder_and_decoder_see_tokens_of_their_own(architecture):
    lm = build_model(architecture)
    encoder, decoder = (DOWN_PROJECTIONS[architecture][place] for place in (0, -1))
    found = firing(lm, TEXT, [Neuron(encoder, 1, "ffn"), Neuron(decoder, 1, "ffn")])
    length = len(encode_text(lm, TEXT))
    assert len(found.tokens) == length + 1
    assert found.tokens[-1] == ANSWER_BEGINS
    seen = torch.isfinite(found.values).int().tolist()
    assert seen == [[1] * length + [0], [0] * length + [1]]


def test_words_that_do_not_fit_are_refused(llama):
    neurons = [Neuron(DOWN_PROJECTIONS["llama"][1], 1, "ffn")]
    with pytest.raises(InputError, match="reads at most 512"):
        firing(llama, "Who cooks? " * 300, neurons)
