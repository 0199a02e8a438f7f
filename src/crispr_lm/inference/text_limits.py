"""What of a text a model can take, known before it costs anything: its length, and which tokens have an embedding.

Knows tokenizers and numbers of embeddings; knows nothing about examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from crispr_lm.errors import InputError

if TYPE_CHECKING:
    from crispr_lm.inference.reader import Reader

CHARACTERS_PER_TOKEN = 16
"""A text of more characters than this for every token that the model reads does not fit. Prose has 3 to 6 characters a
token, code that is mostly indentation some 8; only long runs of one character have more."""

FEW_CHARACTERS = 100_000
"""So many are always tokenized, in less than a second: the sentence then names the number of tokens."""

MOST_CHARACTERS = 2_000_000
"""More are never tokenized, whatever a model says that it reads: 5 million take half a minute and 3 GB."""


def check_characters(lm: Reader, texts: Iterable[str], where: str) -> None:
    """Refuse a text that can't fit by its length, before it is rendered and tokenized.

    Args:
        lm: The model.
        texts: What it shall read, one by one.
        where: File and line, or another word for what is too long.

    Raises:
        InputError: one is too long.
    """
    limit = lm.context_length
    most = MOST_CHARACTERS if limit is None else min(MOST_CHARACTERS, limit * CHARACTERS_PER_TOKEN)
    most = max(FEW_CHARACTERS, most)
    longest = max(map(len, texts), default=0)
    if longest > most:
        reads = "" if limit is None else f"{lm.name} reads at most {limit} tokens, and "
        raise InputError(
            f"{where}: the text has {longest:,} characters, but {reads}no more than {most:,} characters are tokenized; "
            "shorten it, or leave it out"
        )


def check_embedded(lm: Reader, sequences: Iterable[Sequence[int]], where: str) -> None:
    """Refuse tokens that the model has no embedding of: a tokenizer was extended, and the model was not.

    Args:
        lm: The model.
        sequences: Token ids.
        where: File and line, or another word for what holds them.

    Raises:
        InputError: there is one (it is named).
    """
    size = lm.embedded_tokens
    highest = max((max(ids) for ids in sequences if ids), default=0)
    if size is not None and highest >= size:
        token = lm.tokenizer.convert_ids_to_tokens(highest)
        raise InputError(
            f"{where}: token {token!r} has number {highest} in the tokenizer of {lm.name}, which has embeddings of "
            f"{size} tokens (0 to {size - 1}); take a tokenizer of this model, or remove the token from it"
        )
