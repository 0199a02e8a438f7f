"""Layouts: which way of batching a model takes, found out by trying each on a few probes.

A layout is used only where it gives the probes the scores of single unpadded sequences. Knows prompts as token ids and
a model; knows no benchmark.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.inference.autocast import mask_dtype
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.kv_cache import Beginnings, cache_name, continued_scores, paying_beginning, shared_beginning
from crispr_lm.inference.packing import Packed, pack_branches, pack_encoder_decoder, pack_sequences, packed_length
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.capabilities import Capabilities
from crispr_lm.model.memory import explain_out_of_memory, is_out_of_memory
from crispr_lm.model.numerics import broken_weights, widened

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)

BRANCH_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference between branch and plain scores that is rounding."""


PROBES = (
    EncodedPrompt([11, 18, 25, 32, 39, 46, 53, 60, 67, 74, 81, 88, 95], [[3, 10, 17, 24], [50], [29, 36, 43]]),
    EncodedPrompt([11, 18, 25, 32, 39, 46, 91, 84, 77, 70, 63, 56, 49], [[44], [37, 30]]),
    EncodedPrompt([5, 12, 19, 26, 33, 40, 47, 54], [[17, 24], [90, 97, 4, 11, 18]]),
)
"""Arbitrary tokens, prompts and options of different lengths, two of the prompts alike in length and beginning, to find
out with how a model can be scored."""

PROBES_ALIKE = 2
"""How many of the probes begin alike."""

LENGTH_DEPENDENT_ROTATIONS = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change once a sequence is longer than a configured length."""


def capabilities_of(lm: LanguageModel) -> Capabilities:
    """How a model can be scored without ever giving a wrong number; found out once, and what is slower is logged.

    Raises:
        InputError: it is no causal language model, or is in training mode.
    """
    if lm.model.training:  # dropout; the user's own object may be trained between two calls
        raise InputError(f"model {lm.name} is in training mode, which makes scores random; call model.eval() first")
    if lm.capabilities is None:
        with torch.inference_mode(), explain_out_of_memory("on a few short prompts"):
            lm.capabilities = _examined(lm)
    return lm.capabilities


def _examined(lm: LanguageModel) -> Capabilities:
    if not lm.is_encoder_decoder:
        _check_causal(lm)
    plain = torch.cat([packed_scores(lm, pack_alone(lm, p, n)) for p in PROBES for n in range(len(p.option_ids))])
    if lm.dtype == torch.float16 and not bool(torch.isfinite(plain).all()) and broken_weights(lm) is None:
        with widened(lm):  # what overflows in float16 is scored in float32
            return _examined(lm)
    branches = not lm.is_encoder_decoder and _agrees(
        lm, "as branches", plain, lambda: packed_scores(lm, _branches(lm, PROBES))
    )
    padding = branches or _agrees(lm, "in a padded batch", plain, lambda: packed_scores(lm, _padded(lm, PROBES)))
    cache = False
    if branches:
        cache = _agrees(lm, "behind a beginning read once", plain, lambda: _probes_behind_beginning(lm))
    elif not lm.is_encoder_decoder:
        cache = _agrees(lm, "from their prompt's cache", plain, lambda: continued_scores(lm, PROBES))
        if cache:
            logger.info("options of %s are scored from their prompt's cache", lm.name)
    return Capabilities(branches, padding, cache, tokens_by_shape=padding)


def _probes_behind_beginning(lm: LanguageModel) -> Tensor:
    alike, others = PROBES[:PROBES_ALIKE], PROBES[PROBES_ALIKE:]
    shared = shared_beginning(alike)
    return torch.cat([behind_beginning(lm, alike, shared, Beginnings(lm)), packed_scores(lm, _branches(lm, others))])


def beginning_read_once(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> int:
    """Number of tokens that all prompts begin with and that are better read once (`behind_beginning`); 0 for none."""
    takes = capabilities_of(lm)
    return paying_beginning(prompts) if takes.branches and takes.cache and within_window(lm, prompts) else 0


def behind_beginning(
    lm: LanguageModel, prompts: Sequence[EncodedPrompt], shared: int, beginnings: Beginnings
) -> Tensor:
    """Options as branches of rows that go on from the `shared` tokens all begin with; returns as `packed_scores`."""
    packed = pack_branches(prompts, _pad_id(lm), mask_dtype(lm), lm.device, shared)
    cache = beginnings.cache_of(prompts[0].prompt_ids[:shared], len(prompts))
    return packed_scores(lm, replace(packed, inputs={**packed.inputs, cache_name(lm): cache}))


def pack(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Packed:
    """Pack prompts in the layout that suits the model, every token of them (for what needs gradients)."""
    branches = capabilities_of(lm).branches and within_window(lm, prompts)
    return _branches(lm, prompts) if branches else _padded(lm, prompts)


def _branches(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Packed:
    return pack_branches(prompts, _pad_id(lm), mask_dtype(lm), lm.device)


def _padded(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Packed:
    """A row per option."""
    if lm.is_encoder_decoder:
        return pack_encoder_decoder(prompts, lm.model, _pad_id(lm), lm.device)
    return pack_sequences(prompts, _pad_id(lm), lm.device)


def pack_alone(lm: LanguageModel, prompt: EncodedPrompt, answer: int) -> Packed:
    """Pack one prompt with one of its options, without any padding."""
    alone = [EncodedPrompt(prompt.prompt_ids, [prompt.option_ids[answer]])]
    if lm.is_encoder_decoder:
        return pack_encoder_decoder(alone, lm.model, _pad_id(lm), lm.device, distinct_lengths=False)
    return pack_sequences(alone, _pad_id(lm), lm.device)


def _agrees(lm: LanguageModel, layout: str, plain: Tensor, score: Callable[[], Tensor]) -> bool:
    """Whether a layout gives the probes the scores of single unpadded sequences; says so in the log if not."""
    try:
        scores = score()
    except Exception as error:  # a model that can't take a block mask may fail in any way
        if is_out_of_memory(error):
            raise
        logger.info("options of %s are not scored %s: %s", lm.name, layout, str(error).split("\n")[0])
        return False
    if not bool(torch.isfinite(plain).all()):
        return True  # nothing to compare; that the model gives no numbers is an error of the scores
    difference = float(((scores - plain).abs() / plain.abs().clamp(min=1e-3)).max())
    if not difference <= tolerance_of(lm):  # also where it is NaN
        logger.info("options of %s are not scored %s: scores would differ by %.1e", lm.name, layout, difference)
        return False
    return True


def tolerance_of(lm: LanguageModel) -> float:
    """Largest relative difference that is rounding in the model's number format."""
    return BRANCH_TOLERANCE.get(lm.dtype, BRANCH_TOLERANCE[torch.bfloat16])


