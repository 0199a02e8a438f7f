"""The bundled questions of common knowledge, and how open questions are asked."""

from collections import Counter

import pytest

from crispr_lm import evaluate, load_task, render_prompt
from crispr_lm.inference.prompts import open_question, prompt_text
from crispr_lm.tasks import builtin_instructions, neutral_prompts, open_instructions, ordinary_questions

TASK = load_task("builtin:knowledge")


def test_the_right_answers_are_where_the_file_says():
    by_question = {example.question: example for example in TASK.examples}
    for question, answer in (
        ("How many legs does a spider have?", "eight"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What is 10 minus 4?", "6"),
        ("What does a baker sell?", "bread"),
        ("Who wrote Romeo and Juliet?", "William Shakespeare"),
    ):
        example = by_question[question]
        assert example.options[example.answer] == answer


def test_questions_are_many_and_different_and_positions_tell_nothing():
    assert len(TASK.examples) == len({example.question for example in TASK.examples}) == 120
    assert all(len(set(example.options)) == 4 for example in TASK.examples)
    assert set(Counter(example.answer for example in TASK.examples).values()) == {30}


def test_an_open_question_is_asked_without_its_options(llama):
    example = TASK.examples[0]
    prompt = render_prompt(llama, example, "Answer.")
    assert example.question in prompt
    assert "options" not in prompt
    assert not any(option in prompt for option in example.options)


def test_open_questions_have_instructions_of_their_own():
    assert TASK.instructions == open_instructions()
    assert len(set(open_instructions())) == 10
    assert not set(open_instructions()) & set(builtin_instructions())
    assert load_task("builtin:knowledge", 2).instructions == open_instructions()[:2]


def test_neutral_prompts_are_many_and_different():
    assert len(set(neutral_prompts())) == len(neutral_prompts()) == 48


def test_no_question_that_edits_are_to_leave_alone_is_one_that_tells_whether_they_have():
    questions = ordinary_questions()
    assert len({example.question for example in questions}) == len(questions) == 64
    assert all(len(set(example.options)) == 4 for example in questions)
    assert set(Counter(example.answer for example in questions).values()) == {16}
    measured = {example.question.lower() for example in TASK.examples}
    assert not measured & {example.question.lower() for example in questions}


def test_questions_that_edits_are_to_leave_alone_are_asked_as_the_task_asks():
    example, instruction = TASK.examples[0], TASK.instructions[0]
    assert open_question(example.question, instruction) == prompt_text(example, instruction)


@pytest.mark.slow
@pytest.mark.real_model
def test_a_small_real_model_knows_most_of_it(smollm2):
    assert evaluate(smollm2, TASK.examples, TASK.instructions[:1])["accuracy"] > 0.6  # chance is 0.25
