"""Five checks on a loaded model, of everything that an edit rests on.

1. neurons are found;
2. their scores equal the brute-force definition: one unpadded sequence per answer, gradients of captured activations,
   maxima taken token by token, nothing of the library but the list of layers and the tokens;
3. hooks and baked weights give the same logits;
4. undo is exact to the bit;
5. the saved folder, loaded again with plain transformers, gives the same logits.

The model is saved once to the temporary folder and loaded beside the one in memory: room for a second copy is needed.
Knows the library's public functions and a model; knows no benchmark data.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crispr_lm.attribution.bias_influence import BiasInfluence, score_neurons
from crispr_lm.edits.edit import Edit
from crispr_lm.errors import CrisprError
from crispr_lm.inference.packing import _decoder_input
from crispr_lm.inference.prompts import encode
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NEURON_KINDS, NeuronKind, NeuronSite, find_sites
from crispr_lm.tasks.base import Example

TOLERANCE = 1e-3
"""Largest difference, relative to the largest value of a module, that is float32 rounding."""

EXAMPLES = (
    Example("the old man met a nurse", "who was late", ("the man", "nurse who came", "unknown"), 2, "late"),
    Example("", "who cooks", ("she did it", "he"), 1, "cooks"),
)
INSTRUCTION = "answer the question now"
EDITED_NEURONS = 8


@dataclass
class KindResult:
    """What came out for one kind of neuron; None where a check was not reached."""

    neurons: int = 0
    scores: float | None = None
    baked: float | None = None
    undone: bool | None = None
    reloaded: float | None = None
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether all five checks hold."""
        differences = (self.scores, self.baked, self.reloaded)
        return (
            self.neurons > 0
            and self.undone is True
            and all(difference is not None and difference <= TOLERANCE for difference in differences)
        )


def self_check(lm: LanguageModel) -> dict[str, KindResult]:
    """Run the five checks on a model for every kind of neuron that it has.

    Args:
        lm: With float32 weights, so that rounding is not mistaken for a fault.

    Returns:
        By kind what came out; ``reason`` says why a check was not reached.
    """
    results: dict[str, KindResult] = {}
    for kind in NEURON_KINDS:
        results[kind] = KindResult()
        try:
            check_kind(lm, kind, results[kind])
        except CrisprError as error:
            results[kind].reason = str(error)
        except Exception as error:  # whatever an architecture does that nobody expected is what the check looks for
            results[kind].reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return results


def check_kind(lm: LanguageModel, kind: NeuronKind, result: KindResult) -> None:
    """Run the five checks for one kind of neuron; `result` holds what is known so far where one of them raises.

    Raises:
        CrisprError: the architecture is refused, with the reason.
    """
    sites = find_sites(lm.model, kind)
    result.neurons = sum(site.width for site in sites)
    scores = score_neurons(lm, EXAMPLES, [INSTRUCTION], BiasInfluence(kind))
    expected = brute_force(lm, sites)
    result.scores = max(_relative(scores.values[site.name], expected[site.name]) for site in sites)

    edit = Edit.from_neurons(lm, scores.top(min(EDITED_NEURONS, len(scores))))
    before = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    with edit.applied(lm):
        hooked = logits(lm.model, lm.is_encoder_decoder)
    edit.bake(lm)
    baked = logits(lm.model, lm.is_encoder_decoder)
    result.baked = _relative(hooked, baked)
    result.reloaded = _relative(logits(saved_and_loaded(lm.model), lm.is_encoder_decoder), baked)
    edit.undo(lm)
    result.undone = all(torch.equal(tensor, before[name]) for name, tensor in lm.model.state_dict().items())


