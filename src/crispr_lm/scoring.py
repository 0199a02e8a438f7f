"""Option scores: log P(option | prompt), each prompt encoded once with its options as branches.

Knows prompts as token ids and a model; knows no benchmark. Equation 1 of ``docs/method.md``:
s(c) = Σ_k log P(c_k | prompt, c_<k).
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.packing import Packed, pack_branches, pack_encoder_decoder, pack_sequences, packed_length
from crispr_lm.prompts import EncodedPrompt, encode_all
from crispr_lm.tasks.task import Example

if TYPE_CHECKING:
    from crispr_lm.model.load import LanguageModel

logger = logging.getLogger(__name__)

BatchSize = int | str
"""Prompts in one forward pass, or "auto"."""

Likelihood = Literal["sum", "mean"]
"""How options are compared: by their summed log-probability, or by its mean over the option's tokens."""

ProgressCallback = Callable[[int], None]
"""Called with the number of prompts just finished."""

AUTO_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens in a batch for "auto", by device type: enough to keep it busy (benchmarks/batch_size.py), small in memory."""

BRANCH_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative difference between branch and plain scores that is rounding."""


PROBES = (
    EncodedPrompt([11, 18, 25, 32, 39, 46, 53, 60, 67, 74, 81, 88, 95], [[3, 10, 17, 24], [50], [29, 36, 43]]),
    EncodedPrompt([5, 12, 19, 26, 33, 40, 47, 54], [[17, 24], [90, 97, 4, 11, 18]]),
)
"""Arbitrary tokens, prompts and options of different lengths, to find out with how a model can be scored."""


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
        CrisprError: the model gives scores that are not finite.
    """
    prompts = encode_all(lm, examples, instruction)
    scores = prompt_scores(lm, prompts, batch_size, progress)
    if scoring == "mean":
        lengths = [torch.tensor([len(ids) for ids in prompt.option_ids]) for prompt in prompts]
        return scores / torch.nn.utils.rnn.pad_sequence(lengths, batch_first=True, padding_value=1)
    return scores


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
    scores = torch.full((len(prompts), max(len(prompt.option_ids) for prompt in prompts)), -torch.inf)

    def score(indices: list[int]) -> None:
        for index, values in zip(indices, scores_of(lm, [prompts[index] for index in indices]), strict=True):
            scores[index, : len(values)] = values

    for indices in batches(lm, prompts, batch_size, score):
        if progress is not None:
            progress(len(indices))
    given = torch.tensor([[column < len(prompt.option_ids) for column in range(scores.shape[1])] for prompt in prompts])
    if not torch.isfinite(scores[given]).all():
        cause = "its weights hold NaN or infinity" if lm.dtype == torch.float32 else "load it with dtype float32"
        raise CrisprError(f"model {lm.name} gives scores that are not finite; {cause}")
    return scores


def scores_of(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> list[Tensor]:
    """Score the options of a few prompts, in the way that suits the model: one float32 tensor (options,) per prompt."""
    examine(lm)
    counts = [len(prompt.option_ids) for prompt in prompts]
    if lm.takes_padding:
        return list(packed_scores(lm, pack(lm, prompts)).cpu().split(counts))
    alone = [packed_scores(lm, pack_alone(lm, prompt, n)) for prompt in prompts for n in range(len(prompt.option_ids))]
    return list(torch.cat(alone).cpu().split(counts))


def examine(lm: LanguageModel) -> None:
    """Find out once how a model can be scored without ever giving a wrong number; what is slower is said in the log.

    Raises:
        InputError: it is no causal language model.
    """
    if lm.takes_branches is not None:
        return
    with torch.inference_mode():
        if not lm.is_encoder_decoder:
            _check_causal(lm)
        plain = torch.cat([packed_scores(lm, pack_alone(lm, p, n)) for p in PROBES for n in range(len(p.option_ids))])
        lm.takes_branches = not lm.is_encoder_decoder and _agrees(lm, "branches", plain, _branches)
        lm.takes_padding = lm.takes_branches or _agrees(lm, "a padded batch", plain, _padded)
    if not lm.takes_padding:
        lm.tells_tokens = False


def pack(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Packed:
    """Pack prompts in the layout that suits the model."""
    examine(lm)
    if lm.is_encoder_decoder:
        return _padded(lm, prompts)
    window = _attention_window(lm)
    if lm.takes_branches and (window is None or max(map(packed_length, prompts)) <= window):
        return _branches(lm, prompts)
    return _padded(lm, prompts)


def _branches(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Packed:
    return pack_branches(prompts, _pad_id(lm), lm.dtype, lm.device)


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
    elif _keeps_logits(lm):
        inputs["logits_to_keep"] = packed.kept
    logits = lm.model(**inputs, use_cache=False, return_dict=True).logits
    # Columns count from the end, so they are right whether or not the model left the first positions out.
    rows, columns = packed.token_rows.to(logits.device), packed.token_columns.to(logits.device)
    of_position: Tensor = logits[rows, columns].float()
    return of_position


def batches(
    lm: LanguageModel, prompts: Sequence[EncodedPrompt], batch_size: BatchSize, work: Callable[[list[int]], None]
) -> Iterator[list[int]]:
    """Do `work` on indices of prompts of like length, a batch at a time, and yield each batch when it is done.

    Where memory runs out the batch is halved and tried again, down to a single prompt.

    Raises:
        InputError: batch size is neither "auto" nor a positive number.
        CrisprError: memory runs out on a single prompt.
    """
    if batch_size != "auto" and (not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1):
        raise InputError(f"batch size must be 'auto' or a positive number, not {batch_size!r}")
    # Longest first: if memory does not suffice that shows at once.
    waiting = sorted(range(len(prompts)), key=lambda index: -packed_length(prompts[index]))
    most = len(prompts) if batch_size == "auto" else int(batch_size)
    tokens = AUTO_TOKENS.get(lm.device.type, AUTO_TOKENS["cpu"])
    while waiting:
        size = most
        if batch_size == "auto":
            size = min(most, max(1, tokens // packed_length(prompts[waiting[0]])))
        batch = waiting[:size]
        try:
            work(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise CrisprError(
                    "memory runs out on a single prompt; use shorter prompts, a shorter dtype or a smaller model"
                ) from error
            most = len(batch) // 2
            logger.warning("out of memory with %d prompts in a batch, going on with %d", len(batch), most)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        waiting = waiting[size:]
        yield batch


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _agrees(
    lm: LanguageModel,
    layout: str,
    plain: Tensor,
    pack_probes: Callable[[LanguageModel, Sequence[EncodedPrompt]], Packed],
) -> bool:
    """Whether a layout gives the probes the scores of single unpadded sequences; says so in the log if not."""
    try:
        scores = packed_scores(lm, pack_probes(lm, PROBES))
    except Exception as error:  # a model that can't take a block mask may fail in any way
        logger.info("options of %s are not scored as %s: %s", lm.name, layout, str(error).split("\n")[0])
        return False
    if not bool(torch.isfinite(plain).all()):
        return True  # nothing to compare; that the model gives no numbers is told with the scores
    difference = float(((scores - plain).abs() / plain.abs().clamp(min=1e-3)).max())
    if not difference <= BRANCH_TOLERANCE.get(lm.dtype, BRANCH_TOLERANCE[torch.bfloat16]):  # also where it is NaN
        logger.info("options of %s are not scored as %s: scores would differ by %.1e", lm.name, layout, difference)
        return False
    return True


def _check_causal(lm: LanguageModel) -> None:
    """Check that a position does not see the tokens after it: else an option's score would know what it shall predict.

    Raises:
        InputError: it does.
    """
    beginning, end, other_end = PROBES[0].prompt_ids, PROBES[1].option_ids[0], PROBES[1].option_ids[1][:2]
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


def _attention_window(lm: LanguageModel) -> int | None:
    """Tokens that a sliding-window layer can look back over; a block mask would hide that limit from the model."""
    config = lm.model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if isinstance(window, int)), default=None)


def _keeps_logits(lm: LanguageModel) -> bool:
    return "logits_to_keep" in inspect.signature(lm.model.forward).parameters


def _pad_id(lm: LanguageModel) -> int:
    """A valid token to fill up with. Any will do: the mask hides it."""
    pad = getattr(lm.tokenizer, "pad_token_id", None)
    return pad if isinstance(pad, int) else 0
