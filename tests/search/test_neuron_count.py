"""The choice of an edit: a gain on ambiguous questions, bought within a limit on the price."""

import random

import pytest

from crispr_lm.search.neuron_count import Candidate, choose, counts_up_to, golden_section, golden_section_trials


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


def by_hand(values, most):
    """The search of the paper's code, followed on paper: narrow by the golden ratio, then try all of the rest."""
    tried, low, high = [], 0, most
    while high - low > 4:
        part = int((high - low) * 0.6180339887498949 + 0.5)
        one, other = high - part, low + part
        tried += [one, other]
        if values[other] > values[one]:
            low = one
        else:
            high = other
    tried += range(low, high + 1)
    highest = max(values[count] for count in tried)
    return next(count for count in tried if values[count] == highest), set(tried)


@pytest.mark.parametrize("most", [0, 3, 4, 5, 17, 100, 500])
@pytest.mark.parametrize("seed", range(4))
def test_the_golden_section_finds_what_the_papers_code_finds(most, seed):
    drawn = random.Random(seed)
    values = [drawn.choice([0.25, 0.5, 0.75]) for _ in range(most + 1)]  # with many ties
    asked = []

    def accuracy(count):
        asked.append(count)
        return values[count]

    expected, tried = by_hand(values, most)
    assert golden_section(accuracy, most) == expected
    assert (len(asked), set(asked)) == (len(tried), tried)  # each number once
    assert len(asked) <= golden_section_trials(most)


def test_accuracies_count_to_a_hundredth_of_a_percent():
    values = [0.5, 0.50004, 0.50006]
    assert golden_section(lambda count: values[count], 1) == 0  # 50.00 % both: the first that was tried
    assert golden_section(lambda count: values[count], 2) == 2
