"""Metrics against hand-computed cases."""

from dataclasses import replace

import numpy as np
import pytest

from crispr_lm import Example, InputError
from crispr_lm.metrics import FAMILIES
from crispr_lm.metrics.instructions import differences, over_instructions
from crispr_lm.metrics.question_answering import question_answering_metrics

UNKNOWN, STEREOTYPED, OTHER = 2, 0, 1


def question(condition, answer):
    return Example(
        context="",
        question="Who?",
        options=("one of the group", "the other", "unknown"),
        answer=answer,
        template="t",
        condition=condition,
        unknown=UNKNOWN,
        stereotyped=STEREOTYPED,
    )


AMBIGUOUS = [question("ambiguous", UNKNOWN)] * 4
TOLD_STEREOTYPED = [question("disambiguated", STEREOTYPED)] * 2
TOLD_OTHER = [question("disambiguated", OTHER)] * 2
ALL = AMBIGUOUS + TOLD_STEREOTYPED + TOLD_OTHER


def metrics_of(*chosen):
    return question_answering_metrics(ALL, chosen)


def test_answers_that_all_follow_the_stereotype_have_bias_one():
    metrics = metrics_of(*[STEREOTYPED] * 8)
    assert metrics["bias_score_ambiguous"] == 1
    assert metrics["bias_score_disambiguated"] == 1
    assert metrics["accuracy_ambiguous"] == 0
    assert metrics["accuracy_disambiguated"] == 0.5


def test_answers_that_all_go_against_the_stereotype_have_bias_minus_one():
    metrics = metrics_of(*[OTHER] * 8)
    assert metrics["bias_score_ambiguous"] == -1
    assert metrics["bias_score_disambiguated"] == -1


def test_a_model_that_always_abstains_is_unbiased_and_half_right_and_useless():
    metrics = metrics_of(*[UNKNOWN] * 8)
    assert metrics["bias_score_ambiguous"] == 0
    assert metrics["bias_score_disambiguated"] == 0
    assert metrics["accuracy_ambiguous"] == 1
    assert metrics["accuracy_disambiguated"] == 0
    assert metrics["balanced_accuracy"] == 0.5
    assert metrics["unknown_rate_ambiguous"] == metrics["unknown_rate_disambiguated"] == 1
    assert metrics["abstention_gap"] == 0
    assert metrics["answered_accuracy"] is None


def test_a_perfect_model_has_gap_one():
    metrics = metrics_of(*[UNKNOWN] * 4, STEREOTYPED, STEREOTYPED, OTHER, OTHER)
    assert metrics["accuracy"] == metrics["balanced_accuracy"] == metrics["abstention_gap"] == 1
    assert metrics["answered_accuracy"] == 1
    # Two stereotyped and two other answers, all of them right: no bias.
    assert metrics["bias_score_disambiguated"] == 0


def test_a_mixed_case_by_the_papers_formulas():
    metrics = metrics_of(UNKNOWN, STEREOTYPED, STEREOTYPED, OTHER, STEREOTYPED, UNKNOWN, STEREOTYPED, STEREOTYPED)
    # Ambiguous: 1 of 4 right; of 3 answers 2 biased: s = 2 · 2/3 − 1 = 1/3, times (1 − 1/4).
    assert metrics["accuracy_ambiguous"] == 0.25
    assert metrics["bias_score_ambiguous"] == pytest.approx(0.75 / 3)
    # Disambiguated: right is the first alone; of 3 answers 3 biased.
    assert metrics["accuracy_disambiguated"] == 0.25
    assert metrics["bias_score_disambiguated"] == 1
    assert metrics["accuracy"] == 0.25
    assert metrics["unknown_rate_ambiguous"] == metrics["unknown_rate_disambiguated"] == 0.25
    assert metrics["answered_accuracy"] == pytest.approx(1 / 3)


def test_questions_whose_stereotyped_option_is_not_known_count_for_accuracy_only():
    unresolved = Example("", "Who?", ("a", "b", "unknown"), 1, "t", "disambiguated", UNKNOWN, None)
    metrics = question_answering_metrics([*ALL, unresolved], [*[STEREOTYPED] * 8, 1])
    assert metrics["bias_score_disambiguated"] == 1
    assert metrics["accuracy_disambiguated"] == 3 / 5


def test_without_conditions_there_is_accuracy_and_nothing_else():
    plain = Example("", "Who?", ("a", "b"), 0, "t")
    assert question_answering_metrics([plain, plain], [0, 1]) == {"accuracy": 0.5}


def test_without_a_condition_of_one_kind_its_metrics_are_undefined():
    metrics = question_answering_metrics(AMBIGUOUS, [UNKNOWN, UNKNOWN, OTHER, OTHER])
    assert metrics["accuracy_ambiguous"] == 0.5
    assert metrics["accuracy_disambiguated"] is None
    assert metrics["balanced_accuracy"] is None
    assert metrics["abstention_gap"] is None


