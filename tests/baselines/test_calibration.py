"""Calibration by hand from option scores: the content-free probabilities, averaged and divided by."""

import math
from dataclasses import replace

import pytest
import torch

from crispr_lm import option_scores
from crispr_lm.baselines import calibration, measure
from crispr_lm.baselines.calibration import (
    CONTENT_FREE,
    Calibration,
    contextual_calibration,
    domain_context_calibration,
    random_inputs,
)
from crispr_lm.evaluation.suite import TaskSubject

from ..helpers import EXAMPLES
from .questions import TASK

SUBJECT = TaskSubject(TASK, TASK.examples[8:11])


def by_hand(lm, inputs, scoring):
    """s(c) − log mean over inputs of softmax s(c | input), with Python numbers."""
    tables = []
    for instruction in TASK.instructions:
        rows = []
        for example in SUBJECT.examples:
            own = option_scores(lm, [example], instruction, scoring=scoring)[0].tolist()
            mean = [0.0] * len(own)
            for context, question in inputs:
                asked = replace(example, context=context, question=question)
                free = option_scores(lm, [asked], instruction, scoring=scoring)[0].tolist()
                whole = sum(math.exp(score) for score in free)
                mean = [part + math.exp(score) / whole / len(inputs) for part, score in zip(mean, free, strict=True)]
            rows.append([score - math.log(part) for score, part in zip(own, mean, strict=True)])
        tables.append(torch.tensor(rows))
    return tables


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
@pytest.mark.parametrize("scoring", ["sum", "mean"])
def test_contextual_calibration(make_fit, architecture, scoring):
    fit = make_fit(architecture, scoring=scoring)
    found = measure(fit.lm, contextual_calibration(fit, 0), SUBJECT, scoring)
    expected = by_hand(fit.lm, [(text, text) for text in CONTENT_FREE], scoring)
    for table, rows in zip(found.option_scores, expected, strict=True):
        torch.testing.assert_close(table, rows, rtol=1e-4, atol=1e-4)


def test_domain_context_calibration(make_fit):
    fit = make_fit("llama", calibration_texts=2)
    treatment = domain_context_calibration(fit, 0)
    expected = by_hand(fit.lm, treatment.details["inputs"], "sum")
    for table, rows in zip(measure(fit.lm, treatment, SUBJECT).option_scores, expected, strict=True):
        torch.testing.assert_close(table, rows, rtol=1e-4, atol=1e-4)


def test_questions_with_the_same_options_are_one_prompt_without_content(make_fit, monkeypatch):
    lm = make_fit("llama").lm
    pair, other, bare = TASK.examples[0], TASK.examples[2], replace(TASK.examples[1], context="")
    examples = [pair, other, TASK.examples[1], bare, pair]
    assert pair.options == bare.options != other.options
    asked = []

    def noted(lm, prompts, *rest, **options):
        asked.append(prompts)
        return option_scores(lm, prompts, *rest, **options)

    monkeypatch.setattr(calibration, "option_scores", noted)
    zero = torch.zeros(len(examples), 3)
    found = Calibration(lm, [("N/A", "N/A")], "auto")(examples, "Answer.", "sum", zero)
    assert [len(once) for once in asked] == [3]  # two lists of options, one of them also without a context
    free = [replace(one, context="N/A" if one.context else "", question="N/A") for one in examples]
    expected = -option_scores(lm, free, "Answer.").log_softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_random_inputs_are_words_of_the_examples_at_their_mean_lengths():
    examples = [
        replace(EXAMPLES[0], context="a b c d", question="x y"),
        replace(EXAMPLES[0], context="e f", question="z"),
    ]
    drawn = random_inputs(examples, 5, seed=0)
    assert len(set(drawn)) > 1
    for context, question in drawn:
        assert len(context.split()) == 3
        assert set(context.split()) <= set("abcdef")
        assert len(question.split()) == 2
        assert set(question.split()) <= set("xyz")
    assert random_inputs(examples, 5, seed=0) == drawn
    assert random_inputs(examples, 5, seed=1) != drawn


def test_an_option_that_an_example_does_not_have_stays_without_score(make_fit):
    lm = make_fit("llama").lm
    examples = EXAMPLES[:2]  # three options and two
    scores = option_scores(lm, examples, "Answer.")
    found = Calibration(lm, [("N/A", "N/A")], "auto")(examples, "Answer.", "sum", scores)
    assert found[1, 2] == -torch.inf
    assert torch.isfinite(found[0]).all()
    assert torch.isfinite(found[1, :2]).all()


def test_what_the_model_prefers_without_content_is_taken_out_entirely(make_fit):
    lm = make_fit("llama").lm
    example = replace(TASK.examples[0], context="N/A", question="N/A")
    scores = option_scores(lm, [example], "Answer.")
    found = Calibration(lm, [("N/A", "N/A")], "auto")([example], "Answer.", "sum", scores)
    assert scores[0].max() - scores[0].min() > 0.01
    torch.testing.assert_close(found[0], found[0, :1].expand(3), rtol=0, atol=1e-4)
