"""What encoding needs of a model."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Protocol

PromptFormat = Literal["chat", "plain"]
"""Whether prompts go through the tokenizer's chat template, where it has one, or are read as they are."""


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
    def prompt_format(self) -> PromptFormat: ...  # noqa: D102
    @property
    def moment(self) -> datetime: ...  # noqa: D102
    @property
    def embedded_tokens(self) -> int | None: ...  # noqa: D102
