"""Does it work on my model? Walks a tiny random model of every text architecture of the installed transformers.

    python benchmarks/architectures.py                        # all; writes docs/architectures.md
    python benchmarks/architectures.py --only llama t5        # some; prints only

For each architecture and each kind of neuron five things are checked:

1. neurons are found;
2. their scores equal the brute-force definition: one unpadded sequence per answer, gradients of captured activations,
   maxima taken token by token, nothing of the library but the list of layers and the tokens;
3. hooks and baked weights give the same logits;
4. undo is exact to the bit;
5. the saved folder, loaded again with plain transformers, gives the same logits.

Knows tiny models (`tiny_models`) and the library's public functions; knows no benchmark data.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import traceback
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import crispr_lm
import tiny_models
from crispr_lm.errors import CrisprError
from crispr_lm.model.classes import TEXT_PARTS
from crispr_lm.model.load import LanguageModel
from crispr_lm.model.neurons import NEURON_KINDS, NeuronKind, NeuronSite, find_sites
from crispr_lm.packing import _decoder_input
from crispr_lm.tasks.task import Example

TOLERANCE = 1e-3
"""Largest difference, relative to the largest value of a module, that is float32 rounding."""

EXAMPLES = (
    Example("the old man met a nurse", "who was late", ("the man", "nurse who came", "unknown"), 2, "late"),
    Example("", "who cooks", ("she did it", "he"), 1, "cooks"),
)
INSTRUCTION = "answer the question now"
EDITED_NEURONS = 8

CONFIG_FIXES: dict[str, dict[str, Any]] = {
    # Real checkpoints of these say it in their config.json; configurations made from scratch don't.
    model_type: {"decoder_start_token_id": 0}
    for model_type in ("t5", "longt5", "switch_transformers", "mt5", "umt5", "encoder-decoder")
}


class WordTokenizer:
    """Words to numbers by their checksum: a tokenizer that needs no files."""

    chat_template = None
    eos_token_id = 1
    pad_token_id = 0

    def __call__(
        self,
        text: str | list[str] | None = None,
        text_target: str | list[str] | None = None,
        add_special_tokens: bool = True,
    ) -> SimpleNamespace:
        """Tokenize; targets end with the end token."""
        given = text if text is not None else text_target
        assert given is not None
        end = [self.eos_token_id] if text_target is not None else []
        ids = [self._ids(one) + end for one in ([given] if isinstance(given, str) else given)]
        return SimpleNamespace(input_ids=ids[0] if isinstance(given, str) else ids)

    def _ids(self, text: str) -> list[int]:
        return [3 + zlib.crc32(word.encode()) % (tiny_models.VOCABULARY - 10) for word in text.split()]


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


@dataclass
class Result:
    """What came out for one architecture."""

    class_name: str
    model_type: str
    layout: str = ""
    kinds: dict[str, KindResult] = field(default_factory=dict)
    silent: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def has_feed_forward(self) -> bool:
        """Whether there are feed-forward neurons to find."""
        return self.kinds["ffn"].neurons > 0 or "no 'ffn' neurons" not in self.kinds["ffn"].reason

    @property
    def passed(self) -> bool:
        """All five checks for both kinds; an architecture without feed-forward layers needs only the linear kind."""
        return self.kinds["linear"].passed and (self.kinds["ffn"].passed or not self.has_feed_forward)


def walked() -> list[tiny_models.Architecture]:
    """Every text architecture, and the vision-language ones that the library uses through their text part."""
    return [
        *tiny_models.architectures(),
        *(entry for entry in tiny_models.vision_language() if entry.model_type in TEXT_PARTS),
    ]


def check(architecture: tiny_models.Architecture) -> Result:
    """Run the five checks on one architecture."""
    result = Result(architecture.class_name, architecture.model_type)
    # Loaded once before anything is checked: some weights (sinusoidal positions) are computed, never saved.
    model = saved_and_loaded(tiny_models.build(architecture)).requires_grad_(False)
    for name, value in CONFIG_FIXES.get(architecture.model_type, {}).items():
        setattr(model.config, name, value)
    lm = LanguageModel(
        model, WordTokenizer(), architecture.class_name, is_encoder_decoder=architecture.is_encoder_decoder
    )
    handler = logging.Handler()
    handler.emit = lambda record: result.log.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("crispr_lm").addHandler(handler)
    logging.getLogger("crispr_lm").setLevel(logging.INFO)
    for kind in NEURON_KINDS:
        kind_result = result.kinds[kind] = KindResult()
        try:
            _check_kind(lm, kind, kind_result)
        except CrisprError as error:  # refused, with a reason: said, not silent
            kind_result.reason = str(error)
        except Exception as error:
            kind_result.reason = result.silent = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            traceback.print_exc()
    logging.getLogger("crispr_lm").removeHandler(handler)
    if lm.is_encoder_decoder:
        result.layout = "encoder-decoder"
    else:
        result.layout = "branches" if lm.takes_branches else "sequences"
    return result


def _check_kind(lm: LanguageModel, kind: NeuronKind, result: KindResult) -> None:
    sites = find_sites(lm.model, kind)
    result.neurons = sum(site.width for site in sites)
    scores = crispr_lm.score_neurons(lm, EXAMPLES, [INSTRUCTION], neurons=kind)
    expected = brute_force(lm, sites)
    result.scores = max(_relative(scores.values[site.name], expected[site.name]) for site in sites)

    edit = crispr_lm.Edit.from_neurons(lm, scores.top(min(EDITED_NEURONS, len(scores))))
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
        return type(model).from_pretrained(folder, dtype=torch.float32).eval()


def brute_force(lm: LanguageModel, sites: Sequence[NeuronSite]) -> dict[str, Tensor]:
    """B of every neuron from the formulas, λ = 1: one sequence per answer, token by token."""
    total = {site.name: torch.zeros(site.width) for site in sites}
    for example in EXAMPLES:
        prompt = crispr_lm.encode(lm, example, INSTRUCTION)
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
    target = torch.tensor(option)
    if lm.is_encoder_decoder:
        decoder = _decoder_input(lm.model, option)[None]
        given = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.int64)}
        rows = lm.model(**given, decoder_input_ids=decoder, use_cache=False).logits[0]
    else:
        sequence = torch.tensor([prompt + option[:-1]])
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
        product = (activation * gradient).detach()
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
    ids = (torch.arange(22).reshape(2, 11) * 7 + 3) % (tiny_models.VOCABULARY - 10) + 3
    more = {"decoder_input_ids": ids[:, :6]} if is_encoder_decoder else {}
    values: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more).logits
    return values


def _relative(values: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value."""
    return float((values - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def table(results: Sequence[Result]) -> str:
    """The page ``docs/architectures.md``: text architectures, then vision-language ones."""
    with_images = {(entry.model_type, entry.class_name) for entry in tiny_models.vision_language()}
    of_images = [result for result in results if (result.model_type, result.class_name) in with_images]
    results = [result for result in results if result not in of_images]
    passed = sum(result.passed for result in results)
    silent = sum(bool(result.silent) for result in results)
    layouts = Counter(result.layout for result in results)
    versions = f"transformers {transformers.__version__} and torch {torch.__version__}"
    text = f"""# Architectures

`python benchmarks/architectures.py` with {versions}: **{passed} of {len(results)}** text architectures
({passed / len(results):.1%}) pass all five checks; {silent} fail without a reason of ours.

Each is a tiny random model made from its configuration. Checked for both kinds of neuron: neurons are found; scores
equal the brute-force definition (one unpadded sequence per answer); hooks and baked weights give the same logits; undo
is exact to the bit; the saved folder gives the same logits when loaded with plain transformers. Figures are largest
differences relative to the largest value; more than {TOLERANCE:g} is a failure.

Options are scored as branches of one sequence in {layouts["branches"]} architectures, as sequences of their own in
{layouts["sequences"]} (whose attention can't take branches), by a decoder in {layouts["encoder-decoder"]}.

Not walked are classes that need an image or sound to say anything, or another model's states (`LEFT_OUT` in
`benchmarks/tiny_models.py` lists them with reasons).
"""
    vision_language = f"""
## Vision-language models

{sum(result.passed for result in of_images)} of {len(of_images)} that are used pass all five checks. Prompts are text
alone, neurons are those of the language model, and the vision tower is kept as it is. Other vision-language models are
refused by name.
"""
    return "\n".join([text, *_rows(results), vision_language, *_rows(of_images)]) + "\n"


def _rows(results: Sequence[Result]) -> list[str]:
    return [
        "| architecture | type | passes | options as | linear | ffn | scores | hook = baked | reloaded | remark |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(result) for result in sorted(results, key=lambda each: (each.class_name.lower(), each.model_type))),
    ]


def _row(result: Result) -> str:
    def largest(name: str) -> str:
        values = [value for kind in result.kinds.values() if (value := getattr(kind, name)) is not None]
        return f"{max(values):.0e}" if values else "-"

    reasons = dict.fromkeys(kind.reason for kind in result.kinds.values() if kind.reason)
    reasons |= dict.fromkeys(message for message in result.log if message.startswith("no neurons are looked for"))
    cells = [
        f"`{result.class_name}`",
        f"`{result.model_type}`",
        "yes" if result.passed else "**no**",
        result.layout,
        str(result.kinds["linear"].neurons or "-"),
        str(result.kinds["ffn"].neurons or "-"),
        largest("scores"),
        largest("baked"),
        largest("reloaded"),
        "; ".join(reasons).replace("|", "\\|"),
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk, print a line for each architecture, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", metavar="MODEL_TYPE", help="check these model types and write no page")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "architectures.md")
    given = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # tiny models are slower on several
    results = []
    for architecture in walked():
        if given.only and architecture.model_type not in given.only:
            continue
        result = check(architecture)
        results.append(result)
        reasons = "; ".join(dict.fromkeys(kind.reason for kind in result.kinds.values() if kind.reason))
        verdict = "passes" if result.passed else "FAILS"
        details = " ".join(
            f"{name}: {kind.neurons} neurons, scores {kind.scores}, baked {kind.baked}, undone {kind.undone}, "
            f"reloaded {kind.reloaded};"
            for name, kind in result.kinds.items()
        )
        print(verdict, result.class_name, result.layout, reasons, "" if result.passed else details, flush=True)
    print(f"{sum(result.passed for result in results)} of {len(results)} pass")
    if not given.only:
        given.output.write_text(table(results), encoding="utf-8")
        print(f"written: {given.output}")


if __name__ == "__main__":
    main()
