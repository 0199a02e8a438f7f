"""One function per line of the speed table: what is compared, on which prompts, and how far it must be ahead.

Every line is a ratio of two things timed in turn in one process. Knows the library, its peers and a stopwatch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import crispr_lm
import peers
from crispr_lm.inference.batching import batches
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import pack
from crispr_lm.inference.prompts import EncodedPrompt, encode_all
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NeuronSite, find_sites
from crispr_lm.tasks.base import Example
from stopwatch import Times, interleaved, peak_bytes

HARNESS_BATCH_SIZES = (1, 8, 32)
"""Sequences in a batch that lm-eval is tried with; it is then timed with the best."""

CAPTUM_LAYERS = 3
"""Layers that Captum is timed on; its cost is the same for each, so the figure for all is scaled up."""


@dataclass(frozen=True)
class Setting:
    """What all lines share.

    Attributes:
        lm: The model.
        examples: Questions.
        instruction: How they are asked.
        rounds: How often everything is timed.
        slow_rounds: How often where a contender is slow, or where there are many.
        clock: "wall" or "cpu".
        peer_examples: On how many of the examples slow peers are timed (scaled up to all).
    """

    lm: LanguageModel
    examples: Sequence[Example]
    instruction: str
    rounds: int
    slow_rounds: int
    clock: str
    peer_examples: int

    @property
    def prompts(self) -> list[EncodedPrompt]:
        """The examples as tokens."""
        return encode_all(self.lm, self.examples, self.instruction)

    def times(self, contenders: dict[str, Callable[[], object]], *, slow: bool = False) -> Times:
        """Time contenders in turn."""
        return interleaved(contenders, self.slow_rounds if slow else self.rounds, self.clock)


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        what: What is compared with what.
        target: The ratio to reach, with its direction: ">= 4".
        ratio: The ratio measured.
        figures: What it was computed from, in words.
    """

    what: str
    target: str
    ratio: float
    figures: str

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        direction, value = self.target.split()
        return self.ratio >= float(value) if direction == ">=" else self.ratio <= float(value)


def option_scores_against_harness(setting: Setting) -> list[Line]:
    """Option scores against lm-eval's Hugging Face backend, same tokens, same number format."""
    lm, prompts = setting.lm, setting.prompts
    trial = {str(size): partial(peers.harness(lm, size), prompts[:8]) for size in HARNESS_BATCH_SIZES}
    tried = interleaved(trial, 1, setting.clock)
    best = min(HARNESS_BATCH_SIZES, key=lambda size: tried.median(str(size)))
    harness = peers.harness(lm, best)
    times = setting.times({"ours": lambda: prompt_scores(lm, prompts), "theirs": lambda: harness(prompts)})
    ours = torch.cat([row[row > -torch.inf] for row in prompt_scores(lm, prompts)])
    difference = float((ours - torch.tensor(harness(prompts))).abs().max())
    dtype = str(lm.dtype).removeprefix("torch.")
    return [
        Line(
            f"option scores, {dtype}, against lm-eval",
            ">= 4",
            times.ratio("theirs", "ours"),
            f"{_each(times, 'ours', len(prompts))} against {_each(times, 'theirs', len(prompts))} per prompt; lm-eval "
            f"with batch size {best}, the best of {', '.join(map(str, HARNESS_BATCH_SIZES))}; scores differ by at most "
            f"{difference:.1g} nats",
        )
    ]


def attribution_against_limit(setting: Setting) -> list[Line]:
    """Attribution of all neurons against one forward and two backward passes of the same batches, and nothing else."""
    lm, prompts = setting.lm, setting.prompts
    packs = [pack(lm, [prompts[index] for index in batch]) for batch in batches(lm, prompts, "auto", lambda _: None)]

    def limit() -> None:
        for packed in packs:
            peers.forward_and_two_backward(lm, packed)

    times = setting.times({"ours": partial(_attribute, setting, len(prompts)), "limit": limit})
    return [
        Line(
            "attribution of all neurons over one forward and two backward passes",
            "<= 1.15",
            times.ratio("ours", "limit"),
            f"{_each(times, 'ours', len(prompts))} against {_each(times, 'limit', len(prompts))} per prompt; ours with "
            "rendering and tokenizing, the limit without",
        )
    ]


