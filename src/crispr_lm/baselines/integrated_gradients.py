"""Baseline: integrated gradients in place of activation x gradient, computed by Captum.

    IG_i,t(a) = h_i,t · ∫ from 0 to 1 of ∂s(a)/∂h_i,t at (α · h of the whole module) dα
    B_i = mean of  A_i(ŷ) − λ · max(A_i(y), 0),    A_i(a) = max over t of IG_i,t(a) · P(ŷ)

Sundararajan et al., *Axiomatic Attribution for Deep Networks* (ICML 2017, arXiv 1703.01365), on neurons as Dai et al.,
*Knowledge Neurons in Pretrained Transformers* (ACL 2022, arXiv 2104.08696), have it: the activations of one module go
from zero (all its neurons eliminated) to what they are. One module at a time, so it costs (modules x steps) passes
where activation x gradient costs one; only some of the attribution prompts are used (``--integration-prompts``).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.baselines.errors import NotRunError
from crispr_lm.baselines.fit import AnswerPair, Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.inference.batching import ProgressCallback
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import pack
from crispr_lm.inference.packing import Packed
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.hooks import Seen, watching
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NeuronKind, NeuronSite, find_sites

TOKENS = 4096
"""Tokens in one pass at most: bounds memory."""


def integrated_gradients(fit: Fit, _draw: int) -> Treatment:
    """Eliminate the neurons of highest bias influence, computed with integrated gradients.

    Raises:
        NotRunError: Captum is not installed, or the model's neurons can't be replaced one module at a time.
    """
    if importlib.util.find_spec("captum") is None:
        raise NotRunError("Captum is not installed; pip install 'crispr-lm[benchmark]' brings it")
    pairs = some(fit.pairs, fit.settings.integration_prompts)
    edit = fit.edit(fit.highest(lambda kind: integrated_influence(fit, kind, pairs)))
    return Treatment(edit=edit, details={"prompts": len(pairs), "steps": fit.settings.integration_steps})


def some(pairs: Sequence[AnswerPair], count: int) -> list[AnswerPair]:
    """`count` pairs at equal distances, so that all instructions are among them."""
    return [pairs[number * len(pairs) // count] for number in range(count)] if count < len(pairs) else list(pairs)


def integrated_influence(fit: Fit, kind: NeuronKind, pairs: Sequence[AnswerPair]) -> dict[str, Tensor]:
    """B of every neuron; module name to float32 (neurons,)."""
    sites = find_sites(fit.lm.model, kind)
    steps, skill_weight, tokens = (
        fit.settings.integration_steps,
        fit.settings.skill_weight,
        fit.settings.token_aggregation,
    )
    total = {site.name: torch.zeros(site.width) for site in sites}
    with fit.progress.step("Integrated gradients", 2 * len(pairs) * len(sites)) as advance:
        for pair in pairs:
            of_biased, of_golden = (
                relevances(fit.lm, _only(pair.prompt, option), sites, steps, tokens, advance)
                for option in (pair.biased, pair.golden)
            )
            for site in sites:
                influence = of_biased[site.name] - skill_weight * of_golden[site.name].clamp(min=0)
                weight = pair.confusion if fit.settings.confusion_weight else 1.0
                total[site.name] += weight * influence / len(pairs)
    return total


def relevances(
    lm: LanguageModel,
    encoded: EncodedPrompt,
    sites: Sequence[NeuronSite],
    steps: int,
    token_aggregation: TokenAggregation = "max",
    progress: ProgressCallback | None = None,
) -> dict[str, Tensor]:
    """Max (or mean) over counted tokens of IG; module name to float32 (neurons,) on the CPU.

    Args:
        lm: The model.
        encoded: A prompt with the answer a as its only option.
        sites: Where.
        steps: Points of the Gauss-Legendre rule that the integral is taken by.
        token_aggregation: What is taken of the counted tokens.
        progress: Called with the number of modules just finished.
    """
    from captum.attr import IntegratedGradients

    found = {}
    with torch.inference_mode(False):
        activations = _activations(lm, encoded, sites)
        for site in sites:
            activation, counted = activations[site.name]
            rows = max(1, TOKENS // activation.shape[1])
            attributed = IntegratedGradients(partial(_score_with, lm, encoded, site)).attribute(
                activation, baselines=0.0, n_steps=steps, internal_batch_size=rows if rows < steps else None
            )
            of_token = attributed[0].float()[counted]
            found[site.name] = (of_token.amax(0) if token_aggregation == "max" else of_token.mean(0)).cpu()
            if progress is not None:
                progress(1)
    return found


def _only(prompt: EncodedPrompt, option: int) -> EncodedPrompt:
    return EncodedPrompt(prompt.prompt_ids, [prompt.option_ids[option]])


def _activations(
    lm: LanguageModel, prompt: EncodedPrompt, sites: Sequence[NeuronSite]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per site its activations (1, tokens, units), and bool (tokens,) of those that count."""
    packed = pack(lm, [prompt])
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def see(seen: Seen) -> Tensor:
        if seen.tokens is not None or seen.site.name in found:
            raise NotRunError(f"{seen.site.name} is routed or runs more than once, so it can't be replaced as a whole")
        counted = _counted_tokens(seen, packed)
        found[seen.site.name] = (seen.values.detach().reshape(1, len(counted), -1).clone(), counted)
        return seen.values

    with torch.no_grad(), watching(sites, see):
        packed_scores(lm, packed)
    missing = next((site.name for site in sites if site.name not in found), None)
    if missing is not None:
        raise NotRunError(f"{missing} does not run on every prompt, so it can't be replaced as a whole")
    return found


def _counted_tokens(seen: Seen, packed: Packed) -> Tensor:
    """The tokens of a row of the only prompt that count, bool (tokens,)."""
    shape = tuple(seen.values.shape[:-1])
    for stream in packed.streams:
        if shape in (stream.shape, (stream.shape[1],)):
            return stream.counted[0].to(seen.values.device)
    raise NotRunError(f"{seen.site.name} gives {tuple(seen.values.shape)}, from which its tokens do not follow")


def _score_with(lm: LanguageModel, prompt: EncodedPrompt, site: NeuronSite, values: Tensor) -> Tensor:
    """s(a) with a site's activations replaced by `values`, (rows, tokens, units); one score per row."""
    packed = pack(lm, [prompt] * len(values))
    with watching([site], lambda seen: values.reshape(seen.values.shape)):
        return packed_scores(lm, packed)
