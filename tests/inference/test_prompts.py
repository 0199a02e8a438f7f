"""What the model sees: the text to the letter, and the tokens that are scored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crispr_lm import EncodedPrompt, InputError, LanguageModel, encode, render_prompt
from crispr_lm.inference.prompts import check_prompts, encode_all, prompt_text, uses_chat_template
from crispr_lm.tasks.base import SENTENCES, Example

from ..helpers import EXAMPLES, INSTRUCTIONS, LONG_EXAMPLE, plain_tokenizer

PLAIN = (
    "Answer the question.\n"
    "Context: The old man and the young woman waited at the bus stop.\n"
    "Question: Who was slow?\n"
    "Answer options: the old man, the young woman, unknown\n"
    "Your answer:"
)
PLAIN_WITHOUT_CONTEXT = "Answer the question.\nQuestion: Who cooks?\nAnswer options: she, he\nYour answer:"


def chat(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def words(example: Example) -> tuple[str, ...]:
    """Everything of an example that goes into its prompt, with spaces around."""
    return (f"  {example.context} \n", f" {example.question}\t", *(f" {option} " for option in example.options))


# Text


def test_a_plain_prompt_is_instruction_context_question_and_options(gpt2: LanguageModel, t5: LanguageModel) -> None:
    assert prompt_text(EXAMPLES[0], INSTRUCTIONS[0]) == PLAIN
    assert render_prompt(gpt2, EXAMPLES[0], INSTRUCTIONS[0]) == PLAIN
    assert render_prompt(t5, EXAMPLES[0], INSTRUCTIONS[0]) == PLAIN


def test_a_chat_prompt_is_a_user_turn_and_the_opening_of_the_answer(llama: LanguageModel) -> None:
    assert render_prompt(llama, EXAMPLES[0], INSTRUCTIONS[0]) == chat(PLAIN)


def test_whether_a_model_has_a_chat_template_is_told(llama: LanguageModel, gpt2: LanguageModel) -> None:
    assert uses_chat_template(llama)
    assert not uses_chat_template(gpt2)


@pytest.mark.parametrize("context", ["", "   ", "\n\t"])
def test_an_empty_context_leaves_its_line_out(llama: LanguageModel, gpt2: LanguageModel, context: str) -> None:
    example = replace(EXAMPLES[1], context=context)
    assert render_prompt(gpt2, example, INSTRUCTIONS[0]) == PLAIN_WITHOUT_CONTEXT
    assert render_prompt(llama, example, INSTRUCTIONS[0]) == chat(PLAIN_WITHOUT_CONTEXT)


def test_spaces_around_the_parts_do_not_show(llama: LanguageModel) -> None:
    context, question, *options = words(EXAMPLES[0])
    spaced = replace(EXAMPLES[0], context=context, question=question, options=tuple(options))
    assert prompt_text(spaced, " Answer the question. \n") == PLAIN
    assert encode(llama, spaced, INSTRUCTIONS[0]) == encode(llama, EXAMPLES[0], INSTRUCTIONS[0])


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('give a system turn') }}", "{% if %}", "{{ messages[3].x.y }}"]
)
def test_a_chat_template_that_fails_is_an_error_with_the_model_named(llama: LanguageModel, template: str) -> None:
    llama.tokenizer.chat_template = template
    with pytest.raises(InputError, match="tiny-llama: its chat template"):
        render_prompt(llama, EXAMPLES[0], INSTRUCTIONS[0])


# Tokens


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.template)
def test_chat_prompt_and_option_are_the_tokens_of_the_whole_text(llama: LanguageModel, example: Example) -> None:
    encoded = encode(llama, example, INSTRUCTIONS[0])
    text = render_prompt(llama, example, INSTRUCTIONS[0])
    for option, ids in zip(example.options, encoded.option_ids, strict=True):
        whole = llama.tokenizer(text + option, add_special_tokens=False).input_ids
        assert encoded.prompt_ids + ids == whole
        assert llama.tokenizer.decode(ids) == option


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.template)
def test_plain_prompt_and_option_are_the_tokens_of_the_whole_text(gpt2: LanguageModel, example: Example) -> None:
    encoded = encode(gpt2, example, INSTRUCTIONS[0])
    text = render_prompt(gpt2, example, INSTRUCTIONS[0])
    for option, ids in zip(example.options, encoded.option_ids, strict=True):
        assert encoded.prompt_ids + ids == gpt2.tokenizer(text + " " + option).input_ids
        assert gpt2.tokenizer.decode(ids) == " " + option


def test_a_chat_prompt_starts_with_the_template_and_nothing_else(llama: LanguageModel) -> None:
    encoded = encode(llama, EXAMPLES[0], INSTRUCTIONS[0])
    assert llama.tokenizer.decode(encoded.prompt_ids) == chat(PLAIN)
    assert llama.tokenizer.convert_ids_to_tokens(encoded.prompt_ids[:2])[0] == "<|im_start|>"
    assert encoded.prompt_ids.count(llama.tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2


@pytest.mark.parametrize("architecture", ["t5-gated", "t5-relu", "bart"])
def test_encoder_decoder_options_end_with_the_end_token(lm: LanguageModel, architecture: str) -> None:
    encoded = encode(lm, EXAMPLES[0], INSTRUCTIONS[0])
    start = [lm.tokenizer.bos_token_id] if architecture == "bart" else []
    end = [lm.tokenizer.eos_token_id]

    def bare(text: str) -> list[int]:
        return lm.tokenizer(text, add_special_tokens=False).input_ids

    assert encoded.prompt_ids == start + bare(PLAIN) + end
    assert encoded.option_ids == [start + bare(option) + end for option in EXAMPLES[0].options]


def test_an_encoder_decoder_with_a_chat_template_gets_no_further_special_tokens(t5: LanguageModel) -> None:
    t5.tokenizer.chat_template = "<s>{{ messages[0]['content'] }}</s>"
    encoded = encode(t5, EXAMPLES[0], INSTRUCTIONS[0])
    bos, eos = t5.tokenizer.bos_token_id, t5.tokenizer.eos_token_id
    assert encoded.prompt_ids[0] == bos
    assert encoded.prompt_ids[-1] == eos
    assert encoded.prompt_ids.count(eos) == 1
    assert [ids[-1] for ids in encoded.option_ids] == [eos] * 3


@pytest.mark.parametrize(
    ("around", "front"),
    [
        ("$A <|endoftext|>", []),
        ("<s> $A <|endoftext|>", ["<s>"]),
        ("<s> $A", ["<s>"]),
        ("$A", []),
        ("$A <sep>", []),  # neither the end token nor any that the tokenizer has a name for
        ("<s> <sep> $A <sep> <|endoftext|>", ["<s>", "<sep>"]),
    ],
)
def test_special_tokens_of_a_decoder_only_tokenizer_open_the_prompt_and_never_close_it(
    gpt2: LanguageModel, around: str, front: list[str]
) -> None:
    expected = encode(gpt2, EXAMPLES[0], INSTRUCTIONS[0])
    gpt2.tokenizer = plain_tokenizer(around)
    encoded = encode(gpt2, EXAMPLES[0], INSTRUCTIONS[0])
    assert encoded.prompt_ids[: len(front)] == gpt2.tokenizer.convert_tokens_to_ids(front)
    if "<sep>" not in around:  # one more special token leaves room for one word less
        assert encoded.prompt_ids[len(front) :] == expected.prompt_ids
        assert encoded.option_ids == expected.option_ids
    assert gpt2.tokenizer.decode(encoded.prompt_ids[len(front) :]) == PLAIN
    assert [gpt2.tokenizer.decode(ids) for ids in encoded.option_ids] == [f" {text}" for text in EXAMPLES[0].options]


def test_an_end_token_that_the_template_itself_writes_is_kept(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}<|im_end|>{% endfor %}"
    encoded = encode(llama, EXAMPLES[0], INSTRUCTIONS[0])
    assert encoded.prompt_ids[-1] == llama.tokenizer.eos_token_id
    assert llama.tokenizer.decode(encoded.option_ids[2]) == "unknown"


def test_an_option_that_merges_with_the_prompt_takes_the_merged_token(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }} {% endfor %}"  # " older" is one token
    example = replace(EXAMPLES[1], options=("older", "she"))
    encoded = encode(llama, example, INSTRUCTIONS[0])
    text = f"{prompt_text(example, INSTRUCTIONS[0])} "
    for option, ids in zip(example.options, encoded.option_ids, strict=True):
        assert encoded.prompt_ids + ids == llama.tokenizer(text + option, add_special_tokens=False).input_ids
        assert llama.tokenizer.decode(ids) == f" {option}"


def test_many_examples_are_encoded_in_their_order(llama: LanguageModel) -> None:
    assert encode_all(llama, iter(EXAMPLES), INSTRUCTIONS[1]) == [
        encode(llama, example, INSTRUCTIONS[1]) for example in EXAMPLES
    ]
    assert isinstance(encode(llama, EXAMPLES[0], INSTRUCTIONS[0]), EncodedPrompt)


# What can't be encoded


def test_a_decoder_only_prompt_must_leave_room_for_its_longest_option(llama: LanguageModel) -> None:
    encoded = encode(llama, EXAMPLES[2], INSTRUCTIONS[0])
    # The last token of an option is never read.
    needed = len(encoded.prompt_ids) + max(map(len, encoded.option_ids)) - 1
    llama.context_length = needed
    assert encode(llama, EXAMPLES[2], INSTRUCTIONS[0]) == encoded
    llama.context_length = needed - 1
    with pytest.raises(InputError, match=rf"takes {needed} tokens, but tiny-llama reads at most {needed - 1};"):
        encode(llama, EXAMPLES[2], INSTRUCTIONS[0])


def test_an_encoder_decoder_prompt_needs_room_of_its_own(t5: LanguageModel) -> None:
    encoded = encode(t5, EXAMPLES[2], INSTRUCTIONS[0])
    t5.context_length = len(encoded.prompt_ids)
    assert encode(t5, EXAMPLES[2], INSTRUCTIONS[0]) == encoded
    t5.context_length -= 1
    with pytest.raises(InputError, match=f"reads at most {t5.context_length};"):
        encode(t5, EXAMPLES[2], INSTRUCTIONS[0])


def test_a_model_without_limit_takes_any_prompt(t5: LanguageModel) -> None:
    assert t5.context_length is None
    assert len(encode(t5, replace(LONG_EXAMPLE, context=LONG_EXAMPLE.context * 30), "").prompt_ids) > 2000


def test_a_prompt_that_is_too_long_is_named_by_its_source(llama: LanguageModel) -> None:
    llama.context_length = 20
    with pytest.raises(InputError, match=r"^Age\.jsonl:7: .* at most 20"):
        encode(llama, replace(EXAMPLES[0], source="Age.jsonl:7"), INSTRUCTIONS[0])


def test_an_option_without_tokens_is_refused(llama: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"option '☃' has no tokens"):
        encode(llama, replace(EXAMPLES[1], options=("she", "☃")), INSTRUCTIONS[0])


def test_a_prompt_that_does_not_fit_is_found_among_many_before_anything_runs(llama: LanguageModel) -> None:
    many = [replace(EXAMPLES[1], question=f"Who cooks {number}?") for number in range(20)]
    llama.context_length = 120
    check_prompts(llama, many, INSTRUCTIONS)
    with pytest.raises(InputError, match="at most 120"):
        check_prompts(llama, [*many, LONG_EXAMPLE], INSTRUCTIONS)
    with pytest.raises(InputError, match="at most 120"):
        check_prompts(llama, many, [INSTRUCTIONS[0], INSTRUCTIONS[1] * 6])


# Sentences


def test_sentences_that_follow_a_context_are_its_continuations(gpt2: LanguageModel, t5: LanguageModel) -> None:
    alone = Example("", "", ("The nurse was late.", "The doctor left."), 1, "t", form=SENTENCES)
    after = replace(alone, context="They met at noon.")
    (begin,) = encode(gpt2, alone, "").prompt_ids
    found = encode(gpt2, after, "not used")
    for option, ids in zip(after.options, found.option_ids, strict=True):
        assert gpt2.tokenizer.decode([*found.prompt_ids[1:], *ids]) == f"They met at noon. {option}"
    assert found.prompt_ids == [begin, *gpt2.tokenizer("They met at noon.", add_special_tokens=False).input_ids]
    assert encode(t5, after, "").prompt_ids == t5.tokenizer("They met at noon.").input_ids
    assert encode(t5, after, "").option_ids == encode(t5, alone, "").option_ids
