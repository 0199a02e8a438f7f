"""Baseline: steering by a mean-difference direction, contrastive activation addition.

    v = mean over attribution prompts of [ r(y) − r(ŷ) ],    stream := stream + α · v

r is the residual stream behind a middle block, averaged over the answer's tokens (Rimsky et al., *Steering Llama 2 via
Contrastive Activation Addition*, ACL 2024, arXiv 2312.06681). Theirs is the last token of a one-letter answer; α is
chosen on the validation split by the rule for numbers of neurons (`search.neuron_count`). They add the vector behind
the prompt only; here it is added at every position of the decoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crispr_lm.baselines.activations import pack_whole
from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.baselines.residual import Steering, blocks, changing
from crispr_lm.inference.forward import packed_scores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.search.neuron_count import Candidate

COEFFICIENTS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""α that are tried. 1 moves the stream by the mean difference itself."""


def steering(fit: Fit, _draw: int) -> Treatment:
    """Steer from biased towards right answers behind the middle block."""
    middle = (len(blocks(fit.lm)) - 1) // 2
    direction = mean_difference(fit, middle)
    name = fit.parts.task.name
    # A candidate's number is here the number of its coefficient; 0 is the unedited model, as in the search.
    candidates = [fit.unedited]
    with fit.progress.step("Choosing the steering coefficient", len(COEFFICIENTS)) as advance:
        for number, coefficient in enumerate(COEFFICIENTS, start=1):
            with Steering(middle, coefficient * direction).applied(fit.lm):
                candidates.append(Candidate(number, {name: fit.on_choose_part()}))
            advance(1)
    chosen, recommended = fit.best_of(candidates)
    coefficient = COEFFICIENTS[chosen.neurons - 1]
    return Treatment(
        steering=Steering(middle, coefficient * direction),
        details={
            "block": middle,
            "coefficient": coefficient,
            "norm": float(direction.norm()),
            "tried": [candidate.metrics[name] for candidate in candidates],
        },
        recommended=recommended,
    )


def mean_difference(fit: Fit, block: int) -> Tensor:
    """v, float32 (width,)."""
    total: Tensor | None = None
    with fit.progress.step("Steering direction", len(fit.pairs)) as advance:
        for pair in fit.pairs:
            prompt = pair.prompt
            golden, biased = (
                answer_stream(fit.lm, prompt.prompt_ids, prompt.option_ids[option], block)
                for option in (pair.golden, pair.biased)
            )
            total = golden - biased if total is None else total + golden - biased
            advance(1)
    assert total is not None
    return total / len(fit.pairs)


@torch.inference_mode()
def answer_stream(lm: LanguageModel, prompt: list[int], answer: list[int], block: int) -> Tensor:
    """r: the residual stream behind a block, averaged over the answer's tokens; float32 (width,) on the CPU."""
    found: list[Tensor] = []

    def keep(stream: Tensor) -> Tensor:
        found.append(stream.reshape(-1, stream.shape[-1])[-len(answer) :].float().mean(dim=0).cpu())
        return stream

    packed = pack_whole(lm, prompt, answer)
    with changing(blocks(lm)[block], keep):
        packed_scores(lm, packed)
    return found[0]
