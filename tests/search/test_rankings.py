"""Rankings on small made-up effects, where it can be said by hand which neuron is the right one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crispr_lm import InputError
from crispr_lm.attribution.effects import Effects
from crispr_lm.attribution.importance import Importance
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.rankings import RANKINGS, Evidence, Recipe, changed, ranked

WIDTHS = {"first": 4, "second": 4}
NEURONS = 8
NOISE = 0.05


def effects_of(values, contrasts, ambiguous, abstaining, templates=None):
    return Effects(
        "ffn",
        WIDTHS,
        np.asarray(values, dtype=np.float32),
        np.asarray(contrasts, dtype=np.float32),
        np.asarray(ambiguous),
        np.asarray(abstaining),
        np.arange(len(values)) if templates is None else np.asarray(templates),
    )


def evidence_of(effects, importance=None, of_tasks=()):
    """What rankings are computed from; the scores of each condition and way of aggregating tokens are others."""

    def scores(attribute_on, token_aggregation):
        places = {module: torch.arange(float(width)) for module, width in WIDTHS.items()}
        turned = {module: values.flip(0) for module, values in places.items()}
        first = (attribute_on, token_aggregation) == ("both", "max")
        return NeuronScores(places if first else turned if token_aggregation == "max" else {}, "ffn")

    harm = np.zeros(NEURONS) if importance is None else np.asarray(importance, dtype=np.float64)
    of_neurons = Importance(np.zeros(NEURONS), harm)
    return Evidence(scores, {"ffn": effects}, {"ffn": [of_neurons]}, of_tasks=[{"ffn": of} for of in of_tasks])


def planted(seed=0, examples=40, margin=-2.0):
    """Half ambiguous, half disambiguated; neuron 1 suppresses "unknown" in ambiguous ones only, 2 everywhere."""
    generator = np.random.default_rng(seed)
    ambiguous = np.arange(examples) % 2 == 0
    values = generator.normal(0, NOISE, (examples, 2, NEURONS))
    contrasts = np.empty((examples, 2))
    # Ambiguous: y is unknown, contrasts s(u) - s(person). Disambiguated: s(y) - s(u), s(y) - s(other).
    contrasts[ambiguous] = margin
    contrasts[~ambiguous] = [-margin, 0.0]
    values[ambiguous, :, 1] -= 1.0
    values[ambiguous, :, 2] -= 1.2
    values[~ambiguous, 0, 2] += 1.2
    return effects_of(values, contrasts, ambiguous, np.where(ambiguous, -1, 0))


def columns(effects, neurons):
    return effects.indices(neurons)


def test_contrast_is_the_formula_written_out():
    generator = np.random.default_rng(3)
    examples = 6
    values = generator.normal(size=(examples, 2, NEURONS)).astype(np.float32)
    contrasts = generator.normal(size=(examples, 2)).astype(np.float32)
    ambiguous = np.array([True, True, False, False, False, True])
    importance = generator.random(NEURONS)
    effects = effects_of(values, contrasts, ambiguous, np.where(ambiguous, -1, 0))
    recipe = Recipe("ffn", NEURONS, skill_weight=0.7, protection=2.0, scale=0.25)
    gains = []
    for neuron in range(NEURONS):
        bias = np.mean([values[e, contrasts[e].argmin(), neuron] for e in np.flatnonzero(ambiguous)])
        skill = np.mean([values[e, :, neuron].sum() for e in np.flatnonzero(~ambiguous)])
        gains.append((0.25 - 1) * (bias + 0.7 * skill) - 2.0 * 0.75**2 * importance[neuron] / 2)
    order = columns(effects, ranked("contrast", evidence_of(effects, importance), recipe))
    assert order == np.argsort(-np.array(gains)).tolist()


@pytest.mark.parametrize("name", ["contrast", "pursuit"])
def test_the_neuron_that_suppresses_unknown_only_where_it_is_right_comes_first(name):
    effects = planted()
    assert columns(effects, ranked(name, evidence_of(effects), Recipe("ffn", 1, skill_weight=1.0))) == [1]


@pytest.mark.parametrize("name", ["contrast", "pursuit"])
def test_without_skill_weight_the_neuron_that_suppresses_it_everywhere_comes_first(name):
    effects = planted()
    assert columns(effects, ranked(name, evidence_of(effects), Recipe("ffn", 1, skill_weight=0.0))) == [2]


@pytest.mark.parametrize("name", ["contrast", "pursuit"])
def test_what_one_group_of_ordinary_answers_hangs_on_is_not_hidden_by_another(name):
    free = evidence_of(planted())
    (first,) = ranked(name, free, Recipe("ffn", 1, protection=5.0))
    harmed = np.zeros(NEURONS)
    harmed[free.effects["ffn"].indices([first])] = 10.0
    groups = [Importance(np.zeros(NEURONS), harm) for harm in (np.zeros(NEURONS), harmed)]
    guarded = replace(free, importance={"ffn": groups})
    assert first not in ranked(name, guarded, Recipe("ffn", 4, protection=5.0))


@pytest.mark.parametrize("name", ["contrast", "pursuit"])
def test_a_neuron_that_ordinary_answers_hang_on_is_spared(name):
    effects = planted()
    importance = np.zeros(NEURONS)
    importance[1] = 10.0
    evidence = evidence_of(effects, importance)
    assert 1 not in columns(effects, ranked(name, evidence, Recipe("ffn", 4, protection=5.0)))
    assert columns(effects, ranked(name, evidence, Recipe("ffn", 1, protection=0.0))) == [1]


def test_pursuit_spares_a_neuron_by_which_an_ordinary_choice_would_turn():
    effects = planted()
    values = np.zeros((2, 3, NEURONS))
    values[:, 0, 1] = 3.0  # without neuron 1 the first option loses 3 nats to the second

    def with_margin(margin):
        contrasts = np.array([[margin, 9.0, 9.0]] * 2)
        kept = effects_of(values, contrasts, [False, False], [-1, -1])
        return replace(evidence_of(effects), kept={"ffn": kept})

    assert columns(effects, ranked("pursuit", with_margin(0.5), Recipe("ffn", 1))) != [1]
    assert columns(effects, ranked("pursuit", with_margin(0.5), Recipe("ffn", 1, protection=0.0))) == [1]
    assert columns(effects, ranked("pursuit", with_margin(40.0), Recipe("ffn", 1))) == [1]  # far from turning
    values *= -1  # the choice would be the safer for it, which is no reason to take it
    free = ranked("pursuit", evidence_of(effects), Recipe("ffn", 4))
    assert ranked("pursuit", with_margin(0.5), Recipe("ffn", 4)) == free


def exact_divergence(effects, columns):
    """Mean over the disambiguated examples of KL(P || Q), P of y and the other person, Q without these neurons."""
    apart = effects.contrasts[~effects.ambiguous, 1].astype(np.float64)
    moved = apart - effects.values[~effects.ambiguous, 1][:, columns].astype(np.float64).sum(axis=1)
    before, after = (np.stack([1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))]) for x in (apart, moved))
    return (before * np.log(before / after)).sum(axis=0).mean()


def test_pursuit_spares_neurons_by_which_other_people_would_be_named():
    """Order is by what the answers beside "unknown" stray: exactly for one neuron, together for several."""
    generator = np.random.default_rng(5)
    values = np.zeros((40, 2, NEURONS))
    ambiguous = np.arange(40) % 2 == 0
    spread = generator.permutation(NEURONS) + 1.0
    values[~ambiguous, 1] = 0.02 * spread * generator.choice([-1, 1], (20, 1))  # on average next to nothing
    contrasts = np.where(ambiguous[:, None], [-2.0, -2.0], [3.0, 0.5])
    effects = effects_of(values, contrasts, ambiguous, np.where(ambiguous, -1, 0))
    alone = [exact_divergence(effects, [column]) for column in range(NEURONS)]
    recipe = Recipe("ffn", 2, skill_weight=0.0, protection=5.0)
    first = columns(effects, ranked("pursuit", evidence_of(effects), recipe))
    assert first == np.argsort(alone)[:2].tolist()

    # Another neuron undoes what these do: it comes next, though by itself it strays more.
    undoing = next(column for column in range(NEURONS) if column not in first)
    values[:, 1, undoing] = -values[:, 1, first].sum(axis=1)
    effects = effects_of(values, contrasts, ambiguous, np.where(ambiguous, -1, 0))
    together = {column: exact_divergence(effects, [*first, column]) for column in range(NEURONS) if column not in first}
    order = columns(effects, ranked("pursuit", evidence_of(effects), replace(recipe, neurons=3)))
    assert order == [*first, undoing] == [*first, min(together, key=together.get)]


def test_pursuit_prefers_a_neuron_that_leaves_alone_who_is_named():
    """However far ordinary answers may stray (ρ = 0)."""
    effects = planted()
    values = effects.values.copy()
    disambiguated = np.flatnonzero(~effects.ambiguous)
    values[disambiguated, 1, 1] += np.where(np.arange(len(disambiguated)) % 2, 4.0, -4.0)
    straying = effects_of(values, effects.contrasts, effects.ambiguous, effects.abstaining)
    for protection in (0.0, 5.0):
        recipe = Recipe("ffn", 1, skill_weight=1.0, protection=protection)
        assert columns(effects, ranked("pursuit", evidence_of(effects), recipe)) == [1]
        assert columns(straying, ranked("pursuit", evidence_of(straying), recipe)) != [1]
    recipe = Recipe("ffn", 1, skill_weight=0.1, protection=0.0)
    assert columns(straying, ranked("pursuit", evidence_of(straying), recipe)) == [2]


def test_pursuit_distrusts_an_effect_that_a_single_example_shows():
    effects = planted()
    values = effects.values.copy()
    values[0, :, 5] -= 60.0  # a mean larger than that of neuron 1
    loud = effects_of(values, effects.contrasts, effects.ambiguous, effects.abstaining)
    assert columns(loud, ranked("pursuit", evidence_of(loud), Recipe("ffn", 1))) == [1]
    assert columns(loud, ranked("contrast", evidence_of(loud), Recipe("ffn", 1))) == [5]


def test_pursuit_distrusts_an_effect_that_one_template_shows():
    """Neuron 5 helps more than neuron 1, but only in the examples of one template."""
    effects = planted()
    templates = np.repeat(np.arange(4), 10)
    values = effects.values.copy()
    values[(templates == 3) & effects.ambiguous, :, 5] -= 20.0
    of_template = effects_of(values, effects.contrasts, effects.ambiguous, effects.abstaining, templates)
    own_templates = effects_of(values, effects.contrasts, effects.ambiguous, effects.abstaining)
    recipe = Recipe("ffn", 1, protection=0.0)
    assert columns(of_template, ranked("pursuit", evidence_of(of_template), recipe)) == [1]
    assert columns(own_templates, ranked("pursuit", evidence_of(own_templates), recipe)) == [5]


def test_pursuit_turns_to_what_the_first_neurons_have_left_undone():
    """Neurons 0 and 1 (twins) help half of the ambiguous examples, neuron 6 a little less the other half."""
    examples = 40
    ambiguous = np.arange(examples) % 2 == 0
    one_half, other_half = ambiguous & (np.arange(examples) % 4 == 0), ambiguous & (np.arange(examples) % 4 == 2)
    values = np.zeros((examples, 2, NEURONS))
    values[one_half, :, 0:4] = -10.0
    values[other_half, :, 6] = -8.0
    contrasts = np.where(ambiguous[:, None], -4.0, 4.0).repeat(2, axis=1)
    effects = effects_of(values, contrasts, ambiguous, np.where(ambiguous, -1, 0))
    assert set(columns(effects, ranked("pursuit", evidence_of(effects), Recipe("ffn", 4)))) >= {6}
    assert 6 not in columns(effects, ranked("contrast", evidence_of(effects), Recipe("ffn", 4)))


def test_a_task_without_abstention_is_led_to_its_right_answers():
    generator = np.random.default_rng(1)
    values = generator.normal(0, NOISE, (20, 1, NEURONS))
    values[:, 0, 3] -= 1.0
    effects = effects_of(values, np.full((20, 1), -1.0), np.full(20, True), np.full(20, -1))
    assert columns(effects, ranked("pursuit", evidence_of(effects), Recipe("ffn", 1))) == [3]


def test_published_is_the_order_of_the_scores():
    effects = planted()
    evidence = evidence_of(effects)
    assert ranked("published", evidence, Recipe("ffn", 5)) == evidence.published("both", "max").top(5)
    other = Recipe("ffn", 5, attribute_on="disambiguated")
    assert ranked("published", evidence, other) == evidence.published("disambiguated", "max").top(5)
    assert ranked("published", evidence, other) != ranked("published", evidence, Recipe("ffn", 5))
    assert ranked("published", evidence, Recipe("ffn", 5, token_aggregation="sum")) == []


@pytest.mark.parametrize("name", list(RANKINGS))
def test_a_range_of_layers_and_a_number_are_kept(name):
    effects = planted()
    for count in (0, 1, 3, 20):
        neurons = ranked(name, evidence_of(effects), Recipe("ffn", count, layers="second half"))
        assert {neuron.module for neuron in neurons} <= {"second"}
        assert len(neurons) == len(set(neurons)) == min(count, 4)
    assert len(ranked(name, evidence_of(effects), Recipe("ffn", 20))) == NEURONS


def test_united_rankings_take_turns():
    first, second = planted(), planted()
    values = second.values.copy()
    values[:, :, [1, 6]] = values[:, :, [6, 1]]  # in the second task neuron 6 is the one
    second = effects_of(values, second.contrasts, second.ambiguous, second.abstaining)
    evidence = evidence_of(Effects.joined([first, second]), of_tasks=[first, second])
    assert columns(first, ranked("pursuit", evidence, Recipe("ffn", 2, united=True))) == [1, 6]


def test_an_unknown_ranking_is_an_input_error_with_a_hint():
    with pytest.raises(InputError, match="pursuit"):
        ranked("persuit", evidence_of(planted()), Recipe("ffn", 1))
    assert Neuron("first", 1, "ffn") in planted().neurons([1])


def test_pursuit_gives_back_what_harms_and_takes_another_in_its_stead():
    """Neuron 2, eliminated, makes the model abstain everywhere; neuron 1 does so only where that is right."""
    effects = planted()
    wrong = effects.neurons([2])
    effects.turn_round(wrong, 1.0)
    with_edit = Recipe("ffn", 0, skill_weight=3.0, eliminated=tuple(wrong), returned=1)
    order = ranked("pursuit", evidence_of(effects), with_edit)
    assert columns(effects, order) == [2, 1]
    assert columns(effects, changed(wrong, order)) == [1]
    assert ranked("pursuit", evidence_of(effects), replace(with_edit, returned=0)) == []
    assert 2 not in columns(effects, ranked("pursuit", evidence_of(effects), replace(with_edit, neurons=7, returned=0)))


def test_pursuit_keeps_what_helps():
    effects = planted()
    right = effects.neurons([1])
    effects.turn_round(right, 1.0)
    recipe = Recipe("ffn", 0, skill_weight=3.0, eliminated=tuple(right), returned=1)
    assert ranked("pursuit", evidence_of(effects), recipe) == []


def test_contrast_fitted_on_one_condition_does_not_heed_the_other():
    evidence = evidence_of(planted())
    on_both, ambiguous, disambiguated = (
        columns(evidence.effects["ffn"], ranked("contrast", evidence, Recipe("ffn", 8, attribute_on=attribute_on)))
        for attribute_on in ("both", "ambiguous", "disambiguated")
    )
    assert on_both[0] == 1
    assert ambiguous[:2] == [2, 1]  # the larger effect, whatever it costs in disambiguated examples
    assert disambiguated[-1] == 2
    assert disambiguated[0] not in (1, 2)


def test_an_edit_that_is_to_shrink_gives_back_what_is_missed_least():
    effects = planted()
    edit = effects.neurons([1, 2, 5])  # helps, does harm, does nothing
    effects.turn_round(edit, 1.0)
    recipe = Recipe("ffn", -3, skill_weight=9.0, eliminated=tuple(edit), returned=3)
    assert columns(effects, ranked("pursuit", evidence_of(effects), recipe)) == [2, 5, 1]
    fewer = replace(recipe, neurons=-1, returned=1)
    assert columns(effects, ranked("pursuit", evidence_of(effects), fewer)) == [2]
    more_than_there_are = replace(recipe, neurons=-9, returned=9)
    assert columns(effects, ranked("pursuit", evidence_of(effects), more_than_there_are)) == [2, 5, 1]


def test_effects_of_an_edit_s_neurons_are_those_of_giving_them_back():
    effects = planted()
    before = effects.values.copy()
    effects.turn_round(effects.neurons([3, 6]), 0.25)
    assert np.array_equal(effects.values[:, :, [3, 6]], -4 * before[:, :, [3, 6]])
    others = [0, 1, 2, 4, 5, 7]
    assert np.array_equal(effects.values[:, :, others], before[:, :, others])