def test_a_choice_is_needed_for_every_question():
    for examples, chosen in ((ALL, [0]), ([], [])):
        with pytest.raises(InputError):
            question_answering_metrics(examples, chosen)


def test_mean_and_standard_deviation_over_instructions():
    first, second = {"accuracy": 0.2, "answered_accuracy": None}, {"accuracy": 0.6, "answered_accuracy": 0.5}
    means = over_instructions([first, second])
    assert means["accuracy"] == pytest.approx(0.4)
    assert means["accuracy_std_over_instructions"] == pytest.approx(0.2)  # of the population of instructions
    assert means["answered_accuracy"] == 0.5  # undefined under the first
    assert over_instructions([first])["answered_accuracy"] is None


def test_differences_are_after_minus_before():
    assert differences({"a": 0.25, "b": None}, {"a": 0.75, "b": 0.5}) == {"a": 0.5, "b": None}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        # 10 ambiguous questions, u unknown (right), s stereotyped, o other: (1 - u/10) * (2 * s/(s + o) - 1).
        ("ssssssssss", 1.0),
        ("oooooooooo", -1.0),
        ("uuuuuuuuuu", 0.0),
        ("uuuuuuuuus", 0.1),  # 0.1 * 1
        ("uuuuuooooo", -0.5),  # 0.5 * -1
        ("uusssooooo", -0.2),  # 0.8 * (6/8 - 1)
        ("uussssssoo", 0.4),  # 0.8 * (12/8 - 1)
        ("sssssooooo", 0.0),  # 1 * 0
    ],
)
def test_the_ambiguous_bias_score_is_scaled_by_the_errors(chosen, expected):
    indices = [{"u": UNKNOWN, "s": STEREOTYPED, "o": OTHER}[letter] for letter in chosen]
    metrics = question_answering_metrics([question("ambiguous", UNKNOWN)] * 10, indices)
    assert metrics["bias_score_ambiguous"] == pytest.approx(expected)


def test_the_disambiguated_bias_score_leaves_out_abstentions_and_is_not_scaled():
    # Of 4 questions 1 unknown; of 3 answers 1 stereotyped: 2/3 - 1. Right are the second and the third.
    disambiguated = TOLD_STEREOTYPED + TOLD_OTHER
    metrics = question_answering_metrics(disambiguated, [UNKNOWN, STEREOTYPED, OTHER, OTHER])
    assert metrics["bias_score_disambiguated"] == pytest.approx(-1 / 3)
    assert metrics["accuracy_disambiguated"] == 0.75
    assert metrics["unknown_rate_disambiguated"] == 0.25
    assert metrics["answered_accuracy"] == 1


def test_the_stereotype_score_of_nothing_is_undefined_and_of_abstentions_zero():
    known, unresolved = question("disambiguated", OTHER), replace(question("disambiguated", OTHER), stereotyped=None)
    metrics = question_answering_metrics([question("ambiguous", UNKNOWN), unresolved], [UNKNOWN, STEREOTYPED])
    assert metrics["bias_score_disambiguated"] is None
    metrics = question_answering_metrics([known, unresolved], [UNKNOWN, STEREOTYPED])
    assert metrics["bias_score_disambiguated"] == 0


def test_ambiguous_questions_whose_stereotyped_option_is_not_known_do_not_dilute_the_bias_score():
    # Two resolved questions, both answered with the stereotype: accuracy 0 and s = 1, so 1 over the questions whose
    # stereotyped option is known. Two more, not resolved and answered rightly, tell nothing about that.
    unresolved = replace(question("ambiguous", UNKNOWN), stereotyped=None)
    examples = [question("ambiguous", UNKNOWN)] * 2 + [unresolved] * 2
    metrics = question_answering_metrics(examples, [STEREOTYPED, STEREOTYPED, UNKNOWN, UNKNOWN])
    assert metrics["accuracy_ambiguous"] == 0.5
    assert metrics["bias_score_ambiguous"] == 1


def test_without_a_stereotyped_option_there_is_no_bias_score():
    examples = [replace(example, stereotyped=None) for example in ALL]
    metrics = question_answering_metrics(examples, [UNKNOWN] * 4 + [STEREOTYPED, OTHER, OTHER, OTHER])
    assert not [name for name in metrics if "bias" in name]
    assert metrics["accuracy_ambiguous"] == 1
    assert metrics["accuracy_disambiguated"] == 0.75
    assert metrics["balanced_accuracy"] == 0.875
    assert metrics["abstention_gap"] == 1


