"""Controls remove as many neurons of the same kind as the search, each by its own rule, computed here a second time."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from crispr_lm import Neuron, score_neurons
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.baselines.published_ranking import golden_section_on_accuracy, highest_bias_influence
from crispr_lm.baselines.random_neurons import random_in_same_layers, random_neurons
from crispr_lm.baselines.rankings import biased_term, largest_activations, largest_weights, sign_flipped, skill_term
from crispr_lm.inference.prompts import encode
from crispr_lm.model.neuron_sites import find_sites

from ..helpers import DOWN_PROJECTIONS
from ..reference import Reference, influence
from .questions import TASK

REMOVED = [
    Neuron("model.layers.0.mlp.down_proj", 3, "ffn"),
    Neuron("model.layers.1.mlp.down_proj", 7, "ffn"),
    Neuron("model.layers.1.mlp.down_proj", 9, "ffn"),
    Neuron("model.layers.1.self_attn.q_proj", 2, "linear"),
]


def modules(neurons):
    return Counter((neuron.kind, neuron.module) for neuron in neurons)


def highest(values, count):
    """The `count` highest of module name to values, by loops."""
    ranked = [(float(value), name, index) for name, row in values.items() for index, value in enumerate(row)]
    return {(name, index) for _, name, index in sorted(ranked, reverse=True)[:count]}


def removed(treatment):
    return {(neuron.module, neuron.index) for neuron in treatment.edit.neurons}


def test_random_neurons_are_as_many_of_each_kind_and_differ_by_draw(make_fit):
    fit = make_fit("llama", REMOVED)
    draws = [random_neurons(fit, draw).edit.neurons for draw in range(3)]
    assert all(Counter(neuron.kind for neuron in draw) == {"ffn": 3, "linear": 1} for draw in draws)
    assert len({frozenset(draw) for draw in draws}) == 3
    assert random_neurons(fit, 1).edit.neurons == draws[1]


def test_random_neurons_come_from_everywhere_alike(make_fit):
    fit = make_fit("llama", REMOVED[:3])
    drawn = Counter(neuron.module for draw in range(200) for neuron in random_neurons(fit, draw).edit.neurons)
    # 600 neurons from two modules of 48 each: four standard deviations are 49.
    assert abs(drawn["model.layers.0.mlp.down_proj"] - 300) < 49


def test_random_in_the_same_layers_takes_as_many_from_each_module(make_fit):
    fit = make_fit("llama", REMOVED)
    draws = [random_in_same_layers(fit, draw).edit.neurons for draw in range(3)]
    assert all(modules(draw) == modules(REMOVED) for draw in draws)
    assert len({frozenset(draw) for draw in draws}) == 3


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_sign_flipped_takes_the_lowest(make_fit, architecture):
    fit = make_fit(architecture)
    scores = score_neurons(fit.lm, fit.parts.attribution, TASK.instructions, BiasInfluence("ffn"))
    lowest = highest({name: -values for name, values in scores.values.items()}, 5)
    assert removed(sign_flipped(fit, 0)) == lowest


@pytest.mark.parametrize("skill_weight", [0.5, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_the_published_ranking_takes_the_highest(make_fit, architecture, skill_weight):
    fit = make_fit(architecture, skill_weight=skill_weight)
    reference = Reference(fit.lm, DOWN_PROJECTIONS[architecture])
    relevances = reference.all_relevances(fit.parts.attribution, TASK.instructions, "ffn")
    assert removed(highest_bias_influence(fit, 0)) == highest(influence(relevances, skill_weight), 5)


def test_the_golden_section_takes_the_number_of_highest_accuracy(make_fit):
    fit = make_fit("llama", max_neurons=2)  # so few that all numbers are tried
    examples, instructions = TASK.examples[4:], TASK.instructions[:1]
    fit.parts = replace(fit.parts, task=replace(fit.parts.task, instructions=instructions))
    neurons = score_neurons(fit.lm, fit.parts.attribution, instructions, BiasInfluence("ffn")).top(2)
    reference, answers = Reference(fit.lm), []
    reference.prompt_scores = reference._prompt_scores  # not remembered: the model changes
    for count in range(3):
        for neuron in neurons[:count]:
            reference.model.get_submodule(neuron.module).weight.data[:, neuron.index] = 0
        answers.append([scores.index(max(scores)) for scores in reference.option_scores(examples, instructions[0])])
    assert answers[0] != answers[1]
    for count in (0, 1):  # what the model answers without so many neurons is made right
        validation = tuple(replace(one, answer=answer) for one, answer in zip(examples, answers[count], strict=True))
        fit.parts = replace(fit.parts, validation=validation)
        found = golden_section_on_accuracy(fit, 0)
        assert removed(found) == {(one.module, one.index) for one in neurons[:count]}
        assert found.recommended == (count > 0)


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_both_terms_by_themselves(make_fit, architecture):
    fit = make_fit(architecture)
    reference = Reference(fit.lm, DOWN_PROJECTIONS[architecture])
    relevances = reference.all_relevances(fit.parts.attribution, TASK.instructions, "ffn")
    names = list(relevances[0].of_biased)
    biased = {name: sum(one.of_biased[name] for one in relevances) for name in names}
    useful = {name: sum(one.of_golden[name].clamp(min=0) for one in relevances) for name in names}
    assert removed(biased_term(fit, 0)) == highest(biased, 5)
    assert removed(skill_term(fit, 0)) == highest(useful, 5)


def test_largest_weights_of_feed_forward_units(make_fit):
    fit = make_fit("llama")
    weights = dict(fit.lm.model.named_parameters())
    norms = {}
    for name in DOWN_PROJECTIONS["llama"]:
        columns = weights[f"{name}.weight"]
        norms[name] = [sum(float(value) ** 2 for value in columns[:, unit]) for unit in range(columns.shape[1])]
    assert removed(largest_weights(fit, 0)) == highest(norms, 5)


def test_largest_weights_of_linear_units_hold_the_bias(make_fit):
    fit = make_fit("gpt2", [Neuron("transformer.h.0.mlp.c_proj", unit, "linear") for unit in range(5)])
    norms = {}
    for site in find_sites(fit.lm.model, "linear"):
        weight, bias = site.module.weight.detach(), site.module.bias.detach()  # (inputs, outputs) in GPT-2
        norms[site.name] = [float(weight[:, unit].square().sum() + bias[unit] ** 2) for unit in range(site.width)]
    assert removed(largest_weights(fit, 0)) == highest(norms, 5)


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_largest_activations_over_all_tokens(make_fit, architecture):
    fit = make_fit(architecture)
    means = dict.fromkeys(DOWN_PROJECTIONS[architecture], 0)
    for instruction in TASK.instructions:
        for example in fit.parts.attribution:
            encoded = encode(fit.lm, example, instruction)
            inputs = down_projection_inputs(fit.lm, encoded.prompt_ids, encoded.option_ids[example.answer])
            for name in means:
                means[name] = means[name] + inputs[name].abs().mean(dim=0)
    assert removed(largest_activations(fit, 0)) == highest(means, 5)


def down_projection_inputs(lm, prompt, answer):
    """Module name to (tokens, units) while the model reads prompt and answer as one unpadded sequence."""
    found, handles = {}, []
    for name, module in lm.model.named_modules():
        if name.endswith((".down_proj", ".wo")):
            keep = lambda _module, arguments, name=name: found.update({name: arguments[0][0]})  # noqa: E731
            handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        if lm.is_encoder_decoder:
            start = lm.model.config.decoder_start_token_id
            lm.model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *answer]]))
        else:
            lm.model(input_ids=torch.tensor([prompt + answer]))
    for handle in handles:
        handle.remove()
    return found
