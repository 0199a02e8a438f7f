"""Perplexity of running text, such as WikiText-2: how much an edit costs a model's language.

    perplexity = exp( mean over tokens of −log P(token | the tokens before it in its window) )

The text is cut into windows that do not overlap, of at most 1,024 tokens or what the model reads; each begins with the
beginning-of-text token (or the end token, where there is none), so that every token of the text is predicted once. In
tokens of the model's own tokenizer: comparable between a model and its edit, not between models. Knows a model and a
text; knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.inference.prompts import beginning
from crispr_lm.inference.reader import Reader
from crispr_lm.metrics.language import PERPLEXITY
from crispr_lm.model.memory import explain_out_of_memory
from crispr_lm.model.numerics import finite

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

WINDOW = 1024
CHUNK = 128
"""Positions whose log-probabilities are computed at once: a vocabulary is wide."""


def windows(lm: Reader, text: str, most_tokens: int | None = None) -> list[list[int]]:
    """Cut a text into windows of tokens, each with the token it begins with.

    Raises:
        InputError: an encoder-decoder model, a tokenizer without a token to begin with, or an empty text.
    """
    if lm.is_encoder_decoder:
        raise InputError(f"perplexity is of models that write from left to right; {lm.name} has an encoder")
    ids = list(lm.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)[:most_tokens]
    if not ids:
        raise InputError("perplexity needs a text; this one has no tokens")
    size = min(WINDOW, lm.context_length or WINDOW) - 1
    return [[beginning(lm), *ids[start : start + size]] for start in range(0, len(ids), size)]


@torch.inference_mode()
def perplexity(
    lm: LanguageModel,
    text: str,
    most_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Measure a text; metric ``perplexity``, clustered by window.

    Args:
        lm: The model.
        text: Running text.
        most_tokens: Only so many tokens from its beginning.
        progress: Called with the number of windows just finished.

    Raises:
        InputError: as `windows`.
        CrisprError: the model gives probabilities that are not finite.
    """
    cut = windows(lm, text, most_tokens)
    losses = []
    for window in cut:
        with explain_out_of_memory(f"on a window of {len(window) - 1} tokens"):
            losses.append(float(finite(lm, partial(_loss_of, lm, window), lambda loss: [loss])))
        if progress is not None:
            progress(1)
    columns = {"loss": np.array(losses), "tokens": np.array([float(len(window) - 1) for window in cut])}
    return Measurement.of(PERPLEXITY, [columns], list(range(len(cut))))


def _loss_of(lm: LanguageModel, window: list[int]) -> Tensor:
    """Summed negative log-likelihood of a window without its first token, float64 ()."""
    input_ids = torch.tensor([window[:-1]], device=lm.device)
    logits = lm.model(input_ids=input_ids, use_cache=False, return_dict=True).logits[0]
    return torch.tensor(_loss(logits, torch.tensor(window[1:], device=logits.device)), dtype=torch.float64)


def _loss(logits: Tensor, targets: Tensor) -> float:
    """Summed negative log-likelihood, a chunk of positions at a time."""
    total = 0.0
    for start in range(0, len(targets), CHUNK):
        part = logits[start : start + CHUNK].float()
        chosen = part.gather(1, targets[start : start + CHUNK, None])[:, 0]
        total += float((part.logsumexp(dim=-1) - chosen).double().sum())
    return total
