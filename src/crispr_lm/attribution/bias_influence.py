"""Attribution: the bias influence of every neuron, from one forward and two backward passes per prompt.

Knows prompts as token ids and a model; knows no benchmark. Equations 2 to 5 of ``docs/method.md``:

    ŷ    = argmax over c in C without y of s(c)
    A(a) = max over t of  h_t · P(ŷ) · ∂s(a)/∂h_t        (ablations: the mean over t; without P(ŷ))
    B    = A(ŷ) − λ · max(A(y), 0)          per example, then the mean over examples and instructions
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from crispr_lm.attribution.activation_gradients import (
    ActivationGradients,
    ChangedInPlaceError,
    TokenAggregation,
    UnknownTokensError,
)
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.errors import CrisprError, InputError
from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches, gradient_bytes_per_token
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import capabilities_of, pack, pack_alone
from crispr_lm.inference.packing import packed_length
from crispr_lm.inference.prompts import EncodedPrompt, encode, portions
from crispr_lm.inference.scoring import scores_of
from crispr_lm.model.hooks import watching
from crispr_lm.model.neuron_sites import NeuronKind, NeuronSite, find_sites
from crispr_lm.model.numerics import finite
from crispr_lm.model.offload import is_offloaded, recomputed
from crispr_lm.runtime import distributed
from crispr_lm.tasks.base import Example

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass(frozen=True)
class BiasInfluence:
    """Which bias influence is computed; the defaults are the paper's.

    Attributes:
        neurons: `linear` (the paper) or `ffn`.
        skill_weight: λ, how much of the relevance for the right answer is subtracted; not negative.
        token_aggregation: What A(a) takes of a prompt's tokens: the "max" (the paper), or the "mean".
        confusion_weight: Whether A(a) has the factor P(ŷ), by which examples count the more the more confidently the
            model is biased.

    Raises:
        InputError: λ is negative or not finite.
    """

    neurons: NeuronKind = "linear"
    skill_weight: float = 1.0
    token_aggregation: TokenAggregation = "max"
    confusion_weight: bool = True

    def __post_init__(self) -> None:
        """Check λ."""
        if not 0 <= self.skill_weight < float("inf"):
            raise InputError(
                f"the skill weight must be a finite number that is not negative, but is {self.skill_weight}"
            )


PAPER = BiasInfluence()
"""The published bias influence: of linear layers' outputs, λ = 1, the largest token."""


