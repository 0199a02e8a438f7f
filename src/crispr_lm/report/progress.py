"""Progress in the terminal while a job runs: bars, or lines where there is no terminal."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import ConsoleRenderable
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.prompt import IntPrompt
from rich.text import Text

from crispr_lm.report.console import in_bytes, messages
from crispr_lm.report.markup import markup
from crispr_lm.report.result_tables import front_table
from crispr_lm.runtime.progress import Advance, Pace, Progress, SilentProgress, Total
from crispr_lm.storage.sanitize import printable

if TYPE_CHECKING:
    pass


LOOK = 1.0
"""Seconds after which it is looked again whether a line of progress is due."""


SILENCE = 25.0
"""Seconds after which a line is due where there is no terminal (logs of CI). With the time until that is seen, on a
busy machine too, no log is silent for 30 seconds: long enough to be readable, too short for a job to seem stuck."""


class _RateColumn(TextColumn):
    """Units per second, or seconds per unit where that is the readable number."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        if not speed or task.total is None:
            return Text("")
        return Text(_rate(speed), style="cyan")


class _MemoryColumn(TextColumn):
    """What the process uses, beside the step that is under way."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        return Text("" if task.finished else _memory(), style="magenta")


class _LeftColumn(TextColumn):
    """Time left, of a step that is under way and has a known length."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        pace: Pace = task.fields["pace"]
        return Text("" if task.finished else pace.time_left(), style="cyan")


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _memory() -> str:
    """What the process uses: of the accelerator, where its model is on one, else of ordinary memory."""
    torch = sys.modules.get("torch")  # what has not loaded it has no model
    if torch is not None and torch.cuda.is_initialized():
        used = sum(torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count()))
    else:
        used = psutil.Process().memory_info().rss
    return in_bytes(used)


class _LiveProgress:
    """Bars in a terminal."""

    can_ask = True

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._depth = 0

    @contextmanager
    def step(self, description: str, total: Total = None) -> Iterator[Advance]:
        pace = Pace(description, total)
        task = self._bars.add_task("  " * self._depth + markup(description), total=pace.total, pace=pace)
        self._depth += 1

        def advance(count: int, /, kind: str = "") -> None:
            pace.advance(count, kind)
            self._bars.update(task, total=pace.total, completed=pace.done)

        try:
            yield advance
        finally:
            self._depth -= 1
            if self._depth:  # what happens within a step, dozens of times, leaves no bar behind
                self._bars.remove_task(task)
        if not self._depth:
            total_done = pace.total or 1
            self._bars.update(task, total=total_done, completed=total_done)

    def say(self, sentence: str) -> None:
        self._bars.console.print(markup(sentence))

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        self._bars.stop()
        messages.print(front_table(front, recommended))
        messages.print(markup(reason[0].upper() + reason[1:]))
        numbers = [str(trial["trial"]) for trial in front]
        # The original is not on the front where an edit costs nothing.
        choices = list(dict.fromkeys([*numbers, str(recommended)]))
        chosen = IntPrompt.ask("Take trial", console=messages, choices=choices, default=recommended)
        self._bars.start()
        return chosen


class _PlainProgress:
    """Lines where there is no terminal: when a step starts and ends, and whenever none was printed for a while.

    Steps within a step have only these further lines, so that a log of hours stays readable.
    """

    can_ask = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._printed = clock()
        self._open: list[Pace] = []
        self._last = ""

    @contextmanager
    def step(self, description: str, total: Total = None) -> Iterator[Advance]:
        pace = Pace(description, total, self._clock)
        is_outer = not self._open
        if is_outer:
            self.say(f"{description} ..." if pace.total is None else f"{description}: 0/{pace.total}")
        self._open.append(pace)

        def advance(count: int, /, kind: str = "") -> None:
            pace.advance(count, kind)
            self.beat()

        try:
            yield advance
        finally:
            self._open.remove(pace)
            self._last = description
        seconds = pace.elapsed
        # Steps taken over from an earlier run take no time, and have no rate.
        rate = f", {_rate(pace.total / seconds)}" if pace.total and seconds >= 0.1 else ""
        if is_outer:
            self.say(f"{description}: done in {seconds:.0f} s{rate}, {_memory()}")

    def beat(self) -> None:
        """Print how far it is, if no line was printed for a while."""
        if self._clock() - self._printed < SILENCE:
            return
        steps = "; ".join(f"{pace.description}: {pace.summary()}" for pace in list(self._open))
        # Between steps there is work, too, but nothing to count.
        self.say(f"{steps or f'Working (after: {self._last})'}, {_memory()}")

    def say(self, sentence: str) -> None:
        self._printed = self._clock()
        messages.print(markup(sentence), soft_wrap=True, highlight=False)

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        return recommended


@contextmanager
def _beating(progress: _PlainProgress) -> Iterator[None]:
    """Have a thread look every second whether a line is due: work may be in one long call."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            progress.beat()

    thread = threading.Thread(target=look, name="crispr-lm progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _LogHandler(RichHandler):
    """Messages as they are: nothing in them is markup or steers the terminal."""

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        return super().render_message(record, printable(message))


@contextmanager
def terminal_progress(*, silent: bool = False) -> Iterator[Progress]:
    """Show steps with rate and time left: bars in a terminal, lines elsewhere. The library's log goes along.

    Args:
        silent: Show nothing, because another process of the same run does.
    """
    if silent:
        yield SilentProgress()
        return
    logger = logging.getLogger("crispr_lm")
    handler = _LogHandler(console=messages, show_time=False, show_path=False, show_level=False)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        if not messages.is_terminal:
            plain = _PlainProgress()
            with _beating(plain):
                yield plain
            return
        with RichProgress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            _LeftColumn(),
            _MemoryColumn(),
            console=messages,
        ) as bars:
            yield _LiveProgress(bars)
    finally:
        logger.removeHandler(handler)
