"""Batching: prompts of like length in batches that fit the memory there is.

Knows lengths of prompts, devices and their memory; knows no layout of a batch and no score.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch

from crispr_lm.errors import InputError
from crispr_lm.inference.packing import packed_length
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.memory import (
    explain_out_of_memory,
    free_memory,
    is_out_of_memory,
    measures_allocation,
    peak_allocation,
)
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.model.offload import recomputed_layers
from crispr_lm.runtime.deterministic import is_deterministic
from crispr_lm.runtime.distributed import is_divided, least

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)

BatchSize = int | str
"""Prompts in one forward pass, or "auto"."""

ProgressCallback = Callable[[int], None]
"""Called with the number of prompts just finished."""

AUTO_TOKENS = {"cpu": 2048}
"""Tokens in a batch for "auto" where memory allows: enough to keep a CPU busy (benchmarks/batch_size.py). On a CUDA
device so many are in the first batch, whose memory is measured; later ones have as many as fit."""

OVERHEAD_TOKENS = {"cpu": 64, "cuda": 2048}
"""What a batch costs beside its tokens, in tokens: batches of 256 take 1.2 times as long per prompt as those of 2,048
on a CPU (benchmarks/batch_size.py). For CUDA an estimate: starting the some hundred kernels of a pass takes as long as
computing some thousand tokens. More batches have less padding."""

MEMORY_SHARE = 0.5
"""Share of the free memory that a batch is given: what it takes is known for other prompts, and others use the device
too."""

ACTIVATIONS_PER_NEURON = 2.5
"""Numbers that a pass with gradients keeps per token for every number that linear layers put out: these themselves, and
what lies between them. SmolLM2 keeps 2.0 (benchmarks/speed.py, memory)."""


def batches(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    batch_size: BatchSize,
    work: Callable[[list[int]], None],
    *,
    apart: Sequence[int] | None = None,
    bytes_per_token: float = 0.0,
) -> Iterator[list[int]]:
    """Do `work` on indices of prompts of like length, a batch at a time, and yield each batch when it is done.

    Where memory runs out the batch is halved and tried again, down to a single prompt; not of a divided model.

    Args:
        lm: The model.
        prompts: What to work on.
        batch_size: Prompts in a batch; "auto" takes as many as keep a CPU busy, or as fit a CUDA device.
        work: Called with the indices of a batch.
        apart: Per prompt the number of its group; prompts of different groups share no batch.
        bytes_per_token: What `work` keeps in memory per token, for "auto"; 0 where that is little. Measured on CUDA.

    Raises:
        InputError: batch size is neither "auto" nor a positive number.
        CrisprError: memory runs out on a single prompt, or on any batch of a divided model.
    """
    if batch_size != "auto" and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        raise InputError(f"batch size must be 'auto' or a positive number, not {batch_size!r}")
    groups: dict[int, list[int]] = {}
    # Longest first: if memory does not suffice that shows at once.
    for index in sorted(range(len(prompts)), key=lambda index: -packed_length(prompts[index])):
        groups.setdefault(apart[index] if apart is not None else 0, []).append(index)
    most = len(prompts) if batch_size == "auto" else int(batch_size)
    budget = _Budget(lm, bytes_per_token) if batch_size == "auto" else None
    for waiting in groups.values():
        planned: list[int] = []
        while waiting:
            if budget is not None and not planned:
                lengths = [packed_length(prompts[index]) for index in waiting]
                planned = batch_sizes(lengths, budget.tokens, most, _of_device(OVERHEAD_TOKENS, lm.device))
            batch = waiting[: planned.pop(0) if planned else most]
            where = "on a single prompt" if len(batch) == 1 else f"on {len(batch)} prompts; give a smaller --batch-size"
            # Processes that have parts of one model must take the same batches, so that one can't halve its own.
            last = len(batch) == 1 or is_divided()
            try:
                with explain_out_of_memory(where) if last else nullcontext():
                    if budget is None:
                        work(batch)
                    elif budget.changed_by(partial(work, batch), len(batch) * packed_length(prompts[batch[0]])):
                        planned = []
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                most, planned = len(batch) // 2, []
            else:
                waiting = waiting[len(batch) :]
                yield batch
                continue
            # Here, where the error and with it the failed pass's tensors are gone.
            logger.warning("out of memory with %d prompts in a batch, going on with %d", len(batch), most)
            _return_memory()


def _return_memory() -> None:
    """Give back what a failed pass has left."""
    gc.collect()  # hooks and the activations that they watch hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def batch_sizes(lengths: Sequence[int], tokens: int, most: int, overhead: int) -> list[int]:
    """How to cut prompts, longest first, into batches so that the whole costs least.

    A batch of n prompts, the longest of l tokens, costs n · l + `overhead`: all are padded to the longest.

    Args:
        lengths: Of the prompts, in descending order.
        tokens: Largest n · l of a batch (but for a single prompt that is longer).
        most: Largest n.
        overhead: Cost of a batch beside its tokens.
    """
    cheapest = [0.0] + [float("inf")] * len(lengths)  # of the first so many prompts
    size_of = [0] * (len(lengths) + 1)  # of the last batch of these
    for start, longest in enumerate(lengths):
        for size in range(1, min(most, max(1, tokens // longest), len(lengths) - start) + 1):
            cost = cheapest[start] + size * longest + overhead
            if cost < cheapest[start + size]:
                cheapest[start + size], size_of[start + size] = cost, size
    sizes = []
    end = len(lengths)
    while end:
        sizes.append(size_of[end])
        end -= size_of[end]
    return sizes[::-1]


def gradient_bytes_per_token(lm: LanguageModel) -> float:
    """Rough number of bytes that a forward pass with gradients keeps per token; too large for a mixture of experts."""
    widths = sum(site.width for site in find_sites(lm.model, "linear")) / (len(recomputed_layers(lm.model)) or 1)
    return ACTIVATIONS_PER_NEURON * widths * lm.dtype.itemsize


class _Budget:
    """Tokens in a batch for "auto".

    On a CPU: what keeps it busy, or fewer where free memory does not hold them. On a CUDA device: what its free memory
    holds, by what a token took in the batches so far; until one was measured, as many as on a CPU.
    """

    def __init__(self, lm: LanguageModel, bytes_per_token: float) -> None:
        self._lm, self._kind = lm, "gradients" if bytes_per_token else "scores"
        self._devices = {lm.device, *(weight.device for weight in lm.model.parameters() if not weight.is_meta)}
        # What memory is free is not the same twice, nor in two processes.
        same = is_deterministic() or is_divided()
        self._measures = not same and all(map(measures_allocation, self._devices))
        self.tokens = AUTO_TOKENS["cpu"]
        if self._measures and self._kind in lm.bytes_per_token:
            self.tokens = self._fitting(lm.bytes_per_token[self._kind])
        elif bytes_per_token and not is_deterministic():
            # A model spread over devices keeps on each of them what its part of the layers puts out.
            self.tokens = min(self.tokens, self._fitting(bytes_per_token / len(self._devices)))

    def _fitting(self, bytes_per_token: float) -> int:
        """Tokens that fit, of which each takes so much on the device with the least free memory."""
        fitting = least(max(1, int(MEMORY_SHARE * min(map(free_memory, self._devices)) / bytes_per_token)))
        if fitting < AUTO_TOKENS["cpu"]:
            logger.info("%d tokens in a batch: what half of the free memory holds", fitting)
        return fitting

    def changed_by(self, work: Callable[[], None], tokens: int) -> bool:
        """Do the work of a batch of so many tokens; whether it took more memory per token than was known."""
        if not self._measures:
            work()
            return False
        with peak_allocation(self._devices) as peak:
            work()
        known = self._lm.bytes_per_token.get(self._kind, 0.0)
        if peak[0] / tokens <= known:
            return False
        self._lm.bytes_per_token[self._kind] = peak[0] / tokens
        self.tokens = self._fitting(peak[0] / tokens)
        return True


def _of_device(table: Mapping[str, int], device: torch.device) -> int:
    return table.get(device.type, table["cpu"])
