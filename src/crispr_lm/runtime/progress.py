"""How far a job is, and how long the rest takes. The library reports steps; it does not know how they are shown.

A step may have several kinds of units (the stages of a search). Time left is estimated from units of one kind alone
and given as a range, because no two of them take equally long.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

Total = int | Mapping[str, int] | None
"""Units of a step: their number, or kind to number in the order in which they are done; None where it is unknown."""

OBSERVATIONS = 20
"""Of each kind the last units count: what a round of a search takes changes as the edit grows."""

OUTER = 10
"""A tenth of the observations is left out at each end of a range (with fewer than ten, none): the first batch of a
model finds its size, and an edit that was tried before takes no time."""

INSTANT = 1e-3
"""Seconds within which nothing is computed: units that an earlier run has done say nothing of how fast this one is."""

MINUTE, HOUR = 60.0, 3600.0


class Advance(Protocol):
    """Called with the number of units just done, and their kind where a step has several."""

    def __call__(self, count: int, /, kind: str = "") -> None:
        """Count them."""
        ...


class Progress(Protocol):
    """Something that can show the progress of a step, for example `crispr_lm.report.progress.terminal_progress`."""

    @property
    def can_ask(self) -> bool:
        """Whether there is someone to answer questions."""
        ...

    def step(self, description: str, total: Total = None) -> AbstractContextManager[Advance]:
        """Open a step, perhaps within another; the result is called with the number of units just done."""
        ...

    def say(self, sentence: str) -> None:
        """Show a sentence to the user now."""
        ...

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        """Have the user choose a trial of the Pareto front (`Trial.summary` each); returns its number."""
        ...


class SilentProgress:
    """Shows nothing."""

    can_ask = False

    @contextmanager
    def step(self, description: str, total: Total = None) -> Iterator[Advance]:
        """Do nothing."""
        yield lambda _count, /, kind="": None

    def say(self, sentence: str) -> None:
        """Do nothing."""

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        """Take the recommended one: there is no one to ask."""
        return recommended


class Pace:
    """What a step has done, how long that took, and how long the rest will take.

    Units are done one after the other, so that one takes what has passed since the one before it was finished: all
    that it took, whatever it was spent on. Once a kind of units has begun, those before it are over.
    """

    def __init__(self, description: str, total: Total = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin a step now, in seconds of the clock."""
        self.description = description
        self.done = 0
        self._clock = clock
        self._begun = self._last = clock()
        self._planned = dict(total) if isinstance(total, Mapping) else {} if total is None else {"": total}
        self._done: dict[str, int] = {}
        self._seconds: dict[str, deque[float]] = {}

    def advance(self, count: int, /, kind: str = "") -> None:
        """Count units of a kind that are done now."""
        if count < 1:
            return
        now = self._clock()
        seconds, self._last = now - self._last, now
        self.done += count
        self._done[kind] = self._done.get(kind, 0) + count
        for earlier in list(self._planned)[: list(self._planned).index(kind)] if kind in self._planned else ():
            self._planned[earlier] = self._done.get(earlier, 0)
        if seconds > INSTANT:
            self._seconds.setdefault(kind, deque(maxlen=OBSERVATIONS)).append(seconds / count)

    @property
    def total(self) -> int | None:
        """Units in all, those of kinds that ended early left out; None where it is unknown."""
        return max(self.done, sum(self._planned.values())) if self._planned else None

    @property
    def elapsed(self) -> float:
        """Seconds since the step began."""
        return self._clock() - self._begun

    def left(self) -> tuple[float, float] | None:
        """Seconds that the kinds of units will take of which some were done, at least and at most; None if none was."""
        low = high = 0.0
        known = [kind for kind, count in self._remaining().items() if count and self._seconds.get(kind)]
        for kind in known:
            ordered = sorted(self._seconds[kind])
            outer = len(ordered) // OUTER
            low += self._remaining()[kind] * ordered[outer]
            high += self._remaining()[kind] * ordered[-1 - outer]
        # What has passed since the last unit belongs to the next one.
        waited = self._clock() - self._last
        return (max(0.0, low - waited), max(0.0, high - waited)) if known else None

    def summary(self) -> str:
        """Done of total, time since the beginning, and time left, for people."""
        total = self.total
        parts = [] if total is None else [f"{self.done}/{total}"]
        parts.append(f"{duration(self.elapsed)} so far")
        if rest := self.time_left():
            parts.append(rest)
        return ", ".join(parts)

    def time_left(self) -> str:
        """Time left as a range; kinds that none was done of yet are named, for they may take longer or shorter."""
        unknown = [
            f"{count} {kind}" for kind, count in self._remaining().items() if count and kind not in self._seconds
        ]
        found = self.left()
        if found is None:
            return ""
        low, high = map(duration, found)
        text = f"{high} left" if low == high else f"{low} to {high} left"
        return text + (f" and then {', '.join(unknown)}" if any(self._planned) and unknown else "")

    def _remaining(self) -> dict[str, int]:
        return {kind: max(0, count - self._done.get(kind, 0)) for kind, count in self._planned.items()}


def duration(seconds: float) -> str:
    """Seconds as people say them: ``45 s``, ``12 min``, ``3.2 h``."""
    if seconds < 1.5 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 1.5 * HOUR else f"{seconds / HOUR:.1f} h"
