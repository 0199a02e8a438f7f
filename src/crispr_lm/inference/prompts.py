"""Prompts: what the model sees, as text and as tokens. Tasks and models meet here.

Knows examples, instructions and tokenizers; knows nothing about weights, scores or metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from crispr_lm.errors import InputError
from crispr_lm.inference.chat_template import TEMPLATE_ERRORS, AnswerPlace, find_answer_place, render_before_answer
from crispr_lm.inference.reader import Reader
from crispr_lm.inference.text_limits import check_characters, check_embedded
from crispr_lm.tasks.base import FREE, OPEN, SENTENCES, Example
from crispr_lm.tasks.languages import LANGUAGES

Asked = TypeVar("Asked", Example, tuple[str, Example])

ENCODED_AT_ONCE = 4096
"""Examples whose tokens are in memory at a time: enough to find prompts of like length among."""


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

    An open question is asked without its options; a free prompt is what the user wrote. The words around a question
    are in the example's language.
    """
    if example.form == FREE:
        return f"{instruction.strip()}\n{example.question.strip()}".strip()
    words = LANGUAGES[example.language]
    lines = [instruction.strip()]
    if example.context.strip():
        lines.append(words.context + example.context.strip())
    if example.question.strip():
        lines.append(words.question + example.question.strip())
    if example.form != OPEN:
        lines.append(words.options + words.separator.join(option.strip() for option in example.options))
    lines.append(words.answer)
    return "\n".join(lines)


def uses_chat_template(lm: Reader) -> bool:
    """Whether prompts go through the tokenizer's chat template."""
    return lm.prompt_format == "chat" and getattr(lm.tokenizer, "chat_template", None) is not None


def answer_place(lm: Reader) -> AnswerPlace:
    """How the model's chat template frames the user's words and an answer; plain text parts them by a space.

    Raises:
        InputError: the template leaves no place where an answer could be scored.
    """
    if not uses_chat_template(lm):
        return AnswerPlace(lead="" if lm.is_encoder_decoder else " ", how="plain text, without a chat template")
    return find_answer_place(lm.tokenizer, lm.name, encoder_decoder=lm.is_encoder_decoder, moment=lm.moment)


def render_text(lm: Reader, text: str) -> str:
    """Return what the model sees of a user's words: a user turn and what stands before an answer in chat models."""
    return render_conversation(lm, [text])


def render_conversation(lm: Reader, turns: Sequence[str]) -> str:
    """Return what the model sees of a conversation, up to its answer.

    White space that an answer begins with is not there: it belongs to the answer's tokens (`AnswerPlace.lead`).

    Args:
        lm: The model.
        turns: What was said, the user and the model in turn; the user first and last. Without a chat template they
            follow each other on lines of their own.

    Raises:
        InputError: an even number of turns, or a chat template that takes no such conversation.
    """
    if len(turns) % 2 == 0:
        raise InputError(f"a conversation must end with the user's words, which {len(turns)} turns do not; add them")
    if not uses_chat_template(lm):
        return "\n".join(turns)
    place = answer_place(lm)
    try:
        return render_before_answer(lm.tokenizer, turns, place, lm.moment)
    except TEMPLATE_ERRORS as error:
        what = "a single user turn" if len(turns) == 1 else f"{len(turns)} turns"
        raise InputError(f"model {lm.name}: its chat template fails on {what} ({error})") from error


def render_prompt(lm: Reader, example: Example, instruction: str) -> str:
    """Return exactly what the model sees: of a chat model its user turn and what stands before an answer.

    Raises:
        InputError: the chat template does not show the question as it is.
    """
    text = prompt_text(example, instruction)
    rendered = render_text(lm, text)
    if text not in rendered:
        raise InputError(
            f"{example.source or 'example'}: the chat template of {lm.name} changes the question's words, so another "
            "question would be scored; write it otherwise, leave it out, or give --prompt-format plain"
        )
    return rendered


def encode_text(lm: Reader, text: str) -> list[int]:
    """Return the tokens of a user's words as the model sees them, to be continued by the model."""
    return encode_conversation(lm, [text])


def encode_conversation(lm: Reader, turns: Sequence[str]) -> list[int]:
    """Return the tokens of `render_conversation`, to be continued by the model; raises as it does."""
    check_characters(lm, ["\n".join(turns)], "the conversation")
    rendered = render_conversation(lm, turns)
    if lm.is_encoder_decoder:
        ids = list(lm.tokenizer(rendered, add_special_tokens=not uses_chat_template(lm)).input_ids)
    else:
        ids = _running_text(lm, [rendered])[0]
    check_embedded(lm, [ids], "the conversation")
    return ids


