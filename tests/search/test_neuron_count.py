"""The choice of an edit: a gain on ambiguous questions, bought within a limit on the price."""

import pytest

from crispr_lm.search.neuron_count import Candidate, choose, counts_up_to


def candidate(neurons, ambiguous, disambiguated, task="t"):
    return Candidate(neurons, {task: {"accuracy_ambiguous": ambiguous, "accuracy_disambiguated": disambiguated}})


def test_takes_the_highest_ambiguous_accuracy_within_the_limit():
    candidates = [candidate(0, 0.1, 0.50), candidate(5, 0.3, 0.46), candidate(10, 0.6, 0.46), candidate(20, 0.9, 0.44)]
    assert choose(candidates, 0.05).candidate.neurons == 10


def test_always_unknown_is_not_chosen_although_its_balanced_accuracy_is_the_best():
    # Guessing a group: (0 + 0.5) / 2 = 0.25. Always unknown: (1 + 0) / 2 = 0.5.
    candidates = [candidate(0, 0.0, 0.5), candidate(1, 1.0, 0.0)]
    choice = choose(candidates, 0.05)
    assert choice.candidate.neurons == 0
    assert choice.reason.startswith("no edit recommended")


def test_any_price_may_be_allowed():
    candidates = [candidate(0, 0.0, 0.5), candidate(1, 1.0, 0.0)]
    assert choose(candidates, 1.0).candidate.neurons == 1


def test_a_loss_of_exactly_the_limit_is_allowed():
    # 0.45 - 0.40 is 0.04999... or 0.05000...1 in floating point; both are the limit.
    candidates = [candidate(0, 0.0, 0.45), candidate(3, 0.5, 0.40)]
    assert choose(candidates, 0.05).candidate.neurons == 3


def test_of_equal_candidates_the_one_with_fewest_neurons_is_taken():
    candidates = [candidate(0, 0.0, 0.5), candidate(20, 0.4, 0.5), candidate(10, 0.4, 0.5)]
    assert choose(candidates, 0.05).candidate.neurons == 10


def test_without_a_gain_the_original_is_kept():
    candidates = [candidate(0, 0.3, 0.5), candidate(1, 0.3, 0.6), candidate(2, 0.2, 0.9)]
    assert choose(candidates, 0.05).candidate.neurons == 0


def test_the_limit_holds_for_every_task_not_for_their_mean():
    def two_tasks(neurons, first, second):
        names = ("accuracy_ambiguous", "accuracy_disambiguated")
        return Candidate(
            neurons, {"a": dict(zip(names, first, strict=True)), "b": dict(zip(names, second, strict=True))}
        )

    candidates = [
        two_tasks(0, (0.0, 0.5), (0.0, 0.5)),
        two_tasks(5, (0.9, 0.4), (0.9, 0.6)),
        two_tasks(3, (0.2, 0.5), (0.0, 0.5)),
    ]
    assert choose(candidates, 0.05).candidate.neurons == 3


def test_a_task_without_conditions_counts_with_its_accuracy():
    candidates = [Candidate(0, {"t": {"accuracy": 0.4}}), Candidate(2, {"t": {"accuracy": 0.6}})]
    assert choose(candidates, 0.0).candidate.neurons == 2


@pytest.mark.parametrize(("most", "expected"), [(1, [0, 1]), (4, [0, 1, 2, 3, 4]), (12, [0, 1, 2, 3, 5, 10, 12])])
def test_numbers_tried_start_at_the_original_and_end_at_the_most_allowed(most, expected):
    assert counts_up_to(most) == expected


def test_a_candidate_survives_being_written_and_read():
    original = candidate(7, 0.25, None)
    assert Candidate.from_dict(original.to_dict()) == original
