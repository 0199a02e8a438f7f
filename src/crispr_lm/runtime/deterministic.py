"""Deterministic runs: the same command on the same machine gives the same bits.

Not by itself: some of a GPU's kernels add in the order in which their threads come, libraries choose among algorithms
by timing them, and sums over more threads are rounded otherwise.
"""

from __future__ import annotations

import os

import torch

CUBLAS_WORKSPACE = ":4096:8"
"""A workspace with which cuBLAS is deterministic (CUDA's documentation, "Results Reproducibility")."""


def make_deterministic() -> None:
    """Take only algorithms that always give the same bits, for the rest of the process; others end with an error.

    Must come before CUDA is used the first time. The number of CPU threads stays; it is part of the record.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def is_deterministic() -> bool:
    """Whether `make_deterministic` was called (or PyTorch was set so otherwise)."""
    return torch.are_deterministic_algorithms_enabled()
