"""Mean activations of neurons over a prompt's tokens or its answer's. Knows prompts as token ids, models and hooks.

One prompt and one answer at a time: in a batch of one row every activation's first dimensions are its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from crispr_lm.baselines.errors import NotRunError
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import pack
from crispr_lm.inference.packing import Packed
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.hooks import Seen, watching
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NeuronSite

Tokens = Literal["answer", "all"]
"""Mean of h over the answer's tokens, or mean of |h| over all tokens, prompt and answer."""


@torch.inference_mode()
def mean_activations(
    lm: LanguageModel, prompt: Sequence[int], answer: Sequence[int], sites: Sequence[NeuronSite], tokens: Tokens
) -> dict[str, Tensor]:
    """Mean activation of every neuron while the model reads a prompt and an answer.

    In an encoder-decoder model the answer's tokens are the decoder's; encoder modules, and the keys and values of
    cross-attention, do not see the answer, so that their mean is always over the prompt.

    Args:
        lm: The model.
        prompt: Its tokens.
        answer: The answer's tokens.
        sites: Where neurons are looked at.
        tokens: "answer" for the mean of h over the answer's tokens, "all" for the mean of |h| over all tokens.

    Returns:
        Module name to float32 (neurons,) on the CPU. An expert that is given none of the tokens has 0.

    Raises:
        NotRunError: an activation's tokens do not follow from its shape.
    """
    packed = pack_whole(lm, prompt, answer)
    sums = {site.name: torch.zeros(site.width) for site in sites}

    def see(seen: Seen) -> Tensor:
        values, positions = token_rows(seen, packed)
        counted = _counted(packed, len(answer), seen_length(seen, packed), tokens)
        chosen = values[counted[positions]].float()
        mean = (chosen.abs() if tokens == "all" else chosen).sum(dim=0) / int(counted.sum())
        sums[seen.site.name][seen.first : seen.first + len(mean)] += mean.cpu()
        return seen.values

    with watching(sites, see):
        packed_scores(lm, packed)
    return sums


def pack_whole(lm: LanguageModel, prompt: Sequence[int], answer: Sequence[int]) -> Packed:
    """Pack one prompt and one answer so that the model reads the answer to its last token.

    An option's last token is never an input, so one more token is put behind it; no token before it sees that.
    """
    return pack(lm, [EncodedPrompt(list(prompt), [[*answer, answer[-1]]])])


def seen_length(seen: Seen, packed: Packed) -> int:
    """Number of tokens in the rows that an activation belongs to."""
    lengths = {stream.shape[1] for stream in packed.streams}
    count = seen.token_count if seen.tokens is not None else seen.values.numel() // seen.values.shape[-1]
    if count not in lengths:
        raise NotRunError(f"{seen.site.name} gives {tuple(seen.values.shape)}, from which its tokens do not follow")
    return count


def token_rows(seen: Seen, packed: Packed) -> tuple[Tensor, Tensor]:
    """Activations as (n, units), and which tokens they are, int64 (n,); all of them but for an expert's."""
    length = seen_length(seen, packed)
    values = seen.values.reshape(-1, seen.values.shape[-1])
    return values, seen.tokens.cpu() if seen.tokens is not None else torch.arange(length)


def _counted(packed: Packed, answer_length: int, length: int, tokens: Tokens) -> Tensor:
    """Which tokens of a row of that length the mean is over; bool (length,)."""
    if packed.prompt_of_row is not None and length == packed.streams[0].shape[1]:  # the encoder's, without padding
        return packed.streams[0].counted[0].cpu()
    # An option's last token, which `pack_whole` has added, is never an input: the row ends with the answer.
    counted = torch.ones(length, dtype=torch.bool)
    if tokens == "answer":
        counted[: length - answer_length] = False
    return counted
