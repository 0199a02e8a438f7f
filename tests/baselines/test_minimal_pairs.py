"""Activation differences, steering and integrated gradients against one unpadded sequence at a time."""

import copy

import pytest
import torch

from crispr_lm.baselines import NotRunError
from crispr_lm.baselines import integrated_gradients as integrated
from crispr_lm.baselines.minimal_pairs import activation_differences, minimal_pairs
from crispr_lm.baselines.residual import Steering, blocks, changing
from crispr_lm.baselines.steering import COEFFICIENTS, mean_difference, steering
from crispr_lm.inference.prompts import EncodedPrompt, encode
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.search.neuron_count import measure, validation_part

from ..helpers import DOWN_PROJECTIONS, INSTRUCTIONS
from ..reference import Reference
from .questions import TASK
from .test_controls import down_projection_inputs, highest, removed

BOTH = pytest.mark.parametrize("architecture", ["llama", "t5-gated"])


def pairs(fit):
    """(prompt, tokens of ŷ, tokens of y) of every fit example under every instruction."""
    reference = Reference(fit.lm)
    for instruction in INSTRUCTIONS:
        for example in fit.parts.attribution:
            encoded = encode(fit.lm, example, instruction)
            scores = reference.prompt_scores(encoded.prompt_ids, encoded.option_ids)
            wrong = [index for index in range(len(scores)) if index != example.answer]
            biased = max(wrong, key=lambda index: scores[index])
            yield encoded.prompt_ids, encoded.option_ids[biased], encoded.option_ids[example.answer]


@BOTH
def test_activation_differences(make_fit, architecture):
    fit = make_fit(architecture)
    sums = dict.fromkeys(DOWN_PROJECTIONS[architecture], 0)
    every = list(pairs(fit))
    for prompt, biased, golden in every:
        for answer, sign in ((biased, 1), (golden, -1)):
            inputs = down_projection_inputs(fit.lm, prompt, answer)
            for name in sums:
                # What the encoder reads does not depend on the answer.
                own = inputs[name] if name.startswith("encoder.") else inputs[name][-len(answer) :]
                sums[name] = sums[name] + sign * own.mean(dim=0) / len(every)
    found = activation_differences(fit, "ffn")
    for name, expected in sums.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
        assert name.startswith("encoder.") == bool((found[name].abs() < 1e-6).all())
    assert removed(minimal_pairs(fit, 0)) == highest(sums, 5)


@BOTH
def test_steering_adds_exactly_the_vector_at_every_position(make_fit, architecture):
    lm = make_fit(architecture).lm
    vector = torch.linspace(-1, 1, 32)
    streams = []

    def keep(stream):
        streams.append(stream.clone())
        return stream

    def forward():
        if lm.is_encoder_decoder:
            lm.model(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[0, 8, 9]]))
        else:
            lm.model(input_ids=torch.tensor([[5, 6, 7]]))

    with torch.no_grad():
        with changing(blocks(lm)[0], keep):
            forward()
        with Steering(0, vector).applied(lm), changing(blocks(lm)[0], keep):
            forward()
    assert torch.equal(streams[1], streams[0] + vector)


@BOTH
def test_the_steering_direction_is_the_mean_difference_of_hidden_states(make_fit, architecture):
    fit = make_fit(architecture)
    total, every = 0, list(pairs(fit))
    with torch.no_grad():
        for prompt, biased, golden in every:
            for answer, sign in ((golden, 1), (biased, -1)):
                if fit.lm.is_encoder_decoder:
                    decoder = torch.tensor([[0, *answer]])
                    output = fit.lm.model(
                        input_ids=torch.tensor([prompt]), decoder_input_ids=decoder, output_hidden_states=True
                    )
                    states = output.decoder_hidden_states[1]
                else:
                    states = fit.lm.model(torch.tensor([prompt + answer]), output_hidden_states=True).hidden_states[1]
                total = total + sign * states[0, -len(answer) :].mean(dim=0) / len(every)
    torch.testing.assert_close(mean_difference(fit, 0), total, rtol=1e-4, atol=1e-5)