def score_neurons(
    lm: LanguageModel,
    examples: Sequence[Example],
    instructions: Sequence[str],
    formula: BiasInfluence = PAPER,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> NeuronScores:
    """Compute the bias influence of every neuron.

    The scores do not depend on batch size, padding or the order of examples.

    Args:
        lm: The model; its weights are not touched.
        examples: Some 20 suffice (the paper's number).
        instructions: One or more synonymous instructions; the mean goes over all pairs.
        formula: Of which kind of neurons, with which λ and which aggregation of tokens.
        batch_size: Prompts in one pass, or "auto".
        progress: Called with the number of prompts just finished.

    Raises:
        InputError: nothing to attribute on, a prompt that does not fit, or a model without such neurons.
        CrisprError: a score is not finite (the module that begins with it is named).
    """
    if isinstance(instructions, str):
        raise InputError("instructions must be a list of strings; put a single one into a list")
    if not examples or not instructions:
        raise InputError("neurons can't be scored without examples and instructions; give at least one of each")
    sites = find_sites(lm.model, formula.neurons)
    # Summed in float64 on the CPU, so that the order of batches does not show.
    total = {site.name: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    for asked in portions([(instruction, example) for instruction in instructions for example in examples]):
        prompts = [encode(lm, example, instruction) for instruction, example in asked]
        own = distributed.share([packed_length(prompt) for prompt in prompts])
        chosen, golden = [prompts[index] for index in own], [asked[index][1].answer for index in own]
        advance = distributed.scaled(progress, len(own), len(prompts))

        def attribute(
            indices: list[int], chosen: Sequence[EncodedPrompt] = chosen, golden: Sequence[int] = golden
        ) -> None:
            batch, answers = [chosen[index] for index in indices], [golden[index] for index in indices]

            def compute() -> dict[str, Tensor]:
                return adapting(lm, lambda: influence_of(lm, batch, answers, sites, formula))

            _add(total, finite(lm, compute, lambda found: found.values()))

        with frozen(lm.model), recomputed(lm.model):
            for indices in batches(lm, chosen, batch_size, attribute, bytes_per_token=gradient_bytes_per_token(lm)):
                advance(len(indices))
    count = len(instructions) * len(examples)
    values = {name: (summed / count).float() for name, summed in distributed.summed(total).items()}
    origin = {
        "model": lm.name,
        "skill_weight": formula.skill_weight,
        "token_aggregation": formula.token_aggregation,
        "confusion_weight": formula.confusion_weight,
        "prompts": count,
    }
    return NeuronScores(values=values, kind=formula.neurons, origin=origin)


def biased_answers(scores: Tensor, golden: Tensor) -> Tensor:
    """Equation 2: per row the index of the wrong option with the highest score.

    Args:
        scores: (examples, options), -inf where an example has no such option.
        golden: int64 (examples,), index of y.

    Returns:
        int64 (examples,). Of equal scores the first wins.
    """
    return scores.scatter(1, golden[:, None], -torch.inf).argmax(dim=1)


def _add(total: dict[str, Tensor], influence: Mapping[str, Tensor]) -> None:
    for name, values in influence.items():
        total[name] += values


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take gradients of activations only, also where the caller has parameters that require them or gradients off."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def adapting(lm: LanguageModel, attribute: Callable[[], Found]) -> Found:
    """Attribute in the way that suits the model; what does not is found out once and said in the log."""
    try:
        return attribute()
    except UnknownTokensError as error:
        logger.info("prompts of %s are attributed one answer at a time: %s", lm.name, error)
        lm.capabilities = replace(capabilities_of(lm), tokens_by_shape=False)
    except (ChangedInPlaceError, RuntimeError) as error:
        # PyTorch refuses to change a leaf of the graph in place; any other change shows in a tensor's version.
        in_place = isinstance(error, ChangedInPlaceError) or "in-place operation" in str(error)
        if not in_place and "does not require grad" in str(error):
            reason = "it keeps no graph of its layers (reversible or custom backward pass)"
            raise CrisprError(f"model {lm.name} can't be attributed: {reason}") from error
        if capabilities_of(lm).writes_in_place or not in_place:
            raise
        logger.info("%s changes outputs of its layers in place; attribution works on copies", lm.name)
        lm.capabilities = replace(capabilities_of(lm), writes_in_place=True)
    return adapting(lm, attribute)


def influence_of(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    golden: Sequence[int],
    sites: Sequence[NeuronSite],
    formula: BiasInfluence = PAPER,
) -> dict[str, Tensor]:
    """B of every neuron summed over one batch of prompts; module name to float64 (neurons,) on the CPU."""
    if capabilities_of(lm).tokens_by_shape:
        return _influence_of_batch(lm, prompts, golden, sites, formula)
    total: dict[str, Tensor] = {}
    for prompt, answer in zip(prompts, golden, strict=True):
        for name, values in _influence_alone(lm, prompt, answer, sites, formula).items():
            total[name] = total[name] + values if name in total else values
    return total


def _influence_of_batch(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    golden: Sequence[int],
    sites: Sequence[NeuronSite],
    formula: BiasInfluence,
) -> dict[str, Tensor]:
    """As `influence_of`, all prompts in one batch."""
    packed = pack(lm, prompts)
    relevance = ActivationGradients(
        packed.streams,
        packed.option_counts,
        formula.token_aggregation,
        copy=capabilities_of(lm).writes_in_place,
        recomputed=is_offloaded(lm.model),
    )
    with watching(sites, relevance.see):
        scores = packed_scores(lm, packed)
        first = torch.tensor([0, *packed.option_counts[:-1]]).cumsum(0)
        of_prompt = list(scores.detach().cpu().split(packed.option_counts))
        table = torch.nn.utils.rnn.pad_sequence(of_prompt, batch_first=True, padding_value=-torch.inf)
        golden_index = torch.tensor(golden)
        biased_index = biased_answers(table, golden_index)
        confusion = table.gather(1, biased_index[:, None])[:, 0].exp()  # P(ŷ), (prompts,)
        of_biased, of_golden = (
            relevance.backward(scores[options.to(scores.device)].sum(), options, keep_graph=keep_graph)
            for options, keep_graph in ((first + biased_index, True), (first + golden_index, False))
        )
    return _influence(of_biased, of_golden, confusion, formula)


def _influence_alone(
    lm: LanguageModel,
    prompt: EncodedPrompt,
    golden: int,
    sites: Sequence[NeuronSite],
    formula: BiasInfluence,
) -> dict[str, Tensor]:
    """B of every neuron for one prompt, each answer in a pass of its own, unpadded: every token there is counts."""
    with torch.inference_mode():
        scores = scores_of(lm, [prompt])[0][None]
    biased = biased_answers(scores, torch.tensor([golden]))

    def relevance_for(answer: int) -> Mapping[NeuronSite, Tensor]:
        packed = pack_alone(lm, prompt, answer)
        relevance = ActivationGradients(
            packed.streams,
            [1],
            formula.token_aggregation,
            alone=True,
            copy=capabilities_of(lm).writes_in_place,
            recomputed=is_offloaded(lm.model),
        )
        with watching(sites, relevance.see):
            return relevance.backward(packed_scores(lm, packed).sum(), keep_graph=False)

    return _influence(relevance_for(int(biased)), relevance_for(golden), scores[0, biased].exp(), formula)


def _influence(
    of_biased: Mapping[NeuronSite, Tensor],
    of_golden: Mapping[NeuronSite, Tensor],
    confusion: Tensor,
    formula: BiasInfluence,
) -> dict[str, Tensor]:
    """Equations 3 and 4, summed over prompts; relevances without P(ŷ) (prompts, neurons), confusion P(ŷ) (prompts,)."""
    influence = {}
    weight = confusion.double()[:, None] if formula.confusion_weight else 1.0
    for site in {**of_biased, **of_golden}:
        # An expert that only one of the answers reaches has no relevance for the other.
        none = torch.zeros(())
        biased, golden = (relevance.get(site, none).double() for relevance in (of_biased, of_golden))
        difference = biased - formula.skill_weight * golden.clamp(min=0)
        # P(ŷ) is not negative, so it can be multiplied after tokens are aggregated.
        influence[site.name] = (difference * weight).sum(dim=0)
    return influence
