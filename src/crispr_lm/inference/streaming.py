"""What a model writes to a user, token by token.

Knows conversations and a model; knows no edit, no benchmark, no terminal and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.inference.kv_cache import cache_name
from crispr_lm.inference.layouts import capabilities_of
from crispr_lm.inference.prompts import encode_conversation
from crispr_lm.model.numerics import not_finite

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

Scope = Callable[[], AbstractContextManager[Any]]
"""Gives what the model runs in: nothing, or an applied edit."""

UNFINISHED = "\ufffd"
"""What a tokenizer writes for the first bytes of a character whose other bytes are still to come."""


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        seed: Of the draws. Two answers of one seed use the same random numbers, so that they differ by the edit alone.

    Raises:
        InputError: no token at all, or a temperature that is negative or not finite.
    """

    max_new_tokens: int = 200
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what nothing can be written with."""
        if self.max_new_tokens < 1:
            raise InputError(f"an answer of {self.max_new_tokens} tokens can't be written; allow at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature {self.temperature} can't be used; give 0 (greedy) or a positive number")


def stream_answer(
    lm: LanguageModel, turns: Sequence[str], decoding: Decoding, scope: Scope = nullcontext
) -> Iterator[str]:
    """Answer the last of the turns; at most as long as the model's context allows.

    Args:
        lm: The model.
        turns: User and model in turn, the user first and last.
        decoding: How the answer is written.
        scope: What every forward pass runs in, left before anything is yielded (`Edit.checked` gives one).

    Yields:
        The answer so far, once per token, without half a character at its end.

    Raises:
        InputError: the conversation does not fit the model's context.
    """
    prompt_ids = encode_conversation(lm, turns)
    written: list[int] = []
    for token in _tokens(lm, prompt_ids, decoding, scope):
        written.append(token)
        yield _text(lm, written).rstrip(UNFINISHED)


def _text(lm: LanguageModel, ids: list[int]) -> str:
    text: str = lm.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()


def _read_once(lm: LanguageModel, prompt_ids: list[int]) -> None:
    """One pass over a prompt, to be watched."""
    input_ids = torch.tensor([prompt_ids], device=lm.device)
    lm.model(input_ids=input_ids, **({"decoder_input_ids": input_ids[:, :1]} if lm.is_encoder_decoder else {}))


def _tokens(lm: LanguageModel, prompt_ids: list[int], decoding: Decoding, scope: Scope) -> Iterator[int]:
    """Tokens of an answer, without the end token."""
    longest = _longest_answer(lm, prompt_ids)
    capabilities_of(lm)  # before `scope`, which may change the model
    ends = lm.model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    generator = torch.Generator().manual_seed(decoding.seed)
    reader = _encoder_decoder_reader(lm, prompt_ids, scope) if lm.is_encoder_decoder else _reader(lm, prompt_ids, scope)
    token: int | None = None
    for _ in range(min(decoding.max_new_tokens, longest)):
        logits = reader(token)
        if not bool(torch.isfinite(logits).any()) or bool(torch.isnan(logits).any()):
            with torch.inference_mode(), scope():
                raise CrisprError(not_finite(lm, lambda: _read_once(lm, prompt_ids)))
        token = _pick(logits, decoding.temperature, generator)
        if token in ends:
            return
        yield token


def _longest_answer(lm: LanguageModel, prompt_ids: list[int]) -> int:
    """Tokens that an answer may have.

    Raises:
        InputError: none.
    """
    limit = lm.context_length
    if not prompt_ids:
        raise InputError(f"there is nothing for {lm.name} to answer; write some words")
    if limit is None:
        return 2**31
    longest = limit + 1 - len(prompt_ids)
    if longest < 1:
        raise InputError(
            f"the conversation takes {len(prompt_ids)} tokens, but {lm.name} reads at most {limit}; start a new one"
        )
    return limit if lm.is_encoder_decoder else longest


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    shares = (logits.double().cpu() / temperature).softmax(dim=-1)
    # By a point on the line of cumulated shares: equal points give equal tokens where shares are nearly equal.
    point = torch.rand((), generator=generator, dtype=torch.float64)
    return min(int(torch.searchsorted(shares.cumsum(dim=0), point)), len(shares) - 1)


_Read = Callable[[int | None], Tensor]
"""Reads the token written last (None at first), returns float32 logits (vocabulary,) of the next."""


def _reader(lm: LanguageModel, prompt_ids: list[int], scope: Scope) -> _Read:
    """Of a decoder-only model: from its cache where this was found to changes nothing."""
    ids, cache = list(prompt_ids), None
    use_cache = capabilities_of(lm).cache

    def read(token: int | None) -> Tensor:
        nonlocal cache
        if token is not None:
            ids.append(token)
        new = ids if cache is None else ids[-1:]
        with torch.inference_mode(), scope():
            output = lm.model(
                input_ids=torch.tensor([new], device=lm.device),
                attention_mask=torch.ones((1, len(ids)), dtype=torch.long, device=lm.device),
                **{cache_name(lm): cache},
                use_cache=use_cache,
                return_dict=True,
            )
        cache = getattr(output, cache_name(lm)) if use_cache else None
        last: Tensor = output.logits[0, -1].float()
        return last

    return read


def _encoder_decoder_reader(lm: LanguageModel, prompt_ids: list[int], scope: Scope) -> _Read:
    encoded = cache = None
    given = torch.tensor([prompt_ids], device=lm.device)

    def read(token: int | None) -> Tensor:
        nonlocal encoded, cache
        start = lm.model.generation_config.decoder_start_token_id
        with torch.inference_mode(), scope():
            if encoded is None:
                encoded = lm.model.get_encoder()(
                    input_ids=given, attention_mask=torch.ones_like(given), return_dict=True
                )
            output = lm.model(
                encoder_outputs=encoded,
                attention_mask=torch.ones_like(given),
                decoder_input_ids=torch.tensor([[start if token is None else token]], device=lm.device),
                **{cache_name(lm): cache},
                use_cache=True,
                return_dict=True,
            )
        cache = getattr(output, cache_name(lm))
        last: Tensor = output.logits[0, -1].float()
        return last

    return read