def _check_causal(lm: LanguageModel) -> None:
    """Check that a position does not see the tokens after it: else an option's score would know what it shall predict.

    Raises:
        InputError: it does.
    """
    beginning, end, other_end = PROBES[0].prompt_ids, PROBES[-1].option_ids[0], PROBES[-1].option_ids[1][:2]
    sequences = torch.tensor([beginning + end, beginning + other_end], device=lm.device)
    given = {"input_ids": sequences, "attention_mask": torch.ones_like(sequences)}
    logits = lm.model(**given, use_cache=False, return_dict=True).logits
    first, second = logits[:, : len(beginning)].float()
    tolerance = tolerance_of(lm)
    largest = float(first.abs().max())
    # Logits that are not finite are an error of the scores.
    if math.isfinite(largest) and not torch.allclose(first, second, rtol=tolerance, atol=tolerance * largest):
        raise InputError(
            f"model {lm.name}: its tokens see those that come after them, so it can't score options; it is no causal "
            "language model, or is not set up as one (is_decoder)"
        )


def within_window(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> bool:
    """Whether prompts are as short as those the layouts were checked with, as far as the model's attention goes.

    A block mask would hide a sliding window from the model; frequencies that change with a sequence's length do not
    agree with a beginning read by itself.
    """
    config = lm.model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    rotation = getattr(config, "rope_parameters", None) or {}
    limits += [
        parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        for parameters in (rotation, *rotation.values())  # one for all layers, or one per type of layer
        if isinstance(parameters, dict) and parameters.get("rope_type") in LENGTH_DEPENDENT_ROTATIONS
    ]
    longest = max(map(packed_length, prompts))
    return all(longest <= limit for limit in limits if isinstance(limit, int))


def _pad_id(lm: LanguageModel) -> int:
    """A valid token to fill up with. Any will do: the mask hides it."""
    pad = getattr(lm.tokenizer, "pad_token_id", None)
    return pad if isinstance(pad, int) else 0
