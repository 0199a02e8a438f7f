"""Measuring: times of several contenders in turn within one process, and the peak of allocated memory.

Knows callables; knows no model.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds as they pass, or seconds that this process has computed for: the same on an idle machine with one thread, and
the one to take on a machine that others use too."""


@dataclass(frozen=True)
class Times:
    """Seconds of each contender, round by round."""

    seconds: Mapping[str, list[float]]

    def median(self, contender: str) -> float:
        """Median seconds of a contender."""
        return median(self.seconds[contender])

    def ratio(self, slower: str, faster: str) -> float:
        """Median over rounds of the ratio of two contenders that ran one after the other."""
        pairs = zip(self.seconds[slower], self.seconds[faster], strict=True)
        return median(one / other for one, other in pairs)


def interleaved(contenders: Mapping[str, Work], rounds: int, clock: str, warm_up: bool = True) -> Times:
    """Time contenders in turn, `rounds` times each, after one round that does not count.

    In turn, so that a machine that grows slower (heat, other users) does so for all of them; the order is turned around
    every round, so that none always comes after the same one.
    """
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + warm_up):
        for name in names if number % 2 == 0 else reversed(names):
            gc.collect()
            start = now()
            contenders[name]()
            _wait()
            if number >= warm_up:
                seconds[name].append(now() - start)
    return Times(seconds)


def peak_bytes(work: Work) -> tuple[int, int]:
    """Bytes allocated by `work` at its peak, and those still held at its end (by what it returns), beyond the start.

    Counted at PyTorch's allocators, so that what the system keeps in reserve does not show.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = work()
        _wait()
        held = torch.cuda.memory_allocated() - before
        del kept
        return torch.cuda.max_memory_allocated() - before, held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = work()
    allocated = peak = 0
    events = profiled.profiler.kineto_results.events()
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda each: each.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    del kept
    return peak, allocated


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
