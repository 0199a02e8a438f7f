"""Looking at one prompt: how option probabilities change as an edit grows, and which neurons are active on which token.

Knows examples, prompts and a model; knows no metric, no terminal and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crispr_lm.edits.edit import Edit, neurons_by_site
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import encode_text
from crispr_lm.inference.scoring import Likelihood, option_scores
from crispr_lm.model.hooks import Seen, watching
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.tasks.base import Example

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

ANSWER_BEGINS = "(answer)"
"""Stands for the token that a decoder begins its answer with."""


def option_probabilities(
    lm: LanguageModel,
    example: Example,
    instructions: Sequence[str],
    edit: Edit | None = None,
    *,
    scoring: Likelihood = "sum",
) -> list[float]:
    """Each option's probability in shares of all options, mean over instructions.

    Args:
        lm: The model, unedited.
        example: One question.
        instructions: One or more.
        edit: Applied meanwhile; None for the original model.
        scoring: How options are compared.

    Raises:
        InputError: no instructions, or a prompt that does not fit the model's context.
        EditMismatchError: the edit was made for another model.
    """
    if not instructions:
        raise InputError("there is no instruction to ask the question under; give at least one")
    with (edit or Edit(())).applied(lm):
        tables = [option_scores(lm, [example], instruction, scoring=scoring)[0] for instruction in instructions]
    shares = torch.stack(tables).double().softmax(dim=1).mean(dim=0)
    return [float(share) for share in shares]


@dataclass(frozen=True)
class Firing:
    """Activations of some neurons on a prompt.

    Attributes:
        tokens: The prompt's tokens as text, as the model sees them (chat template included); of an encoder-decoder
            model followed by `ANSWER_BEGINS`, the one token that its decoder reads before it writes.
        neurons: Whose activations.
        values: float32 (neurons, tokens); NaN where a neuron does not see a token: the encoder's neurons no answer, the
            decoder's no prompt, an expert's those that other experts got.
    """

    tokens: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    values: Tensor


@torch.inference_mode()
def firing(lm: LanguageModel, text: str, neurons: Sequence[Neuron]) -> Firing:
    """Watch neurons while the model, unedited, reads a user's words.

    An `ffn` neuron's activation is what the down projection reads of it, a `linear` neuron's what its layer puts out.
    Where several layers share one weight the last one is reported.

    Raises:
        InputError: a neuron that the model does not have, or words that do not fit its context.
    """
    ids = encode_text(lm, text)
    if not ids:
        raise InputError(f"there is nothing for {lm.name} to read; write some words")
    if lm.context_length is not None and len(ids) > lm.context_length:
        raise InputError(f"the words take {len(ids)} tokens, but {lm.name} reads at most {lm.context_length}")
    tokens = [lm.tokenizer.decode([token]) for token in ids]
    given = torch.tensor([ids], device=lm.device)
    inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
    if lm.is_encoder_decoder:
        start = lm.model.generation_config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch.tensor([[start]], device=lm.device)
        tokens.append(ANSWER_BEGINS)
    place = {neuron: row for row, neuron in enumerate(neurons)}
    values = torch.full((len(neurons), len(tokens)), torch.nan)
    sites = neurons_by_site(lm.model, neurons)

    def see(seen: Seen) -> Tensor:
        units = seen.values.shape[-1]
        flat = seen.values.reshape(-1, units)
        count = seen.token_count if seen.tokens is not None else len(flat)
        # In an encoder-decoder model the length shows whose tokens they are, but for a prompt of a single one.
        of_prompt = count == len(ids) and not (len(ids) == 1 and "decoder" in seen.site.name.split("."))
        columns = torch.arange(count) if seen.tokens is None else seen.tokens.cpu()
        columns = columns if of_prompt else columns + len(ids)
        for index in sites[seen.site]:
            if 0 <= index - seen.first < units:
                row = place[Neuron(seen.site.name, index, seen.site.kind)]
                values[row, columns] = flat[:, index - seen.first].float().cpu()
        return seen.values

    with watching(sites, see):
        lm.model(**inputs, use_cache=False, return_dict=True)
    return Firing(tuple(tokens), tuple(neurons), values)