def saved_and_loaded(model: Any) -> Any:
    """The model as plain transformers loads it from the folder it was saved to."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, dtype=torch.float32).to(model.device).eval()


def brute_force(lm: LanguageModel, sites: Sequence[NeuronSite]) -> dict[str, Tensor]:
    """B of every neuron from the formulas, λ = 1: one sequence per answer, token by token."""
    total = {site.name: torch.zeros(site.width) for site in sites}
    for example in EXAMPLES:
        prompt = encode(lm, example, INSTRUCTION)
        with torch.no_grad():
            scores = [float(_score(lm, prompt.prompt_ids, option)) for option in prompt.option_ids]
        wrong = [number for number in range(len(scores)) if number != example.answer]
        biased = max(wrong, key=lambda number: scores[number])
        confusion = float(torch.tensor(scores[biased]).exp())
        of_biased = _relevance(lm, sites, prompt.prompt_ids, prompt.option_ids[biased])
        of_golden = _relevance(lm, sites, prompt.prompt_ids, prompt.option_ids[example.answer])
        for name, values in total.items():
            values += confusion * (of_biased[name] - of_golden[name].clamp(min=0)) / len(EXAMPLES)
    return total


def _score(lm: LanguageModel, prompt: list[int], option: list[int]) -> Tensor:
    """Summed log-probability of an option, from one unpadded sequence."""
    target = torch.tensor(option, device=lm.device)
    if lm.is_encoder_decoder:
        decoder = _decoder_input(lm.model, option)[None].to(lm.device)
        ids = torch.tensor([prompt], device=lm.device)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        rows = lm.model(**given, decoder_input_ids=decoder, use_cache=False).logits[0]
    else:
        sequence = torch.tensor([prompt + option[:-1]], device=lm.device)
        rows = lm.model(input_ids=sequence, use_cache=False).logits[0, len(prompt) - 1 :]
    score: Tensor = rows.log_softmax(dim=-1).gather(1, target[:, None]).sum()
    return score


def _relevance(
    lm: LanguageModel, sites: Sequence[NeuronSite], prompt: list[int], option: list[int]
) -> dict[str, Tensor]:
    """Max over tokens of h · ∂s/∂h, without P(ŷ); 0 for a neuron that never runs or does not matter to the score."""
    captured: list[tuple[str, int, Tensor, Tensor | None]] = []  # site, first neuron, tensor of the graph, bias to add
    with _from_embeddings(lm.model), _layers(sites, captured), _eager_experts(sites, captured):
        score = _score(lm, prompt, option)
    # What runs without a graph (an indexer that only picks tokens, say) has no gradient by the model's own design.
    captured = [entry for entry in captured if entry[2].requires_grad]
    tensors = [tensor for _, _, tensor, _ in captured]
    gradients = torch.autograd.grad(score, tensors, allow_unused=True)
    relevance = {site.name: torch.full((site.width,), -torch.inf) for site in sites}
    lengths = (len(prompt), len(option)) if lm.is_encoder_decoder else (len(prompt) + len(option) - 1,)
    for (name, first, tensor, bias), gradient in zip(captured, gradients, strict=True):
        if gradient is None:
            continue
        activation = tensor.detach() + (bias if bias is not None else 0)
        product = (activation * gradient).detach().cpu()
        if product.dim() == 3 and 1 in product.shape[:2]:
            product = product.flatten(0, 1)[: max(lengths)]  # without what the model itself pads with
        for token in product.flatten(0, -2):
            part = relevance[name][first : first + len(token)]
            torch.maximum(part, token, out=part)
    return {name: values.masked_fill(values == -torch.inf, 0) for name, values in relevance.items()}


@contextmanager
def _from_embeddings(model: Any) -> Iterator[None]:
    """Let the graph start at every embedding: parameters are frozen."""

    def start(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        return output.detach().requires_grad_(True).clone()  # a copy, which the model may write into

    hooks = [module.register_forward_hook(start) for module in model.modules() if isinstance(module, nn.Embedding)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _layers(sites: Sequence[NeuronSite], captured: list[Any]) -> Iterator[None]:
    """Capture outputs (linear) or inputs (ffn) of layers; the model goes on with a copy, which it may write into."""

    def after(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
            captured.append((name, 0, output, None))
            return output.clone()

        return hook

    def before(name: str) -> Callable[..., tuple[Any, ...]]:
        def hook(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            captured.append((name, 0, arguments[0], None))
            return (arguments[0].clone(), *arguments[1:])

        return hook

    hooks = []
    for site in sites:
        for module in site.modules:
            if site.part == "output":
                hooks.append(module.register_forward_hook(after(site.name)))
            elif site.part == "input":
                hooks.append(module.register_forward_pre_hook(before(site.name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _ExpertProducts(TorchFunctionMode):
    """Sees every product with a slice of a fused expert weight, which is how the eager functions use them."""

    PRODUCTS = frozenset({nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__})

    def __init__(self, sites: Sequence[NeuronSite], captured: list[Any]) -> None:
        super().__init__()
        self.captured = captured
        self.sites: dict[int, list[NeuronSite]] = defaultdict(list)
        for site in sites:
            self.sites[site.weights[0].parameter.untyped_storage().data_ptr()].append(site)

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        output = function(*arguments, **(keywords or {}))
        if function in self.PRODUCTS and len(arguments) > 1 and isinstance(arguments[1], Tensor):
            weight = arguments[1]
            for site in self.sites.get(weight.untyped_storage().data_ptr(), []):
                parameter, axes = site.weights[0].parameter, site.weights[0].axes
                expert = weight.storage_offset() // parameter.stride(0)
                units = parameter.shape[axes[1]]
                bias = site.weights[1].parameter[expert] if len(site.weights) > 1 else None
                tensor = arguments[0] if site.part == "inner" else output
                self.captured.append((site.name, expert * units, tensor, bias))
        return output


@contextmanager
def _eager_experts(sites: Sequence[NeuronSite], captured: list[Any]) -> Iterator[None]:
    """Capture fused experts while transformers' own eager functions run."""
    fused = [site for site in sites if site.part in ("up", "inner", "down")]
    configs: list[Any] = list({id(site.module.config): site.module.config for site in fused}.values())
    implementations = [config._experts_implementation for config in configs]
    try:
        for config in configs:
            config._experts_implementation = "eager"
        with _ExpertProducts(fused, captured):
            yield
    finally:
        for config, implementation in zip(configs, implementations, strict=True):
            config._experts_implementation = implementation


@torch.inference_mode()
def logits(model: Any, is_encoder_decoder: bool) -> Tensor:
    """Logits on an arbitrary pair of sequences."""
    words = model.get_input_embeddings().weight
    ids = (torch.arange(22, device=words.device).reshape(2, 11) * 7 + 3) % (len(words) - 10) + 3
    more = {"decoder_input_ids": ids[:, :6]} if is_encoder_decoder else {}
    values: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more).logits
    return values


def _relative(values: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((values - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
