"""More than one process: examples are shared among ranks, sums are joined, and every rank takes the same decisions.

    torchrun --nproc-per-node 4 -m crispr_lm run MODEL --task TASK --output DIR
    accelerate launch --multi_gpu --num_processes 4 -m crispr_lm run MODEL --task TASK --output DIR

Every rank holds the whole model, runs the same job and knows the same figures; rank 0 alone writes and prints. What
travels between ranks is small (a table of scores, one number per neuron) and lies on the CPU, so gloo serves on any
device. Without `joined` there is one process, and everything here is what it would be without this module.

Where each rank holds a part of one model (`joined(divided=True)`), no example is shared: all run every prompt together.

Knows tensors on the CPU and callables; knows no model and no prompt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as group
from torch import Tensor

from crispr_lm.errors import CrisprError, InputError

Result = TypeVar("Result")

PATIENCE = timedelta(hours=6)
"""How long ranks wait for each other: as long as it may take to save a large model. A rank that ends in an error closes
its connections, which ends the others' waiting at once."""

_alone = False  # whether rank 0 is at work that the others wait for
_divided = False  # whether each rank holds a part of one model


@contextmanager
def joined(*, divided: bool = False) -> Iterator[None]:
    """Take part in the group that torchrun or accelerate has prepared, while the block runs.

    Does nothing in a single process. With several accelerators on a machine each rank uses its own.

    Args:
        divided: Each rank holds a part of one model, in place of the whole.

    Raises:
        InputError: ``accelerate launch --cpu`` was asked for several processes and has numbered none.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if "WORLD_SIZE" not in os.environ and {"MASTER_PORT", "ACCELERATE_USE_CPU"} <= os.environ.keys():
            raise InputError(
                "`accelerate launch --cpu` numbers no processes, so they can't share the work; give --multi_gpu in "
                "place of --cpu, which needs no GPU (and --device cpu to crispr-lm)"
            )
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    global _divided
    # Parts of activations lie on the accelerators, and gloo would carry them over the CPU.
    nccl = divided and torch.cuda.is_available() and group.is_nccl_available()
    group.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=PATIENCE)
    _divided = divided
    try:
        yield
    finally:
        _divided = False
        group.destroy_process_group()


def ranks() -> int:
    """Number of processes that share the work."""
    return group.get_world_size() if group.is_available() and group.is_initialized() and not _alone else 1


def rank() -> int:
    """The number of this process."""
    return group.get_rank() if ranks() > 1 else 0


def is_first() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def is_divided() -> bool:
    """Whether each rank holds a part of one model, so that all must run it together."""
    return _divided and ranks() > 1


def share(costs: Sequence[float]) -> list[int]:
    """Which of the items with these costs are this rank's: every rank gets as many, as expensive ones.

    All of them where each rank holds a part of the model.
    """
    if is_divided():
        return list(range(len(costs)))
    by_cost = sorted(range(len(costs)), key=lambda index: -costs[index])
    return sorted(by_cost[rank() :: ranks()])


def scaled(progress: Callable[[int], None] | None, own: int, total: int) -> Callable[[int], None]:
    """Progress of all ranks as seen by one that has `own` of `total` items: reported in items of all."""
    done = reported = 0

    def advance(count: int) -> None:
        nonlocal done, reported
        done += count
        reached = total * done // own
        if progress is not None:
            progress(reached - reported)
        reported = reached

    return advance


def summed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum tensors of one dtype on the CPU over ranks; every rank gets the same bits.

    Ranks that each hold a part of the model have the sum already, but for rounding, and get that of rank 0.

    Raises:
        CrisprError: another rank has ended.
    """
    if ranks() == 1:
        return dict(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    with _others_there():
        if not is_divided():
            group.all_reduce(flat)
        group.broadcast(flat, src=0)  # whatever the order of summation was
    parts = flat.split([tensor.numel() for tensor in tensors.values()])
    return {name: part.reshape(tensors[name].shape) for (name, part) in zip(tensors, parts, strict=True)}


def least(count: int) -> int:
    """The smallest of all ranks' numbers where each holds a part of the model and all must do the same; else its own.

    Raises:
        CrisprError: another rank has ended.
    """
    if not is_divided():
        return count
    smallest = torch.tensor(count)
    with _others_there():
        group.all_reduce(smallest, group.ReduceOp.MIN)
    return int(smallest)


def with_model(work: Callable[[], Result]) -> Result:
    """As `on_first`, of what runs the model: all ranks do it where each holds a part, and get rank 0's result.

    Raises:
        CrisprError: another rank has ended.
    """
    if not is_divided():
        return on_first(work)
    found = [work()]
    with _others_there():
        group.broadcast_object_list(found, src=0)
    return found[0]


def on_first(work: Callable[[], Result]) -> Result:
    """Let rank 0 do something alone, and give its result, or its error, to all. The others wait.

    Raises:
        CrisprError: another rank has ended.
    """
    global _alone
    if ranks() == 1:
        return work()
    outcome: list[object] = [None, None]
    error: BaseException | None = None
    if is_first():
        _alone = True
        try:
            outcome[0] = work()
        except Exception as raised:
            error = raised
            outcome[1] = raised if isinstance(raised, CrisprError) else CrisprError(f"rank 0 has failed: {raised}")
        finally:
            _alone = False
    with _others_there():
        group.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if isinstance(outcome[1], CrisprError):
        raise outcome[1]
    return outcome[0]  # type: ignore[return-value]  # what rank 0's `work` has returned


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except (group.DistError, RuntimeError) as error:  # older releases raise a plain RuntimeError
        raise CrisprError("another process of this run has ended; see its message") from error
