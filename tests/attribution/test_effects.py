"""First-order effects, checked by really scaling neurons a little and scoring again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crispr_lm import InputError
from crispr_lm.attribution.effects import Effects, measure_effects
from crispr_lm.attribution.importance import Importance, measure_importance
from crispr_lm.edits.edit import Edit
from crispr_lm.evaluation.kl_divergence import reference_distribution
from crispr_lm.inference.layouts import capabilities_of
from crispr_lm.inference.prompts import encode
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example

from ..helpers import EXAMPLES, build_mixture, build_model

STEP = 0.01


def prompts_of(lm, examples=EXAMPLES):
    return [encode(lm, example, "Answer the question.") for example in examples]


def scores_with(lm, prompts, neuron, scale):
    with Edit.from_neurons(lm, [neuron], scale).applied(lm):
        return prompt_scores(lm, prompts).double()


@pytest.mark.parametrize("kind", ["ffn", "linear"])
def test_an_effect_is_the_slope_of_the_contrast_when_the_neuron_is_scaled(lm, kind):
    assert_effects_are_slopes(lm, kind)


def test_an_effect_of_an_expert_s_neuron_is_that_slope_too():
    """Experts are given some of the tokens, of several prompts at once."""
    assert_effects_are_slopes(build_mixture(), "ffn")


def assert_effects_are_slopes(lm, kind):
    prompts = prompts_of(lm)
    effects = measure_effects(lm, EXAMPLES, prompts, (kind,))[kind]
    rounding = 0.03 * float(np.abs(effects.values).max())  # of scores in float32, and kinks of ReLUs
    strongest = np.argsort(-np.abs(effects.values).max(axis=(0, 1)))[:: max(1, effects.count // 6)][:6]
    for neuron, index in zip(effects.neurons(strongest), strongest, strict=True):
        up, down = (scores_with(lm, prompts, neuron, 1 + step) for step in (STEP, -STEP))
        slopes = (up - down) / (2 * STEP)
        for row, example in enumerate(EXAMPLES):
            wrong = [option for option in range(len(example.options)) if option != example.answer]
            expected = [float(slopes[row, example.answer] - slopes[row, option]) for option in wrong]
            assert effects.values[row, : len(wrong), index] == pytest.approx(expected, rel=0.03, abs=rounding)
            assert not effects.values[row, len(wrong) :, index].any()


def test_contrasts_are_differences_of_option_scores_and_missing_ones_are_infinite(llama):
    prompts = prompts_of(llama)
    effects = measure_effects(llama, EXAMPLES, prompts, ("ffn",))["ffn"]
    scores = prompt_scores(llama, prompts)
    for row, example in enumerate(EXAMPLES):
        wrong = [option for option in range(len(example.options)) if option != example.answer]
        expected = [float(scores[row, example.answer] - scores[row, option]) for option in wrong]
        assert effects.contrasts[row, : len(wrong)] == pytest.approx(expected, abs=1e-4)
        assert np.isposinf(effects.contrasts[row, len(wrong) :]).all()


def test_effects_do_not_depend_on_the_batch_nor_on_the_way_they_are_measured(lm):
    assert_effects_do_not_depend_on_the_way(lm)


def test_effects_of_experts_do_not_depend_on_it_either():
    assert_effects_do_not_depend_on_the_way(build_mixture())


def assert_effects_do_not_depend_on_the_way(lm):
    prompts = prompts_of(lm)
    together = measure_effects(lm, EXAMPLES, prompts, ("ffn", "linear"))
    one_by_one = measure_effects(lm, EXAMPLES, prompts, ("ffn", "linear"), batch_size=1)
    lm.capabilities = replace(capabilities_of(lm), tokens_by_shape=False)
    alone = measure_effects(lm, EXAMPLES, prompts, ("ffn", "linear"))
    for kind, effects in together.items():
        for other in (one_by_one[kind], alone[kind]):
            assert effects.values == pytest.approx(other.values, abs=2e-5)
            assert effects.contrasts == pytest.approx(other.contrasts, abs=1e-4)


def test_neurons_and_columns_are_the_same_both_ways(llama):
    effects = measure_effects(llama, EXAMPLES[:1], prompts_of(llama, EXAMPLES[:1]), ("ffn",))["ffn"]
    last = effects.count - 1
    assert effects.indices(effects.neurons([0, 17, last])) == [0, 17, last]
    assert {neuron.module for neuron in effects.neurons(range(effects.count))} == set(effects.widths)


def test_with_an_edit_in_place_the_neurons_left_are_measured(llama):
    prompts = prompts_of(llama)
    effects = measure_effects(llama, EXAMPLES, prompts, ("ffn",))["ffn"]
    removed = effects.neurons([3])
    with Edit.from_neurons(llama, removed).applied(llama):
        then = measure_effects(llama, EXAMPLES, prompts, ("ffn",))["ffn"]
        edited = prompt_scores(llama, prompts)
    assert not then.values[:, :, 3].any()
    first = float(edited[0, EXAMPLES[0].answer] - edited[0, 0])
    assert then.contrasts[0, 0] == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("kind", ["ffn", "linear"])
def test_turned_round_the_effects_of_an_edit_s_neurons_are_those_of_giving_them_back(lm, kind):
    prompts, scale = prompts_of(lm), 2**-6
    before = measure_effects(lm, EXAMPLES, prompts, (kind,))[kind]
    strongest = np.argsort(-np.abs(before.values).max(axis=(0, 1)))[:3].tolist()
    edit = before.neurons(strongest)

    def contrasts_with(neuron, of_neuron):
        others = Edit.from_neurons(lm, [other for other in edit if other != neuron], scale)
        with others.applied(lm), Edit.from_neurons(lm, [neuron], of_neuron).applied(lm):
            return measure_effects(lm, EXAMPLES, prompts, (kind,))[kind].contrasts.astype(np.float64)

    with Edit.from_neurons(lm, edit, scale).applied(lm):
        effects = measure_effects(lm, EXAMPLES, prompts, (kind,))[kind]
    there = np.isfinite(effects.contrasts)
    effects.turn_round(edit, scale)
    rounding = 0.03 * float(np.abs(effects.values).max())
    for neuron, index in zip(edit, strongest, strict=True):
        up, down = (contrasts_with(neuron, scale + step)[there] for step in (STEP, -STEP))
        given_back = (up - down) / (2 * STEP)
        assert np.abs(given_back).max() > 0
        # Scaling by σ changes a contrast by (σ − 1) times the effect: a neuron to be given back goes the other way.
        assert (0 - 1) * effects.values[:, :, index][there] == pytest.approx(given_back, rel=0.05, abs=rounding)


@pytest.mark.parametrize("edited", [False, True])
def test_importance_is_slope_and_squared_slope_of_the_original_s_continuation(llama, edited):
    reference = reference_distribution(llama, ["Tell me of the sea.", "What is bread?"], tokens=3)
    sites = measure_effects(llama, EXAMPLES[:1], prompts_of(llama, EXAMPLES[:1]), ("ffn",))["ffn"]
    there = sites.neurons([0, 5, 9]) if edited else []
    with Edit.from_neurons(llama, there, 0.0).applied(llama):
        importance = measure_importance(llama, reference.prompts, ("ffn",))["ffn"]
    index = int(np.argmax(importance.curvature))
    (neuron,) = sites.neurons([index])

    def scores(scale):
        with Edit.from_neurons(llama, there, 0.0).applied(llama):
            return scores_with(llama, reference.prompts, neuron, scale)[:, 0]

    slopes = (scores(1 + STEP) - scores(1 - STEP)) / (2 * STEP)
    tokens = torch.tensor([len(prompt.option_ids[0]) for prompt in reference.prompts])
    assert importance.curvature[index] == pytest.approx(float((slopes**2 / tokens).mean()), rel=0.05)
    assert importance.slope[index] == pytest.approx(float((slopes / tokens).mean()), rel=0.05)


def test_harm_is_the_divergence_to_second_order_beyond_the_original_s():
    original = Importance(np.array([0.5, 0.0]), np.array([1.0, 2.0]))
    edited = Importance(np.array([0.8, -0.1]), np.array([1.0, 4.0])).since(original)
    assert edited.harm(0.0) == pytest.approx([0.3 + 0.5, 2.0])  # what seems to help is not counted
    assert edited.harm(0.5) == pytest.approx([0.15 + 0.125, 0.5])
    assert original.since(original).slope.tolist() == [0.0, 0.0]


def test_conditions_and_the_abstaining_contrast_are_told():
    def example(condition, answer):
        return Example("c", "q", ("a", "b", "unknown"), answer, "t", condition=condition, unknown=2)

    def effects_of(examples, lm):
        return measure_effects(lm, examples, prompts_of(lm, examples), ("ffn",))["ffn"]

    examples = [example(AMBIGUOUS, 2), example(DISAMBIGUATED, 0), example(DISAMBIGUATED, 1)]
    effects = effects_of(examples, build_model("llama"))
    assert effects.ambiguous.tolist() == [True, False, False]
    assert effects.abstaining.tolist() == [-1, 1, 1]  # among (b, unknown) and (a, unknown)


def test_effects_survive_being_written_and_read(llama, tmp_path):
    effects = measure_effects(llama, EXAMPLES, prompts_of(llama), ("ffn",))["ffn"]
    effects.save(tmp_path / "effects.safetensors")
    read = Effects.load(tmp_path / "effects.safetensors")
    assert (read.kind, read.widths) == (effects.kind, effects.widths)
    for name in ("values", "contrasts", "ambiguous", "abstaining"):
        assert np.array_equal(getattr(read, name), getattr(effects, name))
    (tmp_path / "broken").write_bytes(b"no effects")
    with pytest.raises(InputError, match="effects"):
        Effects.load(tmp_path / "broken")


def test_joined_effects_hold_the_examples_of_both(llama):
    prompts = prompts_of(llama)
    first = measure_effects(llama, EXAMPLES[1:2], prompts[1:2], ("ffn",))["ffn"]  # two options
    second = measure_effects(llama, EXAMPLES[2:], prompts[2:], ("ffn",))["ffn"]  # up to four
    both = measure_effects(llama, EXAMPLES[1:], prompts[1:], ("ffn",))["ffn"]
    joined = Effects.joined([first, second])
    assert joined.values == pytest.approx(both.values, abs=2e-5)
    assert joined.contrasts == pytest.approx(both.contrasts, abs=1e-4)


def test_nothing_to_measure_is_an_input_error(llama):
    with pytest.raises(InputError, match="at least one"):
        measure_effects(llama, [], [], ("ffn",))
    with pytest.raises(InputError, match="at least one"):
        measure_importance(llama, [], ("ffn",))