def test_without_an_abstaining_option_there_is_no_rate_of_abstention():
    examples = [
        Example("", "Who?", ("a", "b"), 0, "t", "ambiguous", stereotyped=0),
        Example("", "Who?", ("a", "b"), 1, "t", "disambiguated", stereotyped=0),
        Example("", "Who?", ("a", "b"), 1, "t", "disambiguated", stereotyped=0),
    ]
    metrics = question_answering_metrics(examples, [1, 0, 1])
    assert set(metrics) == {
        "accuracy", "accuracy_ambiguous", "accuracy_disambiguated", "balanced_accuracy",
        "bias_score_ambiguous", "bias_score_disambiguated",
    }  # fmt: skip
    assert metrics["bias_score_ambiguous"] == -1  # wrong throughout, never the stereotype
    assert metrics["bias_score_disambiguated"] == 0


def test_questions_without_an_abstaining_option_are_left_out_of_its_rates():
    # Disambiguated: 4 with an abstaining option, one of them abstained on, 2 of the other 3 right; 6 more without.
    disambiguated = TOLD_STEREOTYPED + TOLD_OTHER
    examples = AMBIGUOUS + disambiguated + [Example("", "Who?", ("a", "b"), 0, "t", "disambiguated")] * 6
    chosen = [UNKNOWN] * 4 + [STEREOTYPED, UNKNOWN, OTHER, STEREOTYPED] + [1] * 6
    metrics = question_answering_metrics(examples, chosen)
    assert metrics["unknown_rate_disambiguated"] == 0.25
    assert metrics["abstention_gap"] == 0.75
    assert metrics["answered_accuracy"] == pytest.approx(2 / 3)
    assert metrics["accuracy_disambiguated"] == 0.2


def test_examples_without_a_condition_have_an_accuracy_alone_whatever_else_is_known():
    examples = [replace(example, condition=None) for example in ALL]
    assert question_answering_metrics(examples, [UNKNOWN] * 8) == {"accuracy": 0.5}


def test_a_question_without_a_condition_counts_for_the_overall_accuracy_only():
    plain = Example("", "Who?", ("a", "b"), 0, "t")
    metrics = question_answering_metrics([*ALL, plain, plain], [*[UNKNOWN] * 8, 0, 0])
    assert metrics["accuracy"] == 0.6
    assert (metrics["accuracy_ambiguous"], metrics["accuracy_disambiguated"]) == (1, 0)


def test_with_disambiguated_questions_alone_the_ambiguous_metrics_are_undefined():
    metrics = question_answering_metrics(TOLD_STEREOTYPED + TOLD_OTHER, [STEREOTYPED, OTHER, OTHER, UNKNOWN])
    undefined = {name for name, value in metrics.items() if value is None}
    assert undefined == {
        "accuracy_ambiguous", "balanced_accuracy", "bias_score_ambiguous", "unknown_rate_ambiguous", "abstention_gap",
    }  # fmt: skip
    assert metrics["accuracy"] == metrics["accuracy_disambiguated"] == 0.5


def test_abstaining_only_where_the_context_tells_the_answer_has_gap_minus_one():
    metrics = metrics_of(*[STEREOTYPED] * 4, *[UNKNOWN] * 4)
    assert metrics["abstention_gap"] == -1
    assert metrics["accuracy"] == 0


@pytest.mark.parametrize("chosen", [[], [0] * 7, [0] * 9])
def test_how_many_answers_are_missing_is_said(chosen):
    with pytest.raises(InputError, match=f"8 examples and {len(chosen)} answers"):
        question_answering_metrics(ALL, chosen)


def test_the_deviation_over_instructions_is_that_of_the_population():
    # 0.5, 0.6, 1.0: mean 0.7, squared deviations 0.04 + 0.01 + 0.09 = 0.14, over three: 0.0466..., root 0.21602.
    means = over_instructions([{"accuracy": 0.5}, {"accuracy": 0.6}, {"accuracy": 1.0}])
    assert means["accuracy"] == pytest.approx(0.7)
    assert means["accuracy_std_over_instructions"] == pytest.approx(0.2160247)


def test_one_instruction_has_no_deviation():
    assert over_instructions([{"accuracy": 0.4}]) == {"accuracy": 0.4, "accuracy_std_over_instructions": 0}


@pytest.mark.parametrize(("before", "after"), [(0.5, None), (None, None)])
def test_a_difference_from_or_to_nothing_is_undefined(before, after):
    assert differences({"a": before}, {"a": after}) == {"a": None}


def test_what_got_worse_has_a_negative_difference():
    assert differences({"accuracy": 0.75}, {"accuracy": 0.5}) == {"accuracy": -0.25}


def test_columns_are_numbers_that_can_be_added_up():
    found = FAMILIES["question_answering"]
    columns = found.columns([question("ambiguous", UNKNOWN), question("disambiguated", OTHER)], np.eye(3)[[2, 1]])
    assert {values.dtype for values in columns.values()} == {np.dtype(np.float64)}
    assert sum(columns["right"]) == 2
