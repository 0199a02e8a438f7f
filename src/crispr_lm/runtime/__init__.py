"""How a job runs: progress, several processes, the same bits again. Knows nothing of what the job is."""

from __future__ import annotations

from crispr_lm.runtime.progress import Progress, SilentProgress

__all__ = [
    "Progress",
    "SilentProgress",
]
