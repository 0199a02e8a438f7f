"""Passes: what work on a model costs. The unit is the forward pass of one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


BACKWARD = 2
"""Forward passes that a backward pass takes as long as: of SmolLM2-135M in bfloat16 on one core a pass each way takes
3.0 times as long as a forward pass."""


@dataclass
class Passes:
    """How many there were.

    Attributes:
        count: In forward passes of a prompt with all its options. Where a model takes one option at a time
            (`inference.layouts`), each of them counts; of written answers every token does.
    """

    count: int = 0


@contextmanager
def counted_passes(lm: LanguageModel) -> Iterator[Passes]:
    """Count the passes of a model while the block runs."""
    passes = Passes()

    def see(_model: Any, _given: Any, output: Any) -> None:
        rows = len(output.logits)
        passes.count += rows
        if output.logits.requires_grad:
            output.logits.register_hook(lambda _gradient: backward(rows))

    def backward(rows: int) -> None:
        passes.count += BACKWARD * rows

    hook = lm.model.register_forward_hook(see)
    try:
        yield passes
    finally:
        hook.remove()
