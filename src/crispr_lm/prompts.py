"""Prompts: what the model sees, as text and as tokens. Tasks and models meet here.

Knows examples, instructions and tokenizers; knows nothing about weights, scores or metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jinja2

from crispr_lm.errors import InputError
from crispr_lm.tasks.task import OPEN, SENTENCES, Example
from crispr_lm.text_limits import check_characters, check_embedded

Asked = TypeVar("Asked", Example, tuple[str, Example])

ENCODED_AT_ONCE = 4096
"""Examples whose tokens are in memory at a time: enough to find prompts of like length among."""

TEMPLATE_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)
"""What a chat template, a small program that comes with the model, can raise beside its own kind of error."""


class Reader(Protocol):
    """What encoding needs of a model: a `LanguageModel`, or a `ModelSource` whose weights are not read yet."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def tokenizer(self) -> Any: ...  # noqa: D102
    @property
    def is_encoder_decoder(self) -> bool: ...  # noqa: D102
    @property
    def context_length(self) -> int | None: ...  # noqa: D102
    @property
    def embedded_tokens(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class EncodedPrompt:
    """Exactly the tokens that are scored.

    Attributes:
        prompt_ids: The prompt with its special tokens; what the encoder reads in an encoder-decoder model.
        option_ids: Per option its own tokens. In an encoder-decoder model these include what the tokenizer puts around
            a target (the end token).
    """

    prompt_ids: list[int]
    option_ids: list[list[int]]


def open_question(question: str, instruction: str) -> str:
    """What a model is asked where neither context nor options are shown, before any chat template."""
    return f"{instruction.strip()}\nQuestion: {question.strip()}\nYour answer:"


def prompt_text(example: Example, instruction: str) -> str:
    """The prompt before any chat template: instruction, context, question, options (the authors' layout).

    An open question is asked without its options.
    """
    lines = [instruction.strip()]
    if example.context.strip():
        lines.append(f"Context: {example.context.strip()}")
    if example.question.strip():
        lines.append(f"Question: {example.question.strip()}")
    if example.form != OPEN:
        lines.append(f"Answer options: {', '.join(option.strip() for option in example.options)}")
    lines.append("Your answer:")
    return "\n".join(lines)


def has_chat_template(lm: Reader) -> bool:
    """Whether prompts go through the tokenizer's chat template."""
    return getattr(lm.tokenizer, "chat_template", None) is not None


def render_text(lm: Reader, text: str) -> str:
    """Return what the model sees of a user's words: a user turn and the generation prompt for chat models."""
    return render_conversation(lm, [text])


def render_conversation(lm: Reader, turns: Sequence[str]) -> str:
    """Return what the model sees of a conversation that it is to go on with.

    Args:
        lm: The model.
        turns: What was said, the user and the model in turn; the user first and last. Without a chat template they
            follow each other on lines of their own.

    Raises:
        InputError: an even number of turns, or a chat template that takes no such conversation.
    """
    if len(turns) % 2 == 0:
        raise InputError(f"a conversation must end with the user's words, which {len(turns)} turns do not; add them")
    if not has_chat_template(lm):
        return "\n".join(turns)
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    try:
        # enable_thinking: models that can think aloud shall answer at once; other templates don't look at it.
        rendered = lm.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (jinja2.TemplateError, *TEMPLATE_ERRORS) as error:
        what = "a single user turn" if len(turns) == 1 else f"{len(turns)} turns"
        raise InputError(f"model {lm.name}: its chat template fails on {what} ({error})") from error
    assert isinstance(rendered, str)
    return rendered


def render_prompt(lm: Reader, example: Example, instruction: str) -> str:
    """Return exactly what the model sees: a user turn and the generation prompt for chat models, else plain text."""
    return render_text(lm, prompt_text(example, instruction))


def encode_text(lm: Reader, text: str) -> list[int]:
    """Return the tokens of a user's words as the model sees them, to be continued by the model."""
    return encode_conversation(lm, [text])


def encode_conversation(lm: Reader, turns: Sequence[str]) -> list[int]:
    """Return the tokens of `render_conversation`, to be continued by the model; raises as it does."""
    check_characters(lm, ["\n".join(turns)], "the conversation")
    add_special_tokens = not has_chat_template(lm)
    rendered = render_conversation(lm, turns)
    if lm.is_encoder_decoder:
        ids = list(lm.tokenizer(rendered, add_special_tokens=add_special_tokens).input_ids)
    else:
        ids = _continuable(lm.tokenizer, [rendered], add_special_tokens=add_special_tokens)[0]
    check_embedded(lm, [ids], "the conversation")
    return ids


def encode(lm: Reader, example: Example, instruction: str) -> EncodedPrompt:
    """Return exactly the tokens that are scored.

    Decoder-only: prompt and option are tokenized together and the prompt's tokens taken off the front, so that an
    option is split as it would be in running text; where the tokenizer merges across the border the option is tokenized
    alone. Without a chat template a space parts "Your answer:" from the option. Encoder-decoder: the option is
    tokenized as a target, with the end token that the tokenizer appends.

    The options of an example of sentences are texts by themselves, without instruction and chat template: they follow
    the token that texts begin with and the example's context, if it has one; an encoder reads the context alone.

    Raises:
        InputError: the longest of prompt and option does not fit the model's context, an option has no tokens, or a
            token no embedding.
    """
    _check_characters(lm, example, instruction)
    if example.form == SENTENCES:
        return _encode_sentences(lm, example)
    tokenizer = lm.tokenizer
    rendered = render_prompt(lm, example, instruction)
    templated = has_chat_template(lm)
    options = [option.strip() for option in example.options]
    if lm.is_encoder_decoder:
        # A chat template writes the special tokens itself.
        prompt_ids = list(tokenizer(rendered, add_special_tokens=not templated).input_ids)
        option_ids = [list(ids) for ids in tokenizer(text_target=options).input_ids]
    else:
        lead = "" if templated else " "
        texts = [rendered, *(rendered + lead + option for option in options)]
        prompt_ids, *together = _continuable(tokenizer, texts, add_special_tokens=not templated)
        alone = tokenizer([lead + option for option in options], add_special_tokens=False).input_ids
        option_ids = _behind(prompt_ids, together, alone)
    own_ids = tokenizer(options, add_special_tokens=False).input_ids if lm.is_encoder_decoder else option_ids
    for option, ids in zip(options, own_ids, strict=True):
        if not ids:
            raise InputError(
                f"{example.source or 'example'}: option {option!r} has no tokens in {lm.name}'s tokenizer; write it "
                "otherwise or leave the example out"
            )
    _check_length(lm, example, len(prompt_ids), max(map(len, option_ids)))
    check_embedded(lm, [prompt_ids, *option_ids], example.source or "example")
    return EncodedPrompt(prompt_ids, option_ids)


def beginning(lm: Reader) -> int:
    """The token that a text begins with: the beginning-of-text token, or the end token that parts texts in training.

    Raises:
        InputError: the tokenizer has neither.
    """
    for token in (lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise InputError(f"the tokenizer of {lm.name} has no token that texts begin or end with, so they can't be scored")


def _encode_sentences(lm: Reader, example: Example) -> EncodedPrompt:
    context, options = example.context, list(example.options)
    if lm.is_encoder_decoder:
        prompt_ids = list(lm.tokenizer(context).input_ids) or [beginning(lm)]
        option_ids = [list(ids) for ids in lm.tokenizer(text_target=options).input_ids]
    else:
        lead = " " if context else ""
        texts = [context, *(context + lead + option for option in options), *(lead + option for option in options)]
        before, *others = (list(ids) for ids in lm.tokenizer(texts, add_special_tokens=False).input_ids)
        prompt_ids = [beginning(lm), *before]
        option_ids = _behind(before, others[: len(options)], others[len(options) :])
    for option, ids in zip(example.options, option_ids, strict=True):
        if not ids:
            raise InputError(
                f"{example.source or 'example'}: {option!r} has no tokens in {lm.name}'s tokenizer; write it "
                "otherwise or leave the example out"
            )
    _check_length(lm, example, len(prompt_ids), max(map(len, option_ids)))
    check_embedded(lm, [prompt_ids, *option_ids], example.source or "example")
    return EncodedPrompt(prompt_ids, option_ids)


def _behind(before: list[int], together: Sequence[list[int]], alone: Sequence[Sequence[int]]) -> list[list[int]]:
    """The options' tokens behind a beginning: as in running text, or, merged across the border, as they are alone."""
    count = len(before)
    return [
        ids[count:] if ids[:count] == before else list(separate) for ids, separate in zip(together, alone, strict=True)
    ]


def encode_all(lm: Reader, examples: Iterable[Example], instruction: str) -> list[EncodedPrompt]:
    """Encode many examples under one instruction."""
    if not isinstance(instruction, str):
        raise InputError(f"an instruction must be a string, not {instruction!r}")
    return [encode(lm, example, instruction) for example in examples]


def portions(examples: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    """Cut many examples (with their instructions) into portions to be encoded in turn, so memory stays flat."""
    for start in range(0, len(examples), ENCODED_AT_ONCE):
        yield examples[start : start + ENCODED_AT_ONCE]


def check_prompts(lm: Reader, examples: Sequence[Example], instructions: Sequence[str]) -> None:
    """Encode every example once and the longest ones under every instruction: what can't fit is known at once.

    Raises:
        InputError: as in `encode`.
    """
    for example in examples:  # not kept: the tokens of a large task take more memory than its text
        encode(lm, example, max(instructions, key=len))
    longest = sorted(examples, key=lambda example: -len(prompt_text(example, "")))[:8]
    for instruction in instructions:
        encode_all(lm, longest, instruction)


def _check_characters(lm: Reader, example: Example, instruction: str) -> None:
    texts = [prompt_text(example, instruction), *example.options]
    check_characters(lm, texts, example.source or "example")


def _check_length(lm: Reader, example: Example, prompt_length: int, option_length: int) -> None:
    limit = lm.context_length
    needed = max(prompt_length, option_length) if lm.is_encoder_decoder else prompt_length + option_length - 1
    if limit is not None and needed > limit:
        raise InputError(
            f"{example.source or 'example'}: the prompt takes {needed} tokens, but {lm.name} reads at most {limit}; "
            "shorten the context or the instruction, or leave the example out"
        )


def _continuable(tokenizer: Any, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
    """Tokenize, without an end token that the tokenizer appends by itself: an option continues its prompt."""
    sequences = [list(ids) for ids in tokenizer(texts, add_special_tokens=add_special_tokens).input_ids]
    plain = tokenizer(texts[:1], add_special_tokens=False).input_ids[0]
    appends_end = sequences[0][-1:] == [tokenizer.eos_token_id] and list(plain[-1:]) != [tokenizer.eos_token_id]
    return [ids[:-1] for ids in sequences] if appends_end else sequences