def attribution_against_hooked_autograd(setting: Setting) -> list[Line]:
    """Attribution against one sequence per answer with a hook on every layer, weights' gradients on and off."""
    lm, count = setting.lm, setting.peer_examples
    prompts, sites = setting.prompts[:count], find_sites(lm.model, "linear")
    golden = [example.answer for example in setting.examples]

    def hooked(train_weights: bool) -> None:
        for prompt, answer in zip(prompts, golden, strict=False):
            peers.hooked_autograd(lm, sites, prompt, answer, train_weights)

    total = len(setting.examples)
    contenders: dict[str, Callable[[], object]] = {"ours": partial(_attribute, setting, total)}
    contenders |= {"trained": partial(hooked, True), "frozen": partial(hooked, False)}
    times = setting.times(contenders, slow=True)
    scale = total / count
    scores = crispr_lm.score_neurons(lm, setting.examples[:1], [setting.instruction])
    expected = peers.hooked_autograd(lm, sites, prompts[0], golden[0], train_weights=False)
    difference = max(
        float((scores.values[name] - values.cpu()).abs().max() / values.abs().max())
        for name, values in expected.items()
    )
    return [
        Line(
            f"attribution against one sequence per answer with a hook on every layer, {remark}",
            ">= 4",
            times.ratio(way, "ours") * scale,
            f"{_each(times, 'ours', total)} against {_each(times, way, count)} per prompt (theirs on {count} of the "
            f"{total}); scores differ by at most {difference:.1g} of a module's largest",
        )
        for way, remark in (("trained", "weights as loaded (they take gradients)"), ("frozen", "weights frozen"))
    ]


