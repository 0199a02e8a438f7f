"""Option scores: log P(option | prompt), each prompt encoded once with its options as branches.

Knows prompts as token ids and a model; knows no benchmark. Equation 1 of ``docs/method.md``:
s(c) = Σ_k log P(c_k | prompt, c_<k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.inference.autocast import evaluating
from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.kv_cache import Beginnings, continued_scores, sharing_groups
from crispr_lm.inference.layouts import (
    beginning_read_once,
    behind_beginning,
    capabilities_of,
    pack,
    pack_alone,
    within_window,
)
from crispr_lm.inference.packing import packed_length
from crispr_lm.inference.prompts import EncodedPrompt, encode_all, portions
from crispr_lm.model.numerics import finite
from crispr_lm.runtime import distributed
from crispr_lm.tasks.base import Example

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

Likelihood = Literal["sum", "mean"]
"""How options are compared: by their summed log-probability, or by its mean over the option's tokens."""


def option_scores(
    lm: LanguageModel,
    examples: Sequence[Example],
    instruction: str,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
    *,
    scoring: Likelihood = "sum",
) -> Tensor:
    """Score every option of every example under one instruction.

    Args:
        lm: The model.
        examples: One or more.
        instruction: One phrasing of what to do.
        batch_size: Prompts in one forward pass; the scores do not depend on it.
        progress: Called with the number of prompts just finished.
        scoring: "sum" for summed log-probabilities, "mean" for their mean over each option's tokens (which does not
            favour short options).

    Returns:
        float32 tensor (examples, options), in nats. Where examples differ in their number of options, rows are filled
        up with -inf.

    Raises:
        InputError: no examples, or a prompt does not fit the model's context.
        CrisprError: the model gives scores that are not finite (the module is named).
    """
    if not examples:
        raise InputError("no examples to score; give at least one")
    rows: list[Tensor] = []
    for some in portions(examples):
        prompts = encode_all(lm, some, instruction)
        scores = prompt_scores(lm, prompts, batch_size, progress)
        rows.append(per_token(scores, prompts) if scoring == "mean" else scores)
    most = max(scores.shape[1] for scores in rows)
    return torch.cat(
        [torch.nn.functional.pad(scores, (0, most - scores.shape[1]), value=-torch.inf) for scores in rows]
    )


def per_token(scores: Tensor, prompts: Sequence[EncodedPrompt]) -> Tensor:
    """Means over each option's tokens of summed log-probabilities (prompts, options)."""
    lengths = [torch.tensor([len(ids) for ids in prompt.option_ids]) for prompt in prompts]
    return scores / torch.nn.utils.rnn.pad_sequence(lengths, batch_first=True, padding_value=1)


@torch.inference_mode()
def prompt_scores(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Score encoded prompts; returns and raises as `option_scores`."""
    if not prompts:
        raise InputError("no examples to score; give at least one")
    takes = capabilities_of(lm)
    own = distributed.share([packed_length(prompt) for prompt in prompts])
    chosen = [prompts[index] for index in own]
    # In float64 and filled up with 0, so that the sum over ranks is exact.
    scores = torch.zeros((len(prompts), max(len(prompt.option_ids) for prompt in prompts)), dtype=torch.float64)
    beginnings = Beginnings(lm)
    apart = sharing_groups(chosen) if takes.branches and takes.cache else None
    advance = distributed.scaled(progress, len(own), len(prompts))

    stored = lm.dtype

    def score(indices: list[int]) -> None:
        def compute() -> list[Tensor]:
            # What was read in another format is of no use while weights are widened.
            with evaluating(lm):
                return scores_of(
                    lm, [chosen[index] for index in indices], beginnings if lm.dtype == stored else Beginnings(lm)
                )

        of_batch = finite(lm, compute, lambda found: found)
        for index, values in zip(indices, of_batch, strict=True):
            scores[own[index], : len(values)] = values

    for indices in batches(lm, chosen, batch_size, score, apart=apart):
        advance(len(indices))
    scores = distributed.summed({"scores": scores})["scores"].float()
    given = torch.tensor([[column < len(prompt.option_ids) for column in range(scores.shape[1])] for prompt in prompts])
    return scores.masked_fill(~given, -torch.inf)


def scores_of(
    lm: LanguageModel, prompts: Sequence[EncodedPrompt], beginnings: Beginnings | None = None
) -> list[Tensor]:
    """Score the options of a few prompts, in the way that suits the model: one float32 tensor (options,) per prompt.

    Args:
        lm: The model.
        prompts: One batch.
        beginnings: Remembers what an earlier batch began with, as long as the model stays as it is.
    """
    takes = capabilities_of(lm)
    counts = [len(prompt.option_ids) for prompt in prompts]
    if shared := beginning_read_once(lm, prompts):
        scores = behind_beginning(lm, prompts, shared, beginnings or Beginnings(lm))
    elif takes.cache and not takes.branches and within_window(lm, prompts):
        scores = continued_scores(lm, prompts)
    elif takes.padding:
        scores = packed_scores(lm, pack(lm, prompts))
    else:
        scores = torch.cat(
            [packed_scores(lm, pack_alone(lm, prompt, n)) for prompt in prompts for n in range(len(prompt.option_ids))]
        )
    return list(scores.cpu().split(counts))
