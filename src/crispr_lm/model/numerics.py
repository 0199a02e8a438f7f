"""Numbers that are none: where NaN or infinity first appears in a model, and float16 that is too short for it.

A float16 number ends at 65,504, which activations of some models exceed. What then comes out as infinity or NaN is
computed again with the weights widened to float32 (exactly: every float16 number is one of float32), and only what was
lost. Anything else is the weights' own fault, and ends in a sentence that names the module.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from crispr_lm.errors import CrisprError
from crispr_lm.model.memory import GIB, free_memory
from crispr_lm.model.offload import parameters_of
from crispr_lm.model.tensor_parallel import has_parts

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

_logged: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models whose overflow was named in the log


def finite(lm: LanguageModel, compute: Callable[[], Found], results: Callable[[Found], Iterable[Tensor]]) -> Found:
    """Compute something that must be finite; in float32 where float16 does not hold it.

    Args:
        lm: The model that it is computed with.
        compute: The computation, with nothing done but computed: it may be done up to three times.
        results: The numbers in what it found.

    Raises:
        CrisprError: they are not finite in float32 either (the module is named), or there is no memory for that.
    """
    found = compute()
    if _all_finite(results(found)):
        return found
    if lm.dtype != torch.float16 or broken_weights(lm) is not None:
        raise CrisprError(not_finite(lm, compute))
    if lm.model not in _logged:
        _logged.add(lm.model)
        logger.warning("float16 is too short for %s: what overflows is computed in float32", lm.name)
    with widened(lm):
        found = compute()
        if _all_finite(results(found)):
            return found
        raise CrisprError(not_finite(lm, compute))


@contextmanager
def widened(lm: LanguageModel) -> Iterator[None]:
    """Have the float16 weights as float32 while the block runs; afterwards they are the same ones, to the bit.

    Raises:
        CrisprError: twice the weights' size is not free, or each process has a part of them.
    """
    if has_parts(lm.model):
        raise CrisprError(f"model {lm.name} overflows in float16; load it with --dtype bfloat16")
    narrow = {
        id(tensor): tensor
        for tensor in chain(lm.model.parameters(), lm.model.buffers())
        if tensor.dtype == torch.float16
    }
    needed = sum(tensor.numel() * 4 for tensor in narrow.values())
    if needed > free_memory(lm.device):
        raise CrisprError(
            f"model {lm.name} overflows in float16, and {needed / GIB:.1f} GiB to compute in float32 are not free; "
            "load it with --dtype bfloat16"
        )
    kept = [(tensor, tensor.data) for tensor in narrow.values()]
    try:
        with torch.inference_mode(False):  # a parameter can't hold what was made in inference mode
            for tensor, data in kept:
                tensor.data = data.float()
        yield
    finally:
        with torch.inference_mode(False):
            for tensor, data in kept:
                tensor.data = data


def not_finite(lm: LanguageModel, compute: Callable[[], object]) -> str:
    """A sentence that says where the first number that is none comes from, and what to do.

    Args:
        lm: The model.
        compute: The computation that met one; it is done once more, watched.
    """
    dtype = str(lm.dtype).removeprefix("torch.")
    if broken := broken_weights(lm):
        wide = "" if dtype == "float32" else ", or too wide for that format (load it with --dtype float32)"
        return (
            f"model {lm.name} gives numbers that are not finite: the weights {broken} hold NaN or infinity in {dtype}; "
            f"the checkpoint is damaged (download it again){wide}"
        )
    first: list[tuple[str, str]] = []
    with watched(lm.model, lambda name, what: first.append((name, what))):
        compute()
    if not first:
        return (
            f"model {lm.name} gives numbers that are not finite, though every module's output is; in {dtype} gradients "
            f"or sums overflow; {_advice(lm.dtype)}"
        )
    name, what = first[0]
    return (
        f"model {lm.name} gives numbers that are not finite: the first to put out {what} is module {name}, in {dtype}; "
        f"{_advice(lm.dtype)}"
    )


def _advice(dtype: torch.dtype) -> str:
    """What to do where a model overflows that has no broken weights: only a format that could help is named."""
    elsewhere = "the checkpoint is damaged, or an edit's scale is too large"
    if dtype == torch.float32:
        return f"no format reaches further, so {elsewhere}"
    if dtype == torch.bfloat16:
        return f"load it with --dtype float32, which reaches as far and rounds less; where that fails too, {elsewhere}"
    return "load it with --dtype float32, or bfloat16, which reaches further"


def broken_weights(lm: LanguageModel) -> str | None:
    """The name of the first parameter that holds NaN or infinity, None if all are finite."""
    return next((name for name, weight in parameters_of(lm.model) if not _all_finite([weight])), None)


@contextmanager
def watched(model: nn.Module, report: Callable[[str, str], object]) -> Iterator[None]:
    """Report every module, as it ends, whose output holds NaN or infinity, while the block runs; innermost first."""

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def after(_module: nn.Module, _arguments: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if not _all_finite([tensor]):
                    report(name, "NaN" if bool(torch.isnan(tensor).any()) else "infinity")
                    return

        return after

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(look(name or type(module).__name__)).remove)
        yield


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of numbers in a module's output: one, several, or an object of several."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor.detach()).all()) for tensor in tensors)
