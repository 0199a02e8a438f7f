"""What a feed-forward neuron writes, in words: the tokens that its output direction promotes through the LM head.

Geva et al., 2022, *Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space*:
the logits that neuron i adds per unit of activation are W_U · w_i, with w_i its column of the down projection and W_U
the LM head; layer norms between are left out. Knows a model; knows no task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crispr_lm.edits.edit import neurons_by_site
from crispr_lm.model.neuron_sites import Neuron, NeuronWeights
from crispr_lm.model.offload import at_hand

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

COUNT = 8

AT_ONCE = 16384
"""Rows of the LM head that are multiplied in one piece, so that no float32 copy of all of it is made."""


@torch.no_grad()
def promoted_tokens(lm: LanguageModel, neurons: Sequence[Neuron], count: int = COUNT) -> list[list[str]]:
    """The tokens whose logits each neuron raises most, as text, highest first.

    An empty list where a neuron has no such direction: a `linear` neuron, one of an encoder, or a model whose residual
    stream the LM head can't read directly.
    """
    promoted: list[list[str]] = [[] for _ in neurons]
    head = lm.model.get_output_embeddings()
    if getattr(head, "weight", None) is None:
        return promoted
    with at_hand(head):
        return _promoted(lm, neurons, head.weight, count)


def _promoted(lm: LanguageModel, neurons: Sequence[Neuron], unembedding: Tensor, count: int) -> list[list[str]]:
    promoted: list[list[str]] = [[] for _ in neurons]
    place = {neuron: position for position, neuron in enumerate(neurons)}
    found: dict[int, Tensor] = {}
    readable = [neuron for neuron in neurons if neuron.kind == "ffn" and "encoder" not in neuron.module.split(".")]
    for site, indices in neurons_by_site(lm.model, readable).items():
        if site.weights[0].parameter.dim() != 2:
            continue  # fused experts
        with at_hand(site.module):
            weights = NeuronWeights(site.module.get_parameter("weight"), site.weights[0].axes)
            read = [weights.read(torch.tensor([index])).reshape(-1) for index in indices]
        for index, direction in zip(indices, read, strict=True):
            if direction.numel() != unembedding.shape[1]:
                continue
            found[place[Neuron(site.name, index, "ffn")]] = direction.to(unembedding.device).float()
    if not found:
        return promoted
    directions = torch.stack(list(found.values()), dim=1)
    logits = torch.cat([rows.float() @ directions for rows in unembedding.split(AT_ONCE)])
    best = logits.topk(min(count, len(logits)), dim=0).indices.T.tolist()
    for position, tokens in zip(found, best, strict=True):
        promoted[position] = [lm.tokenizer.decode([token]) for token in tokens]
    return promoted
