"""How many threads PyTorch computes with on a CPU: as many as there are free cores when a job begins.

Threads of one computation wait for each other at the end of every layer. Where other programs have one of two cores,
two threads took 4 times as long as one (benchmarks/threads.py; docs/how-to.md, "On a busy machine"), and kept that core
busy while they waited. Knows the machine; knows no model.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

OBSERVED = 0.5
"""Seconds that the cores are looked at. The kernel counts in hundredths of a second, so this is exact to a twentieth of
a core; a longer look would delay every command."""

HARDLY_USED = 0.25
"""Share of a core that others may use while it still counts as free: the desktop and the system use some of it."""

CGROUPS = Path("/sys/fs/cgroup")

_set: tuple[int, int] | None = None
"""Threads that PyTorch had before this module first set another number, and the number it set."""


@dataclass(frozen=True)
class Cores:
    """The cores of this machine, as far as this process may use them.

    Attributes:
        there: Cores of the machine.
        usable: Cores that this process may use: its affinity and the quota of its control groups.
        busy: How many of these other programs use now.
    """

    there: int
    usable: float
    busy: float

    @property
    def free(self) -> int:
        """Threads that find a core of their own, at least 1."""
        return max(1, math.floor(self.usable - self.busy + HARDLY_USED))

    @property
    def is_loaded(self) -> bool:
        """Whether other programs leave fewer threads than there are cores to use."""
        return self.free < math.floor(self.usable + HARDLY_USED)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "free": self.free, "loaded": self.is_loaded}


def observe_cores(seconds: float = OBSERVED) -> Cores:
    """Look at the cores for a moment. What this process itself computes meanwhile counts as another program's work."""
    mine = _affinity()
    used = psutil.cpu_percent(seconds, percpu=True)
    # A virtual machine may list other cores than the affinity names; then all of them are looked at.
    busy = sum(used[core] for core in mine) if max(mine) < len(used) else sum(used)
    usable = min(float(len(mine)), _quota())
    return Cores(os.cpu_count() or len(mine), usable, round(min(busy / 100, usable), 2))


def set_threads(asked: int | str, recorded: int | None = None, *, fixed: bool = False) -> str:
    """Set the number of threads that PyTorch computes with.

    Args:
        asked: A number, or "auto": as many as cores are free, and no more than PyTorch has been given (OMP_NUM_THREADS,
            `torch.set_num_threads`).
        recorded: Of the run that is resumed; with "auto" it is taken again, because another number rounds sums
            differently.
        fixed: With "auto", ignore what other programs do, so that the same command always takes the same number.

    Returns:
        A sentence that says how many and why.
    """
    global _set
    before = torch.get_num_threads()
    given = _set[0] if _set is not None and _set[1] == before else before
    count, why = _chosen(asked, recorded, given, fixed=fixed)
    if count != before:
        torch.set_num_threads(count)
        _set = (given, count)
    return f"Computing with {count} thread{'' if count == 1 else 's'}: {why}"


def _chosen(asked: int | str, recorded: int | None, given: int, *, fixed: bool) -> tuple[int, str]:
    """How many threads, and why."""
    if isinstance(asked, int):
        return asked, "as --threads says"
    if recorded is not None:
        return min(recorded, os.cpu_count() or recorded), "as in the run that is resumed"
    if given == 1:
        return 1, "that is all PyTorch has been given"
    if fixed:
        return given, "all that PyTorch has been given, because of --deterministic"
    cores = observe_cores()
    if cores.free >= given:
        return given, f"other programs use {cores.busy:.1f} of {cores.usable:g} cores"
    return cores.free, (
        f"other programs use {cores.busy:.1f} of {cores.usable:g} cores, and threads that share a core wait for each "
        "other (--threads takes another number)"
    )


def _affinity() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS has no affinity


def _quota() -> float:
    """Cores' worth of time that the control groups of this process allow; infinite where they set no limit."""
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return math.inf
    paths = [Path(line.split(":", 2)[2].lstrip("/")) for line in groups if line.startswith("0::")]
    # A container sees its own group as the root, whatever path the kernel names.
    folders = {CGROUPS, *(CGROUPS / above for path in paths for above in (path, *path.parents))}
    limits = [_limit(folder / "cpu.max") for folder in folders]
    limits.append(_limit(CGROUPS / "cpu" / "cpu.cfs_quota_us", CGROUPS / "cpu" / "cpu.cfs_period_us"))
    return min(limits)


def _limit(*files: Path) -> float:
    """Quota over period, both in microseconds, from the files of a control group; infinite where there is none."""
    try:
        quota, period = (int(word) for file in files for word in file.read_text(encoding="ascii").split())
    except (OSError, ValueError):  # no such group, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
