"""What every method has in common: it can be fitted, measured like any other, and leaves the model as it was."""

import pytest
import torch

from crispr_lm.baselines import METHODS, NotRunError, Treatment, measure
from crispr_lm.baselines.calibration import contextual_calibration
from crispr_lm.baselines.instruction import FAIRNESS, fairness_instruction
from crispr_lm.evaluation.evaluation import evaluate
from crispr_lm.evaluation.suite import TaskSubject
from crispr_lm.tasks.base import SENTENCES, Example, Task

from ..helpers import assert_same_weights, hook_count, snapshot
from .questions import TASK

SUBJECT = TaskSubject(TASK, TASK.examples[8:12])


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_treatment_that_is_measured_like_any_other(make_fit, architecture, name):
    if name == "integrated-gradients":
        pytest.importorskip("captum")
    fit = make_fit(architecture, integration_prompts=1, integration_steps=2)
    before = snapshot(fit.lm.model)
    treatment = METHODS[name].fit(fit, 0)
    found = measure(fit.lm, treatment, SUBJECT)
    assert found.examples == SUBJECT.examples
    assert len(found.option_scores) == len(TASK.instructions)
    assert all(torch.isfinite(table).all() for table in found.option_scores)
    assert hook_count(fit.lm.model) == 0
    assert_same_weights(fit.lm.model, before)
    original = evaluate(fit.lm, SUBJECT.examples, TASK.instructions)
    same = all(torch.equal(*tables) for tables in zip(found.option_scores, original.option_scores, strict=True))
    if name in ("golden-section", "crispr-paper"):  # find their own number, and none at all is one of their answers
        assert treatment.edit is not None
        assert len(treatment.edit.neurons) <= (500 if name == "crispr-paper" else fit.settings.max_neurons)
        assert same == (not treatment.edit.neurons)
        return
    assert same == (name == "original")
    if name == "bias-knowledge":  # as many as its own rule keeps
        assert treatment.edit.scale > 1
    elif treatment.edit is not None:
        assert len(treatment.edit.neurons) == 5


def test_the_original_is_what_evaluate_gives(make_fit):
    lm = make_fit("llama").lm
    assert measure(lm, Treatment(), SUBJECT).metrics == evaluate(lm, SUBJECT.examples, TASK.instructions).metrics


def test_the_fairness_instruction_stands_before_every_instruction(make_fit):
    fit = make_fit("llama")
    found = measure(fit.lm, fairness_instruction(fit, 0), SUBJECT)
    expected = evaluate(fit.lm, SUBJECT.examples, [f"{FAIRNESS} {text}" for text in TASK.instructions])
    for table, by_hand in zip(found.option_scores, expected.option_scores, strict=True):
        assert torch.equal(table, by_hand)


def test_generated_answers_have_no_scores_to_correct(make_fit):
    fit = make_fit("llama")
    with pytest.raises(NotRunError, match="no"):
        measure(fit.lm, contextual_calibration(fit, 0), SUBJECT, scoring="generate")


@pytest.mark.parametrize("method", [fairness_instruction, contextual_calibration])
def test_texts_whose_likelihoods_are_compared_are_neither_rephrased_nor_corrected(make_fit, method):
    fit = make_fit("llama")
    texts = ("The nurse waited.", "The doctor waited.")
    example = Example(context="", question="", options=texts, answer=0, template="x", form=SENTENCES)
    subject = TaskSubject(Task("texts", (example,), ("",)), (example,))
    expected = measure(fit.lm, Treatment(), subject)
    assert torch.equal(measure(fit.lm, method(fit, 0), subject).option_scores[0], expected.option_scores[0])
