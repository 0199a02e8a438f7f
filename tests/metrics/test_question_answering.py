"""Metrics against hand-computed cases."""

import pytest

from crispr_lm import Example, InputError
from crispr_lm.metrics.question_answering import differences, over_instructions, question_answering_metrics

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