def test_the_steering_coefficient_is_the_best_within_the_limit_on_the_choose_part(make_fit):
    fit = make_fit("llama", max_accuracy_loss=1.0)
    treatment = steering(fit, 0)
    direction = mean_difference(fit, 0)
    on = validation_part(fit.lm, "waiting", fit.parts.validation, TASK.instructions, 0)
    accuracies = []
    for coefficient in (0.0, *COEFFICIENTS):
        with Steering(0, coefficient * direction).applied(fit.lm):
            accuracies.append(measure(fit.lm, [on], "auto")["waiting"]["accuracy_ambiguous"])
    assert [tried["accuracy_ambiguous"] for tried in treatment.details["tried"]] == accuracies
    assert treatment.recommended == (max(accuracies) > accuracies[0])
    if treatment.recommended:
        assert treatment.details["coefficient"] == COEFFICIENTS[accuracies.index(max(accuracies)) - 1]
    torch.testing.assert_close(treatment.steering.vector, treatment.details["coefficient"] * direction)


@BOTH
def test_integrated_gradients_are_the_integral_of_the_gradient_along_the_path_from_zero(make_fit, architecture):
    pytest.importorskip("captum")
    fit = make_fit(architecture)
    prompt, answer, _ = next(pairs(fit))
    name = DOWN_PROJECTIONS[architecture][-1]
    sites = [site for site in find_sites(fit.lm.model, "ffn") if site.name == name]
    found = integrated.relevances(fit.lm, EncodedPrompt(list(prompt), [list(answer)]), sites, steps=32)[name]

    reference = Reference(copy.copy(fit.lm))
    module = reference.model.get_submodule(name)
    kept, scale, leaf = [], [1.0], []

    def replace(_module, arguments):
        kept.append(arguments[0].detach())
        leaf[:] = [(scale[0] * kept[0]).requires_grad_(True)]
        return (leaf[0],)

    handle = module.register_forward_pre_hook(replace)
    total, points = 0, 200
    for point in range(points):
        scale[0] = (point + 0.5) / points  # the midpoint rule, another one than the library's
        if not kept:
            scale[0] = 1.0
            reference.score(prompt, answer)
            scale[0] = 0.5 / points
        total = total + torch.autograd.grad(reference.score(prompt, answer), leaf[0])[0] / points
    handle.remove()
    expected = (total * kept[0])[0].amax(dim=0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@BOTH
@pytest.mark.parametrize("tokens", ["max", "mean"])
def test_integrated_gradients_take_the_neurons_of_highest_influence(make_fit, architecture, tokens):
    pytest.importorskip("captum")
    fit = make_fit(
        architecture, integration_prompts=2, integration_steps=24, skill_weight=0.5, token_aggregation=tokens
    )
    reference, names = Reference(fit.lm), DOWN_PROJECTIONS[architecture]
    every = list(pairs(fit))
    totals = dict.fromkeys(names, 0)
    for prompt, biased, golden in (every[0], every[len(every) // 2]):
        confusion = float(reference.score(prompt, biased).detach().exp())
        for name in names:
            of_biased, of_golden = (riemann(reference, name, prompt, answer, tokens) for answer in (biased, golden))
            totals[name] = totals[name] + confusion * (of_biased - 0.5 * of_golden.clamp(min=0))
    assert removed(integrated.integrated_gradients(fit, 0)) == highest(totals, 5)


def riemann(reference, name, prompt, answer, tokens, points=64):
    """Max (or mean) over tokens of h · the mean gradient at points between 0 and h, (units,); by the midpoint rule."""
    module, kept, total = reference.model.get_submodule(name), [], 0
    with module.register_forward_pre_hook(lambda _module, arguments: kept.append(arguments[0].detach())):
        reference.score(prompt, answer)
    for point in range(points):
        leaf = ((point + 0.5) / points * kept[0]).requires_grad_(True)
        with module.register_forward_pre_hook(lambda *_, leaf=leaf: (leaf,)):
            total = total + torch.autograd.grad(reference.score(prompt, answer), leaf)[0] / points
    of_tokens = (total * kept[0])[0]
    return of_tokens.amax(dim=0) if tokens == "max" else of_tokens.mean(dim=0)


def test_without_captum_the_method_says_what_is_missing(make_fit, monkeypatch):
    monkeypatch.setattr(integrated.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(NotRunError, match=r"crispr-lm\[benchmark\]"):
        integrated.integrated_gradients(make_fit("llama"), 0)


def test_prompts_are_taken_at_equal_distances(make_fit):
    assert integrated.some(list(range(10)), 3) == [0, 3, 6]
    assert integrated.some(list(range(2)), 3) == [0, 1]
