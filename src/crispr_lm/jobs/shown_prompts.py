"""Prompts of the user's own whose answers a report shows before and after. No edit is found or chosen on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import encode_text
from crispr_lm.inference.reader import Reader
from crispr_lm.inference.text_limits import check_characters
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.files import text_lines
from crispr_lm.tasks.jsonl import json_rows, text_field

TOKENS = 64
"""Tokens of an answer: some three sentences, enough to see what it says of people."""


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt, what a model answered to it elsewhere (empty if that is not known), and where it stands."""

    text: str
    logged: str
    source: str


def read_prompts(path: Path | None) -> tuple[ShownPrompt, ...]:
    """Prompts of JSON Lines (``prompt``, and if known ``answer``), or of a text (``.txt``) with one on each line.

    Raises:
        InputError: the file can't be read, or holds none.
    """
    if path is None:
        return ()
    if path.suffix.lower() == ".txt":
        prompts = tuple(ShownPrompt(line.strip(), "", where) for where, line in text_lines(path))
    else:
        prompts = tuple(
            ShownPrompt(
                text_field(row, "prompt", where),
                text_field(row, "answer", where, may_be_empty=True) if row.get("answer") is not None else "",
                where,
            )
            for where, row in json_rows(path)
        )
    if not prompts:
        raise InputError(f"{path}: no prompts in it; give one on each line")
    return prompts


def prompts_fit(prompts: Sequence[ShownPrompt]) -> Callable[[Reader], None]:
    """The check that prompts and their answers fit a model."""

    def check(reader: Reader) -> None:
        for prompt in prompts:
            check_characters(reader, [prompt.text], prompt.source)
            length, limit = len(encode_text(reader, prompt.text)), reader.context_length
            needed = max(length, TOKENS) if reader.is_encoder_decoder else length + TOKENS
            if limit is not None and needed > limit:
                raise InputError(
                    f"{prompt.source}: the prompt and {TOKENS} tokens of an answer take {needed}, but {reader.name} "
                    f"reads at most {limit}; shorten the prompt, or leave it out"
                )

    return check


def answers_to(lm: LanguageModel, prompts: Sequence[ShownPrompt], settings: RunSettings) -> list[str]:
    """What the model as it is now writes to each prompt, greedily, at most `TOKENS` tokens."""
    encoded = [encode_text(lm, prompt.text) for prompt in prompts]
    written = continuations(lm, encoded, TOKENS, settings.batch_size)
    return [lm.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]


def shown_rows(prompts: Sequence[ShownPrompt], before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    """The entry for ``results.json``; empty without prompts."""
    rows = [
        {"prompt": prompt.text, "logged": prompt.logged, "before": old, "after": new, "changed": old != new}
        for prompt, old, new in zip(prompts, before, after, strict=True)
    ]
    return {"prompts": rows} if rows else {}
