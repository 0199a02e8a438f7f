"""Answers token by token: the same words as transformers' own generation, with and without an edit, side by side."""

import pytest
import torch

from crispr_lm import Edit, InputError, Neuron
from crispr_lm.edits.side_by_side import stream_both
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import encode_conversation, encode_text, render_conversation
from crispr_lm.inference.streaming import Decoding, stream_answer

from ..helpers import DOWN_PROJECTIONS, build_model

TURNS = ["Who was late?", "Omar", "Who cooks?"]


def whole_edit(lm, architecture):
    """Removes the last feed-forward block: enough to change any answer."""
    module = DOWN_PROJECTIONS[architecture][-1]
    width = next(layer for name, layer in lm.model.named_modules() if name == module).weight.numel() // 32
    return Edit.from_neurons(lm, [Neuron(module, index, "ffn") for index in range(width)])


def generated(lm, turns, tokens):
    (ids,) = continuations(lm, [encode_conversation(lm, turns)], tokens)
    return lm.tokenizer.decode(ids, skip_special_tokens=True).strip().rstrip("\ufffd")


def last(stream):
    *_, final = ["", *stream]
    return final


def test_greedy_answers_are_those_of_transformers_with_and_without_an_edit(lm, architecture):
    edit = whole_edit(lm, architecture)
    original = generated(lm, TURNS, 12)
    with edit.applied(lm):
        edited = generated(lm, TURNS, 12)
    assert original != edited
    pairs = list(stream_both(lm, edit, TURNS, TURNS, Decoding(12)))
    assert pairs[-1] == (original, edited)
    assert pairs[0][1] == ""  # the original has its first token before the edited model is asked
    assert last(stream_answer(lm, TURNS, Decoding(12))) == original


@pytest.mark.parametrize("architecture", ["bloom", "mistral"])
def test_other_positions_and_windows_are_read_rightly(architecture):
    lm = build_model(architecture)
    assert last(stream_answer(lm, TURNS, Decoding(12))) == generated(lm, TURNS, 12)


def test_no_hook_is_left_between_tokens_nor_by_an_answer_that_is_given_up(llama):
    edit = whole_edit(llama, "llama")
    stream = stream_both(llama, edit, TURNS, TURNS, Decoding(12))
    for _ in range(4):
        next(stream)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.model.modules())
    stream.close()
    assert last(stream_answer(llama, TURNS, Decoding(12))) == generated(llama, TURNS, 12)


def test_draws_follow_the_temperature_and_their_seed(llama):
    def drawn(seed):
        return last(stream_answer(llama, TURNS, Decoding(12, temperature=1.0, seed=seed)))

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(6)}) > 1
    assert last(stream_answer(llama, TURNS, Decoding(12, temperature=1e-6))) == generated(llama, TURNS, 12)


def test_draws_have_the_models_probabilities(llama):
    ids = torch.tensor([encode_text(llama, "Who cooks?")])
    expected = llama.model(ids).logits[0, -1].softmax(dim=-1)
    texts = [last(stream_answer(llama, ["Who cooks?"], Decoding(1, 1.0, seed))) for seed in range(400)]
    likeliest = int(expected.argmax())
    text = llama.tokenizer.decode([likeliest], skip_special_tokens=True).strip()
    same = [i for i in range(len(expected)) if llama.tokenizer.decode([i], skip_special_tokens=True).strip() == text]
    share = float(expected[same].sum())
    assert abs(texts.count(text) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5


def test_an_edit_that_changes_nothing_gives_the_same_draws(llama):
    nothing = Edit.from_neurons(llama, [Neuron(DOWN_PROJECTIONS["llama"][0], 3, "ffn")], scale=1.0)
    *_, (original, edited) = stream_both(llama, nothing, TURNS, TURNS, Decoding(12, 1.0, 5))
    assert original == edited != ""


def test_conversations_go_through_the_chat_template_or_follow_each_other(llama, gpt2):
    assert render_conversation(llama, ["a", "b", "c"]) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render_conversation(gpt2, ["a", "b", "c"]) == "a\nb\nc"
    with pytest.raises(InputError, match="must end with the user's words"):
        render_conversation(llama, ["a", "b"])


def test_an_answer_ends_where_the_context_does(llama):
    room = 7
    words = "a" * 600
    while len(encode_text(llama, words)) > 512 + 1 - room:
        words = words[:-1]
    written = list(stream_answer(llama, [words], Decoding(50)))
    assert len(written) <= 513 - len(encode_text(llama, words))
    with pytest.raises(InputError, match="reads at most 512; start a new one"):
        next(stream_answer(llama, [words + "a b c d e f g h i j k l m n"], Decoding(50)))


@pytest.mark.parametrize("arguments", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}])
def test_impossible_decoding_is_refused(arguments):
    with pytest.raises(InputError):
        Decoding(**arguments)
