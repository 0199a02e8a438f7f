"""Figures, limits and the Pareto front, by brute force."""

import random
from dataclasses import replace

import pytest

from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.trial import Figures, Limits, Trial, best_within, figures_of, pareto_front


def trial(number, gain, loss, kl, neurons=1, complete=True, stage="search", overabstention=0.0):
    there = tuple(Neuron("m", index, "ffn") for index in range(neurons))
    figures = Figures(gain, loss, overabstention, kl)
    return Trial(
        number, stage, {"ranking": "pursuit"}, there, 0.25, figures, {"t": {"accuracy": 0.5}}, {"t": [0]}, complete
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_brute_force_says(seed):
    generator = random.Random(seed)
    values = [0.0, 0.1, 0.2, 0.3]
    trials = [
        trial(n, *(generator.choice(values) for _ in range(3)), neurons=generator.randint(1, 9)) for n in range(40)
    ]
    front = pareto_front(trials)

    def better_or_equal(one, other):
        return one.gain >= other.gain and one.loss <= other.loss and one.kl <= other.kl

    expected = {
        this.figures
        for this in trials
        if not any(better_or_equal(other.figures, this.figures) and other.figures != this.figures for other in trials)
    }
    assert {member.figures for member in front} == expected
    assert len(front) == len(expected)
    for member in front:
        equals = [other for other in trials if other.figures == member.figures]
        assert len(member.neurons) == min(len(other.neurons) for other in equals)
    gains = [member.figures.gain for member in front]
    assert gains == sorted(gains, reverse=True)


def test_trials_given_up_are_not_on_the_front():
    trials = [trial(0, 0.0, 0.0, 0.0), trial(1, 0.9, 0.0, 0.0, complete=False)]
    assert [member.number for member in pareto_front(trials)] == [0]


@pytest.mark.parametrize(
    ("costly", "limits"),
    [
        (trial(2, 0.9, 0.051, 0.0), Limits(accuracy_loss=0.05)),
        (trial(2, 0.9, 0.0, 0.11), Limits(kl=0.1)),
        (trial(2, 0.9, 0.0, 0.0, overabstention=0.3), Limits(overabstention=0.2)),
    ],
)
def test_what_exceeds_a_limit_is_never_the_best(costly, limits):
    trials = [trial(0, 0.0, 0.0, 0.0, neurons=0), trial(1, 0.2, 0.04, 0.09), costly]
    assert best_within(trials, limits).number == 1


def test_what_came_out_is_told_in_the_words_of_the_questions():
    parted = replace(trial(1, 0.25, 0.1, 0.02), metrics={"t": {"accuracy": 0.5, "accuracy_disambiguated": 0.5}})
    assert parted.outcome() == "ambiguous +0.250, disambiguated -0.100, unknown there +0.000, KL 0.020"
    assert trial(1, 0.25, 0.0, 0.02, complete=False).outcome() == "accuracy +0.250, KL 0.020, given up"
    assert replace(trial(1, 0, 0, 0.2), metrics={}).outcome() == "KL 0.200, too far from the original to ask anything"


def test_a_cost_of_exactly_the_limit_is_allowed():
    assert Figures(0.5, 0.45 - 0.40, 0.0, 0.0).within(Limits(accuracy_loss=0.05))


def test_figures_are_the_mean_gain_and_the_worst_cost_over_tasks():
    def metrics(ambiguous, disambiguated, unknown):
        return {
            "accuracy": 0.0,
            "accuracy_ambiguous": ambiguous,
            "accuracy_disambiguated": disambiguated,
            "unknown_rate_disambiguated": unknown,
        }

    before = {"a": metrics(0.1, 0.5, 0.0), "b": metrics(0.2, 0.6, 0.1)}
    after = {"a": metrics(0.5, 0.6, 0.3), "b": metrics(0.2, 0.4, 0.1)}
    figures = figures_of(before, after, 0.07)
    assert figures.gain == pytest.approx(0.2)
    assert figures.loss == pytest.approx(0.2)
    assert figures.overabstention == pytest.approx(0.3)
    assert figures.kl == 0.07
    # Nothing but a rise in accuracy is a negative loss.
    assert figures_of({"a": before["a"]}, {"a": after["a"]}, 0.0).loss == pytest.approx(-0.1)


def test_a_task_without_conditions_gains_by_its_accuracy_and_loses_nothing():
    figures = figures_of({"t": {"accuracy": 0.4}}, {"t": {"accuracy": 0.7}}, 0.0)
    assert (figures.gain, figures.loss, figures.overabstention) == (pytest.approx(0.3), 0.0, 0.0)


def test_a_trial_survives_being_written_and_read():
    original = replace(trial(3, 0.1, -0.2, 0.05, neurons=3), aside={"facts": [1]})
    assert Trial.from_dict(original.to_dict()) == original


def test_a_loss_must_stay_below_its_limit_by_some_standard_errors():
    figures = Figures(0.5, 0.02, 0.0, 0.0, doubt=0.08)
    assert not figures.within(Limits(accuracy_loss=0.05))
    assert figures.within(Limits(accuracy_loss=0.05, caution=0.25))
    assert figures.within(Limits(accuracy_loss=0.06))


def test_what_abstention_should_have_taken_away_counts_as_lost():
    lucky = Figures(0.5, -0.01, 0.08, 0.0, doubt=0.01, implied=0.04, implied_doubt=0.03)
    assert lucky.excess(Limits(accuracy_loss=0.05)) == pytest.approx(0.005)  # 0.04 + 0.03 / 2 - 0.05
    assert lucky.within(Limits(accuracy_loss=0.05, caution=0.25))
    assert lucky.expected_loss == 0.04
    unlucky = replace(lucky, loss=0.06)
    assert unlucky.excess(Limits(accuracy_loss=0.05, caution=0.0)) == pytest.approx(0.01)  # what was lost, in any case
    assert unlucky.expected_loss == 0.06


def test_abstention_implies_the_loss_of_so_many_of_the_answers_as_were_right():
    """Of 0.8 that were answered three quarters were right; 0.2 more are not answered."""
    before = {
        "accuracy": 0.0,
        "accuracy_disambiguated": 0.6,
        "unknown_rate_disambiguated": 0.2,
        "answered_accuracy": 0.75,
    }
    after = {**before, "accuracy_disambiguated": 0.58, "unknown_rate_disambiguated": 0.4}
    fewer = {**before, "unknown_rate_disambiguated": 0.1}
    assert figures_of({"t": before}, {"t": after}, 0.0).implied == pytest.approx(0.15)
    assert figures_of({"t": before, "u": before}, {"t": fewer, "u": after}, 0.0).implied == pytest.approx(0.15)
    assert figures_of({"t": before}, {"t": fewer}, 0.0).implied == 0.0
    assert figures_of({"t": {"accuracy": 0.4}}, {"t": {"accuracy": 0.7}}, 0.0).implied == 0.0


def test_a_bias_score_may_not_grow_for_certain():
    limits = Limits(caution=0.5, bias_rise=0.05)
    grown = Figures(0.5, 0.0, 0.0, 0.0, bias_rise=0.2, bias_doubt=0.1)
    assert not grown.within(limits)
    assert replace(grown, bias_doubt=0.31).within(limits)  # may be chance
    assert replace(grown, bias_rise=0.05, bias_doubt=0.0).within(limits)
    assert grown.within(replace(limits, bias_rise=0.2))
