"""Packing: encoded prompts as the tensors of one forward pass, and where to find each option in the result.

Three layouts give the same scores:

- `branches` (decoder-only): prompt once, its options behind it as branches that see the prompt and themselves but not
  each other (block mask and position ids);
- `sequences` (decoder-only): one sequence per option, for models whose attention can't take a block mask;
- `encoder-decoder`: the encoder reads each prompt once, the decoder one row per option.

Knows token ids and shapes; knows no model weights, no task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import EncodedPrompt

FEWEST_LOGIT_ROWS = 16
"""Positions that the LM head is given at least: CPU kernels for fewer rows have errors of up to 6e-4 in its backward
pass (SmolLM2's 49,152 words; measured against float64), which the attribution of every neuron would inherit."""


@dataclass(frozen=True)
class Stream:
    """One kind of (rows, tokens) tensor inside the model, and which of its tokens count for which option.

    A batch has O options in all, numbered through its prompts.

    Attributes:
        shape: (rows R, tokens L) of the activations that belong to this stream.
        rows: int64 (O,), the row that holds an option.
        counted: bool (O, L), the tokens of that row whose activations can reach the option's score.
    """

    shape: tuple[int, int]
    rows: Tensor
    counted: Tensor


@dataclass(frozen=True)
class Packed:
    """The tensors of one forward pass.

    Attributes:
        inputs: Keyword arguments of the model.
        encoder_inputs: Keyword arguments of the encoder; empty for decoder-only models.
        prompt_of_row: int64 (R,), for encoder-decoder models the encoder row of each decoder row.
        kept: Number of last positions whose logits are computed, at least those needed.
        token_rows: int64 (K,), row of each scored token.
        token_columns: int64 (K,), its position, counted from the end (-1 is the last).
        token_ids: int64 (K,), the token itself.
        token_option: int64 (K,), the number of its option.
        option_counts: Per prompt the number of its options.
        streams: What activations inside the model look like.
    """

    inputs: dict[str, Any]
    encoder_inputs: dict[str, Tensor]
    prompt_of_row: Tensor | None
    kept: int
    token_rows: Tensor
    token_columns: Tensor
    token_ids: Tensor
    token_option: Tensor
    option_counts: list[int]
    streams: tuple[Stream, ...]


def packed_length(prompt: EncodedPrompt) -> int:
    """Number of tokens of a prompt with its options as branches: a measure of what it costs."""
    return len(prompt.prompt_ids) + sum(len(ids) - 1 for ids in prompt.option_ids)


def pack_branches(
    prompts: Sequence[EncodedPrompt], pad: int, dtype: torch.dtype, device: torch.device, shared: int = 0
) -> Packed:
    """Pack each prompt with all its options into one row.

    Rows are aligned at the border between prompt and options (prompts are padded on the left, options on the right), so
    that the logits needed are the last positions of every row. An option's last token is never an input.

    Args:
        prompts: A row each.
        pad: Any token to fill up with.
        dtype: Number format of the mask.
        device: Where the model's inputs go.
        shared: The first so many tokens of every prompt are left out of the rows: they are in the model's cache. Less
            than the shortest prompt has.
    """
    longest = max(len(prompt.prompt_ids) for prompt in prompts) - shared
    tail = max(sum(len(ids) - 1 for ids in prompt.option_ids) for prompt in prompts)
    shape = (len(prompts), longest + tail)
    input_ids = torch.full(shape, pad)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    branch = torch.full(shape, -1)  # -1 padding, 0 prompt, k + 1 the branch of option k
    tokens: list[tuple[int, int, int, int]] = []  # row, column, token, option
    rows: list[int] = []
    option = 0
    for row, prompt in enumerate(prompts):
        length = len(prompt.prompt_ids)
        start = longest - (length - shared)
        input_ids[row, start:longest] = torch.tensor(prompt.prompt_ids[shared:])
        position_ids[row, start:longest] = torch.arange(shared, length)
        branch[row, start:longest] = 0
        column = longest
        for number, ids in enumerate(prompt.option_ids):
            end = column + len(ids) - 1
            input_ids[row, column:end] = torch.tensor(ids[:-1], dtype=torch.int64)
            position_ids[row, column:end] = torch.arange(length, length + len(ids) - 1)
            branch[row, column:end] = number + 1
            # The prompt's last position predicts the first token of every option.
            sources = [longest - 1, *range(column, end)]
            tokens += [(row, source, token, option) for source, token in zip(sources, ids, strict=True)]
            rows.append(row)
            column = end
            option += 1
    row_of_option = torch.tensor(rows)
    number_of_option = torch.cat([torch.arange(len(prompt.option_ids)) for prompt in prompts])
    branch_of_row = branch[row_of_option]
    counted = (branch_of_row == 0) | (branch_of_row == number_of_option[:, None] + 1)
    return _packed(
        {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": _block_mask(branch, dtype, shared)},
        tokens,
        shape,
        [Stream(shape, row_of_option.to(device), counted.to(device))],
        prompts,
        device,
    )


def _block_mask(branch: Tensor, dtype: torch.dtype, shared: int) -> Tensor:
    """The attention mask (rows, 1, tokens, `shared` + tokens): 0 where a query sees a key, else the least number.

    Args:
        branch: int64 (rows, tokens), -1 for padding, 0 for the prompt, k + 1 for option k.
        dtype: Number format of the mask.
        shared: Number of tokens in the model's cache, which every token sees.
    """
    column = torch.arange(branch.shape[1])
    causal = column[None, :, None] >= column[None, None, :]
    query, key = branch[:, :, None], branch[:, None, :]
    visible = causal & (((key == 0) & (query >= 0)) | (query == key))  # padding sees itself: no row without a key
    visible = torch.cat([torch.ones(*visible.shape[:2], shared, dtype=torch.bool), visible], dim=2)
    return torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def pack_sequences(prompts: Sequence[EncodedPrompt], pad: int, device: torch.device) -> Packed:
    """Pack one row per option: prompt, then the option without its last token; padded on the right."""
    sequences = [prompt.prompt_ids + ids[:-1] for prompt in prompts for ids in prompt.option_ids]
    starts = [len(prompt.prompt_ids) for prompt in prompts for _ in prompt.option_ids]
    shape = (len(sequences), max(map(len, sequences)))
    input_ids = torch.full(shape, pad)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    tokens: list[tuple[int, int, int, int]] = []
    options = [ids for prompt in prompts for ids in prompt.option_ids]
    for row, (sequence, start, ids) in enumerate(zip(sequences, starts, options, strict=True)):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        attention_mask[row, : len(sequence)] = 1
        tokens += [(row, start - 1 + step, token, row) for step, token in enumerate(ids)]
    stream = Stream(shape, torch.arange(len(sequences), device=device), attention_mask.bool().to(device))
    return _packed({"input_ids": input_ids, "attention_mask": attention_mask}, tokens, shape, [stream], prompts, device)


def pack_encoder_decoder(
    prompts: Sequence[EncodedPrompt], model: Any, pad: int, device: torch.device, *, distinct_lengths: bool = True
) -> Packed:
    """Pack prompts for the encoder (a row each) and options for the decoder (a row each), padded on the right.

    With `distinct_lengths` encoder and decoder rows differ in length: inside the model a stream is known by its shape.
    """
    options = [ids for prompt in prompts for ids in prompt.option_ids]
    decoder_shape = (len(options), max(map(len, options)))
    source_length = max(len(prompt.prompt_ids) for prompt in prompts)
    if distinct_lengths and source_length == decoder_shape[1]:
        source_length += 1  # padding is never read
    encoder_shape = (len(prompts), source_length)
    input_ids = torch.full(encoder_shape, pad)
    attention_mask = torch.zeros(encoder_shape, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, : len(prompt.prompt_ids)] = torch.tensor(prompt.prompt_ids)
        attention_mask[row, : len(prompt.prompt_ids)] = 1
    decoder_counted = torch.zeros(decoder_shape, dtype=torch.bool)
    tokens: list[tuple[int, int, int, int]] = []
    decoder_input_ids = torch.full(decoder_shape, pad)
    for row, ids in enumerate(options):
        decoder_input_ids[row, : len(ids)] = _decoder_input(model, ids)
        decoder_counted[row, : len(ids)] = True
        tokens += [(row, step, token, row) for step, token in enumerate(ids)]
    counts = [len(prompt.option_ids) for prompt in prompts]
    prompt_of_row = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(device)
    encoder_counted = attention_mask.bool().to(device)[prompt_of_row]
    every_row = torch.arange(len(options), device=device)
    streams = [
        Stream(encoder_shape, prompt_of_row, encoder_counted),
        Stream(decoder_shape, every_row, decoder_counted.to(device)),
        # Keys and values of cross-attention: the encoder's tokens, once for every decoder row.
        Stream((len(options), source_length), every_row, encoder_counted),
    ]
    # The encoder has read input_ids already; some models (FSMT) need them beside its output to make their causal mask.
    inputs = {
        "input_ids": input_ids[prompt_of_row.cpu()],
        "attention_mask": attention_mask[prompt_of_row.cpu()],
        "decoder_input_ids": decoder_input_ids,
    }
    return replace(
        _packed(inputs, tokens, decoder_shape, streams, prompts, device),
        encoder_inputs={"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)},
        prompt_of_row=prompt_of_row,
    )


def _decoder_input(model: Any, option: list[int]) -> Tensor:
    """What the decoder reads to write an option: the model's own shift, or start token and option without its end.

    One option at a time: some models move the last token to the front, and in a padded batch that would be padding.

    Raises:
        InputError: the model does not say which token starts its decoder.
    """
    labels = torch.tensor([option])
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is not None:
        try:
            shifted: Tensor = shift(labels=labels)[0]
            return shifted
        except (AttributeError, ValueError):
            pass  # the configuration lacks the start token, which may be elsewhere
    text_config = model.config.get_text_config(decoder=True)
    for config in (model.config, text_config, getattr(model, "generation_config", None)):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return torch.tensor([start, *option[:-1]])
    raise InputError(
        f"a {type(model).__name__} without decoder_start_token_id in its configuration can't be scored; add it to "
        "config.json (T5's is its pad_token_id)"
    )


def _packed(
    inputs: dict[str, Tensor],
    tokens: list[tuple[int, int, int, int]],
    shape: tuple[int, int],
    streams: list[Stream],
    prompts: Sequence[EncodedPrompt],
    device: torch.device,
) -> Packed:
    rows, columns, ids, options = (torch.tensor(values, device=device) for values in zip(*tokens, strict=True))
    return Packed(
        inputs={name: tensor.to(device) for name, tensor in inputs.items()},
        encoder_inputs={},
        prompt_of_row=None,
        kept=min(shape[1], max(shape[1] - int(columns.min()), -(-FEWEST_LOGIT_ROWS // shape[0]))),
        token_rows=rows,
        token_columns=columns - shape[1],
        token_ids=ids,
        token_option=options,
        option_counts=[len(prompt.option_ids) for prompt in prompts],
        streams=tuple(streams),
    )
