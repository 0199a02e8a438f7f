"""Caching: tokens that several sequences begin with are read once, and the rest continues from the model's cache.

Two uses; attribution needs every prompt's own gradients at every token, so the second is for scoring alone:

- prompts of one instruction begin alike (system text, instruction): `Beginnings` reads that once;
- options continue their prompt from its cache (`continued_scores`), for models whose attention takes no block mask.

Knows token ids and a model; knows no benchmark. Whether a model's cache can be relied on is checked in
`layouts.capabilities_of`.
"""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crispr_lm.errors import CrisprError
from crispr_lm.inference.prompts import EncodedPrompt

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

FEWEST_SAVED = 256
"""Tokens that reading a beginning once must save to be worth a forward pass of its own, or a batch of its own."""


class Beginnings:
    """The last beginning that was read, for the weights as they are: not to be kept while the model changes."""

    def __init__(self, lm: LanguageModel) -> None:
        """Remember nothing yet."""
        self.lm = lm
        self.ids: list[int] = []
        self.cache: Any = None

    def cache_of(self, ids: list[int], rows: int) -> Any:
        """The model's cache after these tokens, once per row, free to be written to.

        Differentiable where gradients are on.
        """
        if torch.is_grad_enabled():  # what gradients are taken through can't be copied, nor used again
            self.ids = []
        if ids != self.ids:
            self.cache, self.ids = _read(self.lm, torch.tensor([ids], device=self.lm.device))[0], ids
        cache = self.cache if torch.is_grad_enabled() else copy.deepcopy(self.cache)
        cache.reorder_cache(torch.zeros(rows, dtype=torch.int64, device=self.lm.device))
        return cache


def shared_beginning(prompts: Sequence[EncodedPrompt]) -> int:
    """Number of tokens that all prompts begin with; each prompt keeps at least its last token for itself."""
    # Of sequences in their order the first and the last have the least in common.
    first = min(prompt.prompt_ids for prompt in prompts)
    last = max(prompt.prompt_ids for prompt in prompts)
    common = next((n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return min(common, min(len(prompt.prompt_ids) for prompt in prompts) - 1)


def paying_beginning(prompts: Sequence[EncodedPrompt]) -> int:
    """As `shared_beginning`, or 0 where reading it once saves too little."""
    shared = shared_beginning(prompts)
    return shared if shared * (len(prompts) - 1) >= FEWEST_SAVED else 0


def sharing_groups(prompts: Sequence[EncodedPrompt]) -> list[int]:
    """Which prompts to batch together so that few tokens are read twice; per prompt the number of its group.

    A group is parted where prompts go on differently after what they all begin with (another instruction), for those
    parts whose longer beginning saves more tokens than it costs.
    """
    group_of = [0] * len(prompts)
    waiting = [list(range(len(prompts)))]
    groups = 1
    while waiting:
        members = waiting.pop()
        shared = shared_beginning([prompts[index] for index in members])
        by_next: dict[int, list[int]] = defaultdict(list)
        for index in members:
            by_next[prompts[index].prompt_ids[shared]].append(index)
        if len(by_next) == 1:
            continue
        for alike in by_next.values():
            longer = shared_beginning([prompts[index] for index in alike])
            if (longer - shared) * len(alike) - longer >= FEWEST_SAVED:
                for index in alike:
                    group_of[index] = groups
                groups += 1
                waiting.append(alike)
    return group_of


def continued_scores(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Tensor:
    """Score options that continue from their prompt's cache; returns as `forward.packed_scores`.

    Prompts of equal length are read together, so that none is padded; options are padded at their end, where nothing
    comes after.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt.prompt_ids)].append(index)
    scores: list[Tensor] = [torch.empty(0) for _ in prompts]
    for members in by_length.values():
        chosen = [prompts[index] for index in members]
        counts = [len(prompt.option_ids) for prompt in chosen]
        for index, values in zip(members, _continued(lm, chosen).split(counts), strict=True):
            scores[index] = values
    return torch.cat(scores)


def _continued(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Tensor:
    """As `continued_scores`, for prompts of equal length."""
    input_ids = torch.tensor([prompt.prompt_ids for prompt in prompts], device=lm.device)
    cache, last = _read(lm, input_ids)
    options = [ids for prompt in prompts for ids in prompt.option_ids]
    counts = torch.tensor([len(prompt.option_ids) for prompt in prompts])
    prompt_of_row = torch.arange(len(prompts)).repeat_interleave(counts).to(lm.device)
    first = torch.tensor([ids[0] for ids in options], device=last.device)
    total = _log_probability(last[prompt_of_row.to(last.device)], first)
    longest = max(map(len, options)) - 1
    if longest == 0:
        return total
    rows = torch.zeros((len(options), longest), dtype=torch.int64)
    following = torch.zeros((len(options), longest), dtype=torch.int64)
    given = torch.zeros((len(options), longest), dtype=torch.bool)
    for row, ids in enumerate(options):
        rows[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        following[row, : len(ids) - 1] = torch.tensor(ids[1:])
        given[row, : len(ids) - 1] = True
    cache.reorder_cache(prompt_of_row)
    seen = torch.ones((len(options), input_ids.shape[1] + longest), dtype=torch.int64, device=lm.device)
    given_cache = {cache_name(lm): cache}
    logits = lm.model(
        input_ids=rows.to(lm.device), attention_mask=seen, **given_cache, use_cache=True, return_dict=True
    ).logits.float()
    of_token = _log_probability(logits, following.to(logits.device))
    return total + of_token.masked_fill(~given.to(logits.device), 0).sum(dim=1).to(total.device)


def _read(lm: LanguageModel, input_ids: Tensor) -> tuple[Any, Tensor]:
    """Read unpadded rows (rows, tokens); the cache, and float32 logits (rows, vocabulary) of the last position."""
    keep = {"logits_to_keep": 1} if keeps_logits(lm) else {}
    given = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    output = lm.model(**given, **keep, use_cache=True, return_dict=True)
    cache = getattr(output, cache_name(lm), None)
    if not hasattr(cache, "reorder_cache"):
        raise CrisprError(f"model {lm.name} gives no cache that sequences can go on from")
    return cache, output.logits[:, -1].float()


def keeps_logits(lm: LanguageModel) -> bool:
    """Whether the model can be asked for the logits of its last positions alone."""
    return "logits_to_keep" in inspect.signature(lm.model.forward).parameters


def cache_name(lm: LanguageModel) -> str:
    """What the model calls its cache of keys and values, as an argument and in its output.

    transformers has long said "past_key_values", renames it to "cache" model by model, and warns of the old name.
    """
    return "cache" if "cache" in inspect.signature(lm.model.forward).parameters else "past_key_values"


def _log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """Return log P of `ids` (...) under logits (..., vocabulary)."""
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(dim=-1)
