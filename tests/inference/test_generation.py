"""Greedy generation and its matching to options."""

import functools

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


@torch.no_grad()
@pytest.mark.parametrize("fault", [None, "mask", "failure"])
def test_prompts_of_unlike_lengths_share_a_batch_only_where_padding_changes_nothing(llama, fault, monkeypatch):
    prompts, forward, rows = [[5, 9, 30, 41], [7, 8], [3, 12, 6]], llama.model.forward, []
    expected = [greedy(llama, prompt, 4) for prompt in prompts]

    @functools.wraps(forward)
    def counting(*arguments, input_ids, attention_mask=None, position_ids=None, **more):
        padded = attention_mask is not None and attention_mask.ndim == 2 and not bool(attention_mask.all())
        if padded and fault == "failure":
            raise RuntimeError("sizes must match")
        if padded and fault == "mask":
            attention_mask = None  # padding is seen then
        rows.append(len(input_ids))
        given = {"attention_mask": attention_mask, "position_ids": position_ids}
        return forward(*arguments, input_ids=input_ids, **given, **more)

    monkeypatch.setattr(llama.model, "forward", counting)
    continuations(llama, [[5]], 1)  # what the model takes is found out
    rows.clear()
    assert continuations(llama, prompts, 4) == expected
    assert set(rows) == ({3} if fault is None else {1})


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
