"""What a model writes before it answers stands where it should, and is paid for by answers, not by fitting."""

from dataclasses import replace

import pytest
import torch

from crispr_lm.baselines import measure, written_prompts
from crispr_lm.baselines.written_prompts import REWRITE, THINK, chain_of_thought, self_help
from crispr_lm.evaluation.evaluation import evaluate
from crispr_lm.evaluation.suite import TaskSubject
from crispr_lm.inference.generation import takes_left_padding
from crispr_lm.inference.passes import counted_passes
from crispr_lm.tasks.base import FREE

from .questions import TASK

SUBJECT = TaskSubject(TASK, (TASK.examples[8], replace(TASK.examples[9], context="")))


@pytest.fixture
def writing(monkeypatch):
    """Let the model "write" a fixed text; what it was asked is noted."""

    def begin(fit, text):
        asked = []

        def written(lm, prompts, tokens, *_rest):
            asked.extend(lm.tokenizer.decode(ids) for ids in prompts)
            ids = lm.tokenizer(text, add_special_tokens=False).input_ids
            assert len(ids) <= tokens
            return [ids for _ in prompts]

        monkeypatch.setattr(written_prompts, "continuations", written)
        return asked, fit.lm.tokenizer.decode(fit.lm.tokenizer(text, add_special_tokens=False).input_ids)

    return begin


def assert_asked(fit, treatment, examples):
    """The treated model's scores are those of these examples, and its metrics those of the original ones."""
    found = measure(fit.lm, treatment, SUBJECT)
    assert found.examples == SUBJECT.examples
    expected = evaluate(fit.lm, examples, TASK.instructions)
    assert all(map(torch.equal, found.option_scores, expected.option_scores))


def test_reasoning_stands_behind_the_context(make_fit, writing):
    fit = make_fit("llama")
    asked, text = writing(fit, "Anna waited.\n\nOmar too.")
    first, second = SUBJECT.examples
    text = " ".join(text.split())
    with_text = [
        replace(first, context=f"{first.context}\nReasoning: {text}"),
        replace(second, context=f"Reasoning: {text}"),
    ]
    assert_asked(fit, chain_of_thought(fit, 0), with_text)
    assert len(asked) == 2  # once per question, whatever the number of instructions
    tokens = [fit.lm.tokenizer.decode(fit.lm.tokenizer(part).input_ids) for part in (THINK, first.question)]
    assert all(part in asked[0] for part in tokens)


def test_the_context_is_replaced_by_what_the_model_makes_of_it(make_fit, writing):
    fit = make_fit("llama")
    asked, text = writing(fit, "Two people waited.")
    first, second = SUBJECT.examples
    assert_asked(fit, self_help(fit, 0), [replace(first, context=text), second])  # the second has no context
    assert len(asked) == 1
    assert fit.lm.tokenizer.decode(fit.lm.tokenizer(REWRITE).input_ids) in asked[0]


@pytest.mark.parametrize("method", [chain_of_thought, self_help])
def test_what_is_not_written_changes_nothing(make_fit, writing, method):
    fit = make_fit("llama")
    writing(fit, " ")
    assert_asked(fit, method(fit, 0), SUBJECT.examples)
    free = replace(SUBJECT.examples[0], form=FREE)
    assert method(fit, 0).rewrite([free]) == [free]


def test_every_written_token_is_a_pass_of_an_answer(make_fit, monkeypatch):
    monkeypatch.setattr(written_prompts, "REASONING_TOKENS", 3)
    fit = make_fit("llama")
    takes_left_padding(fit.lm)  # probed once, by whoever comes first
    with counted_passes(fit.lm) as fitting:
        treatment = chain_of_thought(fit, 0)
    with counted_passes(fit.lm) as answering:
        measure(fit.lm, treatment, SUBJECT)
    assert fitting.count == 0
    assert answering.count == 2 * 3 + 2 * len(TASK.instructions)
