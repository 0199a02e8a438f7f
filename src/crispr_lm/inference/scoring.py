"""Option scores: log P(option | prompt), each prompt encoded once with its options as branches.

Knows prompts as token ids and a model; knows no benchmark. Equation 1 of ``docs/method.md``:
s(c) = Σ_k log P(c_k | prompt, c_<k).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.inference.autocast import evaluating, mask_dtype
from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches
from crispr_lm.inference.kv_cache import (
    Beginnings,
    cache_name,
    continued_scores,
    keeps_logits,
    paying_beginning,
    shared_beginning,
    sharing_groups,
)
from crispr_lm.inference.packing import Packed, pack_branches, pack_encoder_decoder, pack_sequences, packed_length
from crispr_lm.inference.prompts import EncodedPrompt, encode_all, portions
from crispr_lm.model.memory import explain_out_of_memory, is_out_of_memory
from crispr_lm.model.numerics import broken_weights, finite, widened
from crispr_lm.runtime import distributed
from crispr_lm.tasks.base import Example

if TYPE_CHECKING:
    from crispr_lm.model.load import LanguageModel

logger = logging.getLogger(__name__)

Likelihood = Literal["sum", "mean"]
"""How options are compared: by their summed log-probability, or by its mean over the option's tokens."""

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
        if scoring == "mean":
            lengths = [torch.tensor([len(ids) for ids in prompt.option_ids]) for prompt in prompts]
            scores = scores / torch.nn.utils.rnn.pad_sequence(lengths, batch_first=True, padding_value=1)
        rows.append(scores)
    most = max(scores.shape[1] for scores in rows)
    return torch.cat(
        [torch.nn.functional.pad(scores, (0, most - scores.shape[1]), value=-torch.inf) for scores in rows]
    )


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
    examine(lm)
    own = distributed.share([packed_length(prompt) for prompt in prompts])
    chosen = [prompts[index] for index in own]
    # In float64 and filled up with 0, so that the sum over ranks is exact.
    scores = torch.zeros((len(prompts), max(len(prompt.option_ids) for prompt in prompts)), dtype=torch.float64)
    beginnings = Beginnings(lm)
    apart = sharing_groups(chosen) if lm.takes_branches and lm.takes_cache else None
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
    examine(lm)
    counts = [len(prompt.option_ids) for prompt in prompts]
    cached = lm.takes_cache and _within_window(lm, prompts)
    shared = paying_beginning(prompts) if cached and lm.takes_branches else 0
    if shared:
        scores = _behind_beginning(lm, prompts, shared, beginnings or Beginnings(lm))
    elif cached and not lm.takes_branches:
        scores = continued_scores(lm, prompts)
    elif lm.takes_padding:
        scores = packed_scores(lm, pack(lm, prompts))
    else:
        scores = torch.cat(
            [packed_scores(lm, pack_alone(lm, prompt, n)) for prompt in prompts for n in range(len(prompt.option_ids))]
        )
    return list(scores.cpu().split(counts))


def examine(lm: LanguageModel) -> None:
    """Find out once how a model can be scored without ever giving a wrong number; what is slower is said in the log.

    Raises:
        InputError: it is no causal language model, or is in training mode.
    """
    if lm.model.training:  # dropout; the user's own object may be trained between two calls
        raise InputError(f"model {lm.name} is in training mode, which makes scores random; call model.eval() first")
    if lm.takes_branches is not None:
        return
    try:
        with torch.inference_mode(), explain_out_of_memory("on a few short prompts"):
            _examine(lm)
    except BaseException:
        lm.takes_branches = None  # nothing is known before all is
        raise
    if not lm.takes_padding:
        lm.tells_tokens = False


def _examine(lm: LanguageModel) -> None:
    if not lm.is_encoder_decoder:
        _check_causal(lm)
    plain = torch.cat([packed_scores(lm, pack_alone(lm, p, n)) for p in PROBES for n in range(len(p.option_ids))])
    if lm.dtype == torch.float16 and not bool(torch.isfinite(plain).all()) and broken_weights(lm) is None:
        with widened(lm):  # what overflows in float16 is scored in float32
            _examine(lm)
        return
    lm.takes_branches = not lm.is_encoder_decoder and _agrees(
        lm, "as branches", plain, lambda: packed_scores(lm, _branches(lm, PROBES))
    )
    lm.takes_padding = lm.takes_branches or _agrees(
        lm, "in a padded batch", plain, lambda: packed_scores(lm, _padded(lm, PROBES))
    )
    if lm.takes_branches:
        lm.takes_cache = _agrees(lm, "behind a beginning read once", plain, lambda: _probes_behind_beginning(lm))
    elif not lm.is_encoder_decoder:
        lm.takes_cache = _agrees(lm, "from their prompt's cache", plain, lambda: continued_scores(lm, PROBES))
        if lm.takes_cache:
            logger.info("options of %s are scored from their prompt's cache", lm.name)


def _probes_behind_beginning(lm: LanguageModel) -> Tensor:
    alike, others = PROBES[:PROBES_ALIKE], PROBES[PROBES_ALIKE:]
    shared = shared_beginning(alike)
    return torch.cat([_behind_beginning(lm, alike, shared, Beginnings(lm)), packed_scores(lm, _branches(lm, others))])


def _behind_beginning(
    lm: LanguageModel, prompts: Sequence[EncodedPrompt], shared: int, beginnings: Beginnings
) -> Tensor:
    """Options as branches of rows that go on from the `shared` tokens all begin with; returns as `packed_scores`."""
    packed = pack_branches(prompts, _pad_id(lm), mask_dtype(lm), lm.device, shared)
    cache = beginnings.cache_of(prompts[0].prompt_ids[:shared], len(prompts))
    return packed_scores(lm, replace(packed, inputs={**packed.inputs, cache_name(lm): cache}))


def pack(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Packed:
    """Pack prompts in the layout that suits the model, every token of them (for what needs gradients)."""
    examine(lm)
    return _branches(lm, prompts) if lm.takes_branches and _within_window(lm, prompts) else _padded(lm, prompts)


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
        return True  # nothing to compare; that the model gives no numbers is told with the scores
    difference = float(((scores - plain).abs() / plain.abs().clamp(min=1e-3)).max())
    if not difference <= BRANCH_TOLERANCE.get(lm.dtype, BRANCH_TOLERANCE[torch.bfloat16]):  # also where it is NaN
        logger.info("options of %s are not scored %s: scores would differ by %.1e", lm.name, layout, difference)
        return False
    return True


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
    tolerance = BRANCH_TOLERANCE.get(lm.dtype, BRANCH_TOLERANCE[torch.bfloat16])
    largest = float(first.abs().max())
    # Where logits are not finite that is told with the scores.
    if math.isfinite(largest) and not torch.allclose(first, second, rtol=tolerance, atol=tolerance * largest):
        raise InputError(
            f"model {lm.name}: its tokens see those that come after them, so it can't score options; it is no causal "
            "language model, or is not set up as one (is_decoder)"
        )


def _within_window(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> bool:
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
