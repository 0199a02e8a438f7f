"""What others run for the same figures, and the limit: the arithmetic alone.

Each gets exactly the tokens that the library scores. Needs the extra `benchmark` (lm-eval, Captum).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.packing import Packed
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NeuronSite


def harness(lm: LanguageModel, batch_size: int) -> Callable[[Sequence[EncodedPrompt]], list[float]]:
    """lm-eval's Hugging Face backend on the model in memory; its scores of all options, prompt by prompt."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    backend = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size, device=str(lm.device))

    def score(prompts: Sequence[EncodedPrompt]) -> list[float]:
        requests = [
            ((str(number), str(option)), list(prompt.prompt_ids), list(ids))
            for number, prompt in enumerate(prompts)
            for option, ids in enumerate(prompt.option_ids)
        ]
        return [value for value, _ in backend._loglikelihood_tokens(requests, disable_tqdm=True)]

    return score


def forward_and_two_backward(lm: LanguageModel, packed: Packed) -> None:
    """The limit of attribution: one forward and two activation-only backward passes; no neuron is looked at."""

    def start(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_(True)

    hook = lm.model.get_input_embeddings().register_forward_hook(start)
    try:
        with torch.enable_grad():
            scores = packed_scores(lm, packed)
    finally:
        hook.remove()
    first = torch.tensor([0, *packed.option_counts[:-1]]).cumsum(0).to(scores.device)
    scores[first].sum().backward(retain_graph=True)
    scores[first + 1].sum().backward()


def option_score(model: Any, input_ids: Tensor, option: Sequence[int]) -> Tensor:
    """s(c) of rows (rows, prompt + option without its last token), the plain way: all logits, log-softmax, gather."""
    logits = model(input_ids=input_ids, use_cache=False).logits[:, -len(option) :]
    chosen = torch.tensor(list(option), device=logits.device).expand(len(logits), -1)
    score: Tensor = logits.log_softmax(dim=-1).gather(2, chosen[:, :, None]).sum(dim=(1, 2))
    return score


def hooked_autograd(
    lm: LanguageModel, sites: Sequence[NeuronSite], prompt: EncodedPrompt, golden: int, train_weights: bool
) -> dict[str, Tensor]:
    """B of every neuron with one sequence per answer and a hook on every layer, λ = 1.

    Every option is scored by a sequence of its own; the biased and the golden answer then get a forward and a backward
    pass each, in which hooks retain every layer's output and its gradient.

    Args:
        lm: The model.
        sites: Layers whose outputs are looked at.
        prompt: What is asked.
        golden: Index of the right option.
        train_weights: Leave the weights' gradients on, as `from_pretrained` gives them.
    """
    rows = [torch.tensor([prompt.prompt_ids + ids[:-1]], device=lm.device) for ids in prompt.option_ids]
    with torch.no_grad():
        scores = [float(option_score(lm.model, row, ids)) for row, ids in zip(rows, prompt.option_ids, strict=True)]
    biased = max((number for number in range(len(rows)) if number != golden), key=lambda number: scores[number])
    confusion = float(torch.tensor(scores[biased]).exp())

    def relevance(answer: int) -> dict[str, Tensor]:
        captured: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
                output.retain_grad()
                captured[name] = output

            return hook

        def start(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
            return output if output.requires_grad else output.requires_grad_(True)

        hooks = [site.module.register_forward_hook(keep(site.name)) for site in sites]
        hooks.append(lm.model.get_input_embeddings().register_forward_hook(start))
        try:
            with torch.enable_grad():
                option_score(lm.model, rows[answer], prompt.option_ids[answer]).sum().backward()
        finally:
            for handle in hooks:
                handle.remove()
        of_site = {}
        for name, output in captured.items():
            assert output.grad is not None
            of_site[name] = (output.detach() * output.grad).flatten(0, 1).amax(dim=0) * confusion
        return of_site

    try:
        lm.model.requires_grad_(train_weights)
        of_biased, of_golden = relevance(biased), relevance(golden)
    finally:
        lm.model.requires_grad_(False)
        lm.model.zero_grad(set_to_none=True)
    return {name: values - of_golden[name].clamp(min=0) for name, values in of_biased.items()}


def captum_gradient_times_activation(lm: LanguageModel, layer: nn.Module, prompt: EncodedPrompt, answer: int) -> None:
    """Captum's layer-wise gradient x activation: one layer, one answer."""
    from captum.attr import LayerGradientXActivation

    _captum(LayerGradientXActivation, lm, layer, prompt, answer)


def captum_integrated_gradients(lm: LanguageModel, layer: nn.Module, prompt: EncodedPrompt, answer: int) -> None:
    """Captum's layer-wise integrated gradients in 20 steps: one layer, one answer."""
    from captum.attr import LayerIntegratedGradients

    _captum(LayerIntegratedGradients, lm, layer, prompt, answer, n_steps=20)


def _captum(
    method: Any, lm: LanguageModel, layer: nn.Module, prompt: EncodedPrompt, answer: int, **arguments: Any
) -> None:
    option = prompt.option_ids[answer]
    row = torch.tensor([prompt.prompt_ids + option[:-1]], device=lm.device)

    def start(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        return output if output.requires_grad else output.requires_grad_(True)

    # Weights are frozen (the cheaper way), so the graph starts at the embeddings.
    hook = lm.model.get_input_embeddings().register_forward_hook(start)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method(lambda ids: option_score(lm.model, ids, option), layer).attribute(row, **arguments)
    finally:
        hook.remove()
