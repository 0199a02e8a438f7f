"""What results say of a model that answers "unknown" more often: named in words where it is a loss, and only there."""

import numpy as np
import pytest
import torch

from crispr_lm.evaluation.evaluation import evaluation_of
from crispr_lm.evaluation.results import over_abstention
from crispr_lm.metrics import FAMILIES
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example

UNKNOWN, RIGHT, WRONG = 2, 0, 1


def asked(condition, count):
    """Questions whose right answer is the first person, or nobody; every one a template of its own."""
    answer = UNKNOWN if condition == AMBIGUOUS else RIGHT
    return [
        Example("c", "q", ("a", "b", "unknown"), answer, f"{condition} {number}", condition, unknown=UNKNOWN)
        for number in range(count)
    ]


def answered(*parts):
    """(condition, ten answers) of each part, as an evaluation."""
    examples = [example for condition, answers in parts for example in asked(condition, len(answers))]
    chosen = [option for _, answers in parts for option in answers]
    scores = torch.full((len(chosen), 3), -5.0)
    scores[np.arange(len(chosen)), chosen] = 0.0
    return evaluation_of(examples, [scores], FAMILIES["question_answering"])


def answers(right=0, wrong=0, unknown=0):
    return [RIGHT] * right + [WRONG] * wrong + [UNKNOWN] * unknown


def warned(before, after, ambiguous=(0, 0)):
    """The sentence, of answers to ten disambiguated questions and the number of "unknown" to ten ambiguous ones."""
    parts = [
        answered((DISAMBIGUATED, there), (AMBIGUOUS, answers(wrong=10 - fair, unknown=fair)))
        for there, fair in zip((before, after), ambiguous, strict=True)
    ]
    found = parts[1].differences_from(parts[0])
    return over_abstention(parts[0].metrics, parts[1].metrics, found)


def test_right_answers_that_became_unknown_are_named_with_their_share():
    sentence = warned(answers(right=8, wrong=2), answers(right=3, wrong=2, unknown=5), ambiguous=(0, 10))
    assert "unknown on 50.0% of the questions" in sentence
    assert "(before: 0.0%)" in sentence
    assert "50.0 points fewer of them are answered right." in sentence
    assert "includes zero" not in sentence


def test_a_loss_that_may_be_chance_is_reported_as_such():
    assert "includes zero" in warned(answers(right=8, wrong=2), answers(right=7, wrong=2, unknown=1), ambiguous=(0, 10))


def test_wrong_answers_that_became_unknown_are_no_loss():
    assert warned(answers(right=8, wrong=2), answers(right=8, unknown=2), ambiguous=(0, 10)) is None


@pytest.mark.parametrize("cured", [0, 1, 2])
def test_a_rise_that_cures_less_on_ambiguous_questions_is_named_too(cured):
    sentence = warned(answers(right=8, wrong=2), answers(right=8, unknown=2), ambiguous=(3, 3 + cured))
    if cured == 2:
        assert sentence is None
    else:
        assert f"while errors on ambiguous questions fall by only {10 * cured}.0 points" in sentence


def test_errors_on_ambiguous_questions_may_even_rise():
    assert "rise by 10.0 points" in warned(answers(right=8, wrong=2), answers(right=8, unknown=2), ambiguous=(3, 2))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (answers(right=8, wrong=2), answers(right=8, wrong=2)),
        (answers(right=8, wrong=2), answers(right=2, wrong=8)),
        (answers(right=2, unknown=8), answers(right=1, wrong=9)),
    ],
)
def test_who_does_not_abstain_more_is_never_named(before, after):
    assert warned(before, after, ambiguous=(5, 0)) is None


def test_questions_that_all_have_an_answer_in_their_context_are_judged_by_themselves():
    before, after = (
        answered((DISAMBIGUATED, there)) for there in (answers(right=5, wrong=5), answers(right=4, wrong=1, unknown=5))
    )
    assert "10.0 points fewer" in over_abstention(before.metrics, after.metrics, after.differences_from(before))
