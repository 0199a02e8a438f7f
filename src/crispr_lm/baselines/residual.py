"""The residual stream between two blocks: reading it, and adding a vector to it. Knows models and hooks, no task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from crispr_lm.baselines.errors import NotRunError

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Steering:
    """A vector to add to the residual stream.

    Attributes:
        block: Number of the decoder's block behind whose output it is added.
        vector: float32 (width,), the coefficient multiplied in.
    """

    block: int
    vector: Tensor

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[None]:
        """Add the vector at every position while the block runs."""

        def add(stream: Tensor) -> Tensor:
            return stream + self.vector.to(stream.device, stream.dtype)

        with changing(blocks(lm)[self.block], add):
            yield


def blocks(lm: LanguageModel) -> list[nn.Module]:
    """The blocks of the decoder, first to last: the longest list of modules that it holds itself.

    Raises:
        NotRunError: there is none.
    """
    decoder = lm.model.get_decoder() if lm.is_encoder_decoder else lm.model.base_model
    # Some decoders are wrapped (OPT, multimodal models): the list is looked for from the outside in.
    for holder in decoder.modules():
        lists = [list(child) for child in holder.children() if isinstance(child, nn.ModuleList)]
        longest = max(lists, key=len, default=[])
        if len(longest) > 1:
            return longest
    raise NotRunError(f"{type(lm.model).__name__} has no list of blocks to steer between")


@contextmanager
def changing(block: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `change` see a block's output, (rows, tokens, width), and return what the model continues with."""

    def after(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # the stream, then attention weights and the like
            return (change(output[0]), *output[1:])
        return change(output)

    handle = block.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()