def encode(lm: Reader, example: Example, instruction: str) -> EncodedPrompt:
    """Return exactly the tokens that are scored.

    Decoder-only: prompt and each option are tokenized together, as running text. What all of them begin with is the
    prompt, the rest is scored: where a tokenizer joins the prompt's last sign to an option's first, that token is the
    option's. White space that the chat template begins an answer with belongs to the option; without a chat template a
    space parts "Your answer:" from it. Encoder-decoder: the option is tokenized as a target, with the end token that
    the tokenizer appends.

    The options of an example of sentences are texts by themselves, without instruction and chat template: they follow
    the token that texts begin with and the example's context, if it has one; an encoder reads the context alone.

    Raises:
        InputError: the longest of prompt and option does not fit the model's context, an option has no tokens, a token
            no embedding, or the chat template leaves no place where an answer could be scored.
    """
    _check_characters(lm, example, instruction)
    if example.form == SENTENCES:
        return _encode_sentences(lm, example)
    tokenizer = lm.tokenizer
    rendered = render_prompt(lm, example, instruction)
    options = [option.strip() for option in example.options]
    if lm.is_encoder_decoder:
        # A chat template writes the special tokens itself.
        prompt_ids = list(tokenizer(rendered, add_special_tokens=not uses_chat_template(lm)).input_ids)
        option_ids = [list(ids) for ids in tokenizer(text_target=options).input_ids]
    else:
        lead = answer_place(lm).lead
        prompt_ids, option_ids = _parted(_running_text(lm, [rendered, *(rendered + lead + text for text in options)]))
    return _checked(lm, example, options, EncodedPrompt(prompt_ids, option_ids))


def seen_prompt(lm: Reader, example: Example, instruction: str) -> dict[str, Any]:
    """One question as the model sees it, token by token, for people to check; JSON types.

    Returns:
        ``source``, ``format`` ("chat" or "plain"), ``place`` (how the answer's place was found), ``prompt`` (texts of
        the tokens that are read) and ``options`` (per option its texts of the tokens that are scored).

    Raises:
        InputError: as in `encode`.
    """
    encoded = encode(lm, example, instruction)
    return {
        "source": example.source,
        "format": "chat" if uses_chat_template(lm) else "plain",
        "place": "sentences by themselves, without a prompt" if example.form == SENTENCES else answer_place(lm).how,
        "prompt": _texts(lm, encoded.prompt_ids),
        "options": [_texts(lm, ids, [] if lm.is_encoder_decoder else encoded.prompt_ids) for ids in encoded.option_ids],
    }


def _texts(lm: Reader, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """What each token adds to the text; a character of several tokens stands at its last one."""
    texts, shown = [], lm.tokenizer.decode(list(before))
    for end in range(1, len(ids) + 1):
        text = lm.tokenizer.decode([*before, *ids[:end]])
        whole = not text.endswith("\ufffd") and text.startswith(shown)
        texts.append(text[len(shown) :] if whole else "")
        shown = text if whole else shown
    return texts


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
        texts = [context, *(context + lead + option for option in options)]
        before, option_ids = _parted(lm.tokenizer(texts, add_special_tokens=False).input_ids)
        prompt_ids = [beginning(lm), *before]
    return _checked(lm, example, options, EncodedPrompt(prompt_ids, option_ids))


def _checked(lm: Reader, example: Example, options: Sequence[str], encoded: EncodedPrompt) -> EncodedPrompt:
    """The prompt, if its options have tokens, it fits the model's context, and every token has an embedding."""
    _check_options(lm, example, options)
    _check_length(lm, example, len(encoded.prompt_ids), max(map(len, encoded.option_ids)))
    check_embedded(lm, [encoded.prompt_ids, *encoded.option_ids], example.source or "example")
    return encoded


def _parted(sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Part running texts behind the tokens that all share.

    Args:
        sequences: Tokens of a prompt, then of the prompt with each option.

    Returns:
        The tokens shared by all, and per option the others.
    """
    shared = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return list(sequences[0][:shared]), [list(ids[shared:]) for ids in sequences[1:]]


def _check_options(lm: Reader, example: Example, options: Sequence[str]) -> None:
    for option, ids in zip(options, lm.tokenizer(options, add_special_tokens=False).input_ids, strict=True):
        if not ids:
            raise InputError(
                f"{example.source or 'example'}: option {option!r} has no tokens in {lm.name}'s tokenizer; write it "
                "otherwise or leave the example out"
            )


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


def _running_text(lm: Reader, texts: list[str]) -> list[list[int]]:
    """Tokenize texts that a decoder goes on with.

    What a tokenizer puts behind a text by itself, an end or separator token, is left away: an option continues its
    prompt. What it puts in front is there once: a chat template writes it itself.
    """
    tokenizer = lm.tokenizer
    sequences = [list(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]
    if not uses_chat_template(lm):
        front = _front_tokens(tokenizer)
        return [[*front, *ids] for ids in sequences]
    first, text = tokenizer.bos_token_id, tokenizer.bos_token
    if first is None or any(rendered.startswith(text * 2) for rendered in texts):
        return sequences
    return [ids[1:] if ids[:2] == [first, first] else ids for ids in sequences]


_fronts: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()


def _front_tokens(tokenizer: Any) -> list[int]:
    """The special tokens that a tokenizer puts in front of a text."""
    if tokenizer not in _fronts:
        for word in ("a", "the", "1", "."):  # a tokenizer may lack some
            bare = list(tokenizer(word, add_special_tokens=False).input_ids)
            whole = list(tokenizer(word).input_ids)
            starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
            if bare and starts:
                _fronts[tokenizer] = whole[: starts[0]]
                break
        else:
            raise InputError("the tokenizer splits a word otherwise where it adds special tokens; use another one")
    return _fronts[tokenizer]
