"""Greedy generation and its matching to options."""

import pytest
import torch

from crispr_lm import encode, evaluate
from crispr_lm.inference.generation import continuations, generated_scores, matched_option

from ..evaluation.test_kl_divergence import greedy
from ..helpers import EXAMPLES, INSTRUCTIONS

OPTIONS = ("The old man", "the old", "Can't be determined", "Anna")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("The old man", 0),
        ("the OLD man.", 0),
        ("The old man was slow, I think", 0),
        ("old, as the text says", 1),
        ("Can't be determined", 2),
        ("The answer is: Anna!", 3),
        ("Anna or the old man", 3),  # begins with it
        ("It was Anna or the old man", None),
        ("Annabel", None),
        ("", None),
        ("\nAnna", 3),
        ("Nobody knows\nAnna", None),
    ],
)
def test_an_answer_is_matched_by_whole_words(text, option):
    assert matched_option(text, OPTIONS) == option


def test_an_option_of_articles_alone_matches_nothing():
    assert matched_option("The", ("the", "a dog")) is None


@torch.no_grad()
def test_continuations_are_greedy_and_do_not_depend_on_batches(lm):
    prompts = [encode(lm, example, INSTRUCTIONS[0]).prompt_ids for example in EXAMPLES]
    prompts += prompts[:2]
    one = continuations(lm, prompts, 6, batch_size=1)
    assert one == continuations(lm, prompts, 6)
    assert one == [greedy(lm, prompt, 6) for prompt in prompts]


def test_what_a_model_writes_decides(llama, monkeypatch):
    written = ["the young woman", "He or she", "the doctor, surely", "Omar"]
    monkeypatch.setattr("crispr_lm.inference.generation.continuations", lambda *_: written)
    monkeypatch.setattr(llama.tokenizer, "decode", lambda text, **_: text)
    examples = EXAMPLES[:4]
    scores = generated_scores(llama, examples, INSTRUCTIONS[0])
    assert scores.isfinite().sum(dim=1).tolist() == [1, 1, 1, 1]
    assert scores.argmax(dim=1).tolist() == [1, 1, 1, 0]
    written[1] = "nobody"
    found = evaluate(llama, examples, [INSTRUCTIONS[0]], scoring="generate")
    assert found["unmatched_share"] == 0.25
    answers = [1, -1, 1, 0]
    assert found["accuracy"] == sum(a == e.answer for a, e in zip(answers, examples, strict=True)) / 4
    assert "unmatched_share" not in evaluate(llama, examples, [INSTRUCTIONS[0]])


def test_scores_by_mean_are_sums_over_the_number_of_tokens(llama):
    from crispr_lm import option_scores

    sums = option_scores(llama, EXAMPLES, INSTRUCTIONS[0])
    means = option_scores(llama, EXAMPLES, INSTRUCTIONS[0], scoring="mean")
    for row, example in enumerate(EXAMPLES):
        for column, ids in enumerate(encode(llama, example, INSTRUCTIONS[0]).option_ids):
            assert means[row, column] == pytest.approx(float(sums[row, column]) / len(ids), rel=1e-6)
