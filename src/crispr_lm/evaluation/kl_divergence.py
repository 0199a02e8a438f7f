"""KL divergence from the unedited model: how much an edit changes what has nothing to do with the task.

    D = mean over prompts and tokens of  Σ_v P(v | prompt, c_<k) · log [ P(v | prompt, c_<k) / Q(v | prompt, c_<k) ]

P is the reference distribution, of the unedited model; Q the edited model's; c the unedited model's greedy
continuation of a neutral prompt. In nats per token.
Knows prompts as token ids and a model; knows no task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches
from crispr_lm.inference.forward import token_logits
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.layouts import capabilities_of, pack, pack_alone
from crispr_lm.inference.prompts import EncodedPrompt, encode_text
from crispr_lm.metrics.language import DIVERGENCE
from crispr_lm.model.numerics import finite

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

TOKENS = 8
"""Tokens that each neutral prompt is continued by."""


@dataclass(frozen=True, eq=False)
class ReferenceDistribution:
    """The unedited model's distributions of the next token along its own continuations of neutral prompts.

    Attributes:
        prompts: Each with the unedited model's continuation as its only option.
        log_probabilities: Per prompt float32 (tokens, vocabulary) on the CPU.
    """

    prompts: tuple[EncodedPrompt, ...]
    log_probabilities: tuple[Tensor, ...]


def reference_distribution(
    lm: LanguageModel,
    texts: Sequence[str],
    tokens: int = TOKENS,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> ReferenceDistribution:
    """Compute the unedited model's greedy continuations, and its distributions along them.

    Takes 4 bytes x vocabulary per prompt and token: 32 prompts, 8 tokens and 50,000 words are 51 MB.

    Args:
        lm: The unedited model.
        texts: Neutral user prompts.
        tokens: How far to continue each; fewer where the model ends its answer.
        batch_size: Prompts in one pass.
        progress: Called with the number of prompts just finished.

    Raises:
        InputError: no prompts.
        CrisprError: the model ends every answer before its first token, or gives numbers that are not finite.
    """
    if not texts:
        raise InputError("KL divergence needs at least one neutral prompt")
    encoded = [encode_text(lm, text) for text in texts]
    prompts = [
        EncodedPrompt(prompt, [continuation])
        for prompt, continuation in zip(encoded, continuations(lm, encoded, tokens, batch_size), strict=True)
        if continuation
    ]
    if not prompts:
        raise CrisprError(f"model {lm.name} answers neutral prompts with nothing, so no divergence can be measured")
    return ReferenceDistribution(tuple(prompts), tuple(next_token_distributions(lm, prompts, batch_size, progress)))


def divergence(
    lm: LanguageModel,
    reference: ReferenceDistribution,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> Measurement:
    """Measure how far the model as it is now is from the reference; metric ``kl``, clustered by prompt."""
    sums = []
    for before, after in zip(
        reference.log_probabilities, next_token_distributions(lm, reference.prompts, batch_size, progress), strict=True
    ):
        # In float64: a small divergence is a small difference of large terms.
        before, after = before.double(), after.double()
        sums.append(float((before.exp() * (before - after)).sum()))
    columns = {
        "divergence": np.array(sums),
        "tokens": np.array([float(len(prompt.option_ids[0])) for prompt in reference.prompts]),
    }
    return Measurement.of(DIVERGENCE, [columns], list(range(len(sums))))


@torch.inference_mode()
def next_token_distributions(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> list[Tensor]:
    """Log-probabilities along each prompt's only option, float32 (tokens, vocabulary) on the CPU."""
    takes = capabilities_of(lm)
    found: list[Tensor] = [torch.empty(0) for _ in prompts]

    def of_batch(batch: list[EncodedPrompt]) -> list[Tensor]:
        if not takes.padding:
            return [token_logits(lm, pack_alone(lm, prompt, 0)).log_softmax(dim=-1).cpu() for prompt in batch]
        packed = pack(lm, batch)
        joined = token_logits(lm, packed).log_softmax(dim=-1).cpu()
        return [joined[packed.token_option.cpu() == position] for position in range(len(batch))]

    def work(indices: list[int]) -> None:
        batch = [prompts[index] for index in indices]
        for index, values in zip(indices, finite(lm, lambda: of_batch(batch), lambda given: given), strict=True):
            found[index] = values

    for batch in batches(lm, prompts, batch_size, work):
        if progress is not None:
            progress(len(batch))
    return found