def attribution_against_captum(setting: Setting) -> list[Line]:
    """Attribution against Captum's layer-wise methods, timed on a few layers and one answer, scaled up to all."""
    lm, prompt = setting.lm, setting.prompts[0]
    sites = find_sites(lm.model, "linear")
    total = len(setting.examples)
    chosen = [site.module for site in sites[:: -(-len(sites) // CAPTUM_LAYERS)]]
    passes = 2 * len(sites)  # both answers, every layer

    def each_layer(attribute: Callable[..., None], layers: Sequence[nn.Module]) -> None:
        for layer in layers:
            attribute(lm, layer, prompt, 0)

    times = setting.times(
        {
            "ours": partial(_attribute, setting, total),
            "gradient": partial(each_layer, peers.captum_gradient_times_activation, chosen),
            "integrated": partial(each_layer, peers.captum_integrated_gradients, chosen[:1]),
        },
        slow=True,
    )
    return [
        Line(
            f"attribution against Captum's {name}, layer by layer",
            target,
            times.ratio(way, "ours") * total * passes / layers,
            f"{_each(times, 'ours', total)} per prompt for all neurons, against {_each(times, way, layers)} per layer "
            f"and answer, times {len(sites)} layers and 2 answers (timed on {layers} layers, scaled up)",
        )
        for way, name, target, layers in (
            ("gradient", "gradient x activation", ">= 15", len(chosen)),
            ("integrated", "20-step integrated gradients", ">= 200", 1),
        )
    ]


def memory_of_attribution(setting: Setting) -> list[Line]:
    """Peak memory of attribution over the model and the activations that one forward pass keeps for its gradients."""
    lm = setting.lm
    prompts = setting.prompts[: setting.peer_examples]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in lm.model.parameters())
    packed = pack(lm, prompts)
    _, saved = peak_bytes(lambda: _with_graph(lm, packed))
    peaks = []
    for repeats in (1, 2, 4):
        few = list(setting.examples[: len(prompts)]) * repeats
        work = partial(crispr_lm.score_neurons, lm, few, [setting.instruction], batch_size=len(prompts))
        peaks.append(weights + peak_bytes(work)[0])
    counts = ", ".join(str(len(prompts) * repeats) for repeats in (1, 2, 4))
    sizes = ", ".join(f"{peak / 2**20:.0f}" for peak in peaks)
    return [
        Line(
            "peak memory of attribution over model and one forward's saved activations",
            "<= 1.25",
            peaks[0] / (weights + saved),
            f"{peaks[0] / 2**20:.0f} MiB against {weights / 2**20:.0f} + {saved / 2**20:.0f} MiB, {len(prompts)} "
            "prompts in a batch",
        ),
        Line(
            "the same for four times as many examples, over the first",
            "<= 1.02",
            peaks[-1] / peaks[0],
            f"{sizes} MiB for {counts} examples",
        ),
    ]


def candidate_against_plain(setting: Setting) -> list[Line]:
    """Evaluation of a candidate edit, made and checked anew as a search does, against plain evaluation."""
    lm, prompts = setting.lm, setting.prompts
    scores = crispr_lm.score_neurons(lm, setting.examples[:4], [setting.instruction])

    def candidate() -> None:
        with crispr_lm.Edit.from_neurons(lm, scores.top(100)).applied(lm):
            prompt_scores(lm, prompts)

    times = setting.times({"edited": candidate, "plain": lambda: prompt_scores(lm, prompts)})
    modules = len({neuron.module for neuron in scores.top(100)})
    return [
        Line(
            "a candidate edit's evaluation over plain evaluation",
            "<= 1.03",
            times.ratio("edited", "plain"),
            f"{times.median('edited'):.2f} s against {times.median('plain'):.2f} s for {len(prompts)} prompts; 100 "
            f"neurons in {modules} modules",
        )
    ]


CASES: dict[str, Callable[[Setting], list[Line]]] = {
    "scores": option_scores_against_harness,
    "limit": attribution_against_limit,
    "hooks": attribution_against_hooked_autograd,
    "captum": attribution_against_captum,
    "memory": memory_of_attribution,
    "candidate": candidate_against_plain,
}


def growth(setting: Setting) -> dict[str, list[tuple[float, float]]]:
    """Cost of attribution against examples, tokens and layers: name to pairs of (amount, seconds)."""
    lm = setting.lm
    prompt = setting.prompts[0]
    answer, sites = setting.examples[0].answer, find_sites(lm.model, "linear")

    def attribute(prompts: Sequence[EncodedPrompt], kept: Sequence[NeuronSite]) -> object:
        return crispr_lm.attribution.bias_influence.influence_of(lm, prompts, [answer] * len(prompts), kept)

    works: dict[str, dict[float, Callable[[], object]]] = {"examples": {}, "tokens": {}, "layers": {}}
    for count in (1, 2, 3, 4):
        works["examples"][count] = partial(attribute, [prompt] * count, sites)
    for times_longer in (1, 2, 3, 4):
        longer = EncodedPrompt(prompt.prompt_ids * times_longer, prompt.option_ids)
        works["tokens"][len(longer.prompt_ids)] = partial(attribute, [longer], sites)
    layers: Any = lm.model.model.layers
    for share in (1, 2, 3, 4):
        kept = len(layers) * share // 4
        works["layers"][kept] = partial(_with_layers, lm, layers, kept, partial(attribute, [prompt] * 2))
    found = {}
    for name, of_amount in works.items():
        timed = setting.times({str(amount): work for amount, work in of_amount.items()}, slow=True)
        found[name] = [(amount, timed.median(str(amount))) for amount in of_amount]
    return found


def _with_layers(lm: LanguageModel, layers: Any, kept: int, work: Callable[[list[NeuronSite]], object]) -> None:
    """Work on a model cut off after its first layers."""
    try:
        lm.model.model.layers = layers[:kept]
        work(find_sites(lm.model, "linear"))
    finally:
        lm.model.model.layers = layers


def _attribute(setting: Setting, count: int) -> object:
    return crispr_lm.score_neurons(setting.lm, setting.examples[:count], [setting.instruction])


def _with_graph(lm: LanguageModel, packed: Any) -> Tensor:
    """Scores of a batch with all that their gradients need."""

    def start(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_(True)

    hook = lm.model.get_input_embeddings().register_forward_hook(start)
    try:
        with torch.enable_grad():
            return packed_scores(lm, packed)
    finally:
        hook.remove()


def _each(times: Times, contender: str, count: int) -> str:
    seconds = times.median(contender) / count
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
