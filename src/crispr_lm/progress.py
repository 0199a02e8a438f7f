"""How long jobs tell how far they are. The library reports steps; who shows them, and how, is not its business."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Something that can show the progress of a step, for example `crispr_lm.report.terminal.terminal_progress`."""

    @property
    def can_ask(self) -> bool:
        """Whether there is someone to answer questions."""
        ...

    def step(self, description: str, total: int | None = None) -> AbstractContextManager[Callable[[int], None]]:
        """Open a step of `total` units (None: unknown); the result is called with the number of units just done."""
        ...

    def say(self, sentence: str) -> None:
        """Tell the user something worth knowing now."""
        ...

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        """Have the user choose a trial of the Pareto front (`Trial.summary` each); returns its number."""
        ...


class SilentProgress:
    """Shows nothing."""

    can_ask = False

    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Do nothing."""
        yield lambda _count: None

    def say(self, sentence: str) -> None:
        """Do nothing."""

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        """Take the recommended one: there is no one to ask."""
        return recommended
