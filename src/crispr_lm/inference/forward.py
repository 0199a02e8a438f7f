"""One forward pass over a packed batch: the log-probabilities of its options, equation 1 of ``docs/method.md``.

Knows packed tensors and a model; knows no layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crispr_lm.inference.kv_cache import cache_name, keeps_logits
from crispr_lm.inference.packing import Packed

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


def packed_scores(lm: LanguageModel, packed: Packed) -> Tensor:
    """Run the model on a packed batch.

    Returns:
        float32 tensor (options of the batch,) of summed log-probabilities; differentiable where gradients are on.
    """
    of_position = token_logits(lm, packed)
    # Not log_softmax: on a CPU its backward pass over a large vocabulary is off by 1e-4.
    chosen = of_position.gather(1, packed.token_ids.to(of_position.device)[:, None])[:, 0]
    of_token = chosen - of_position.logsumexp(dim=-1)
    total = torch.zeros(sum(packed.option_counts), device=of_position.device)
    return total.index_add(0, packed.token_option.to(of_position.device), of_token)


def token_logits(lm: LanguageModel, packed: Packed) -> Tensor:
    """Run the model on a packed batch; float32 logits (scored tokens, vocabulary) that predict its option tokens."""
    inputs: dict[str, Any] = dict(packed.inputs)
    if packed.prompt_of_row is not None:
        encoded = lm.model.get_encoder()(**packed.encoder_inputs, return_dict=True)
        encoded.last_hidden_state = encoded.last_hidden_state[packed.prompt_of_row]
        inputs["encoder_outputs"] = encoded
    elif keeps_logits(lm):
        inputs["logits_to_keep"] = packed.kept
    with _contiguous_head_input(lm):
        logits = lm.model(**inputs, use_cache=cache_name(lm) in inputs, return_dict=True).logits
    # Columns count from the end, so they are right whether or not the model left the first positions out.
    rows, columns = packed.token_rows.to(logits.device), packed.token_columns.to(logits.device)
    of_position: Tensor = logits[rows, columns].float()
    return of_position


@contextmanager
def _contiguous_head_input(lm: LanguageModel) -> Iterator[None]:
    """Hand the LM head a contiguous copy of the last positions.

    They are a slice of all positions, and of a slice PyTorch makes a batched product that reads (in some number formats
    copies) the head's whole matrix once per row.
    """
    head = lm.model.get_output_embeddings()
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _head, given: (given[0].contiguous(), *given[1:]))
    try:
        yield
    finally:
        hook.remove()
