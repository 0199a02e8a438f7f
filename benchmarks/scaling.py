"""What models of 1, 8 and 70 billion parameters need and cost, computed from constants measured on a small one.

    python benchmarks/scaling.py builtin:smollm2 --device cpu

Measured, on the model and machine given: arithmetic per second of scoring and of attribution, tokens of a prompt, and
how many numbers a pass with gradients keeps per token. Computed from them: memory and time for larger models, whose
shapes are the public ones of Llama 3.x (`SHAPES`). Writes docs/results/scaling.md, which says which is which.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

import crispr_lm
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import pack
from crispr_lm.inference.packing import Packed
from crispr_lm.inference.prompts import EncodedPrompt, encode_all
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NEURON_KINDS, find_sites
from crispr_lm.search.evidence import KEPT_CHOICES
from crispr_lm.search.reevaluation import REEVALUATED
from crispr_lm.settings import RunSettings
from crispr_lm.tasks import load_task, neutral_prompts, ordinary_questions, sample
from stopwatch import CLOCKS, interleaved, peak_bytes

RESULTS = Path(__file__).parents[1] / "docs" / "results"

ASSUMED_RATE = 0.4 * 989e12
"""Operations per second of an accelerator, assumed: 40 % of the dense bfloat16 peak in NVIDIA's H100 data sheet."""

ASSUMED_ACCELERATOR = "80 GB accelerator at 40 % of 989 TFLOP/s"

OPTIONS = 3
"""Of a question; effects take a backward pass for each wrong one."""


@dataclass(frozen=True)
class Shape:
    """What of a decoder-only model its cost depends on.

    Attributes:
        name: Of the model.
        layers: Number.
        hidden: Width of the residual stream.
        feed_forward: Intermediate units per layer.
        key_value: Width of all keys (or values) of a token.
        vocabulary: Tokens.
        tied: Whether embeddings and LM head are one matrix.
    """

    name: str
    layers: int
    hidden: int
    feed_forward: int
    key_value: int
    vocabulary: int = 128_256
    tied: bool = False

    @property
    def body(self) -> int:
        """Parameters of the layers: query and output, key and value, gate, up and down."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_value
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    @property
    def parameters(self) -> int:
        """All parameters but the few of norms."""
        return self.body + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def outputs(self) -> int:
        """Numbers that all linear layers put out per token: the `linear` neurons."""
        return self.layers * (3 * self.hidden + 2 * self.key_value + 2 * self.feed_forward)


SHAPES = (
    Shape("1B (Llama 3.2)", 16, 2048, 8192, 512, tied=True),
    Shape("8B (Llama 3.1)", 32, 4096, 14336, 1024),
    Shape("70B (Llama 3.1)", 80, 8192, 28672, 1024),
)


@dataclass(frozen=True)
class Measured:
    """Constants of one model on one machine.

    Attributes:
        tokens: Of a prompt with its options, packed.
        scored: Tokens of it that scoring computes, the shared beginning being read once.
        scoring_rate: Operations per second, 2 per parameter of the layers and token.
        attribution_rate: The same of a forward and two activation-only backward passes, 6 per parameter and token.
        kept: Numbers that a pass with gradients keeps per token, per number that linear layers put out.
    """

    tokens: float
    scored: float
    scoring_rate: float
    attribution_rate: float
    kept: float


def measure(lm: LanguageModel, task: str, examples: int, rounds: int, clock: str) -> Measured:
    """Measure the constants."""
    loaded = load_task(task)
    chosen = sample(loaded.examples, examples, 0)
    instruction = loaded.instructions[0]
    prompts = encode_all(lm, chosen, instruction)
    tokens = fmean(_length(prompt) for prompt in prompts)
    begun = _beginning(prompts)
    scored = tokens - begun * (1 - 1 / len(prompts))
    head = lm.model.get_output_embeddings().weight.numel()
    body = sum(parameter.numel() for parameter in lm.model.parameters()) - head
    work: dict[str, Callable[[], object]] = {
        "scoring": partial(prompt_scores, lm, prompts),
        "attribution": partial(crispr_lm.score_neurons, lm, chosen, [instruction]),
    }
    times = interleaved(work, rounds, clock)
    packed = pack(lm, prompts[:4])
    _, kept_bytes = peak_bytes(lambda: _with_graph(lm, packed))
    positions = packed.inputs["input_ids"].numel()
    outputs = sum(site.width for site in find_sites(lm.model, "linear"))
    return Measured(
        tokens=tokens,
        scored=scored,
        scoring_rate=2 * body * scored * len(prompts) / times.median("scoring"),
        attribution_rate=6 * body * tokens * len(prompts) / times.median("attribution"),
        kept=kept_bytes / lm.dtype.itemsize / positions / outputs,
    )


def _with_graph(lm: LanguageModel, packed: Packed) -> torch.Tensor:
    """Scores of a batch with all that their gradients need."""
    hook = lm.model.get_input_embeddings().register_forward_hook(
        lambda _module, _arguments, output: output.detach().requires_grad_(True)
    )
    try:
        with torch.enable_grad():
            return packed_scores(lm, packed)
    finally:
        hook.remove()


def _length(prompt: EncodedPrompt) -> int:
    return len(prompt.prompt_ids) + sum(len(ids) - 1 for ids in prompt.option_ids)


def _beginning(prompts: Sequence[EncodedPrompt]) -> int:
    """Tokens that all prompts begin with."""
    return next(
        (place for place, ids in enumerate(zip(*(p.prompt_ids for p in prompts), strict=False)) if len(set(ids)) > 1), 0
    )


def passes_of_a_run(settings: RunSettings, instructions: int) -> dict[str, tuple[float, str]]:
    """Forward passes of one prompt that each step of `crispr-lm run` takes, and what was counted.

    A backward pass to activations alone costs as much arithmetic as a forward pass.
    """
    assert isinstance(settings.test_examples, int)
    assert isinstance(settings.measure_examples, int)
    passes = settings.rounds * len(NEURON_KINDS)
    trials = passes + settings.trials + settings.refinements + 2  # the original and the random control
    heard = 2 * REEVALUATED + 2
    of_options = [len(question.options) for question in ordinary_questions()]
    aside = len(neutral_prompts()) - settings.neutral_prompts
    protected = 2 * (aside + len(of_options)) + KEPT_CHOICES * max(of_options)
    measured = settings.effect_examples * OPTIONS + protected
    return {
        "attribution": (3.0 * settings.examples * instructions, "a forward and two backward passes per prompt"),
        "effects": (
            float(measured * (1 + passes - len(NEURON_KINDS) + settings.refinements)),
            "a forward pass per prompt and a backward pass per wrong option, also of ordinary questions; a forward and "
            "a backward pass per neutral prompt and question; once, behind every pass and in every attempt at "
            "refinement",
        ),
        "search": (
            float(trials * (settings.validation_examples + settings.neutral_prompts)),
            "a forward pass per prompt and trial, and per neutral prompt",
        ),
        "re-evaluation": (
            float(heard * (settings.reevaluation_examples - settings.validation_examples)),
            f"a forward pass per further prompt, for {2 * REEVALUATED} finalists (mostly {REEVALUATED} are heard), the "
            "original and random neurons",
        ),
        "report": (
            2.0 * (settings.test_examples + settings.measure_examples) * instructions,
            "a forward pass per prompt, before and after",
        ),
    }


def page(measured: Measured, given: argparse.Namespace, where: str, command: str) -> str:
    """The page ``docs/results/scaling.md``."""
    settings = RunSettings(task=("bbq:PATH",), output=Path("DIR"))
    steps = passes_of_a_run(settings, 10)
    lines = [
        "# Scaling: measured constants, computed costs",
        "",
        f"`{command}`",
        "",
        "## Measured",
        "",
        f"{given.model} in {given.dtype}, {given.examples} questions of {given.task}, {where}.",
        "",
        "| constant | value |",
        "| --- | --- |",
        f"| tokens of a prompt with its options | {measured.tokens:.0f} |",
        f"| of them computed when scoring (the shared beginning is read once) | {measured.scored:.0f} |",
        f"| arithmetic of scoring | {measured.scoring_rate / 1e9:.0f} GFLOP/s |",
        f"| arithmetic of attribution | {measured.attribution_rate / 1e9:.0f} GFLOP/s |",
        f"| numbers kept for gradients, per output of a linear layer and token | {measured.kept:.2f} |",
        "",
        "## Computed",
        "",
        "Memory in GiB: weights; and what attribution keeps beside them for one prompt (no more for a thousand, "
        "see [speed.md](speed.md)). Evaluation keeps next to nothing.",
        "",
        "| model | parameters | weights, bfloat16 | weights, float32 | one prompt's activations, bfloat16 | float32 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for shape in SHAPES:
        numbers = measured.kept * shape.outputs * measured.tokens
        cells = [f"{shape.parameters / 1e9:.2f} B"]
        cells += [f"{amount * size / 2**30:.1f}" for amount in (shape.parameters, numbers) for size in (2, 4)]
        lines.append(f"| {shape.name} | {' | '.join(cells)} |")
    lines += [
        "",
        "A run with all options at their defaults on one task, in forward passes of one prompt:",
        "",
        "| step | passes | counted |",
        "| --- | --- | --- |",
        *(f"| {name} | {count:,.0f} | {why} |" for name, (count, why) in steps.items()),
        "",
        f"Time for them: on the machine above at its measured rates, and on one {ASSUMED_ACCELERATOR} (**assumed, not "
        "measured**). More processes (torchrun) divide it. What is counted is rather too much: trials that are given "
        "up early are counted whole, refinement measures nothing anew where it leaves single neurons out, and neutral "
        "prompts are shorter than a task's. Not counted are passes that are taken back, and other variants of the "
        "published ranking (as much as attribution each, five at the most) where the search asks for them.",
        "",
        f"| model | {' | '.join(steps)} | all, machine above | all, {ASSUMED_ACCELERATOR} |",
        "| --- " * (len(steps) + 3) + "|",
    ]
    for shape in SHAPES:
        of_step = {}
        for name, (count, _) in steps.items():
            gradients = name in ("attribution", "effects")
            tokens = measured.tokens if gradients else measured.scored
            of_step[name] = (
                2 * shape.body * tokens * count,
                measured.attribution_rate if gradients else measured.scoring_rate,
            )
        here = sum(operations / rate for operations, rate in of_step.values())
        there = sum(operations for operations, _ in of_step.values()) / ASSUMED_RATE
        cells = [_duration(operations / rate) for operations, rate in of_step.values()]
        lines.append(f"| {shape.name} | {' | '.join(cells)} | {_duration(here)} | {_duration(there)} |")
    return "\n".join([*lines, ""])


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}" if seconds >= 10 * length else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, compute, write."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="builtin:smollm2")
    parser.add_argument("--task", default="builtin:everyday")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.md")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    lm = crispr_lm.load_model(given.model, dtype=given.dtype, device=given.device)
    measured = measure(lm, given.task, given.examples, given.rounds, given.clock)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    where = f"{device}, {given.threads} thread{'s' if given.threads > 1 else ''}, torch {torch.__version__}"
    text = page(measured, given, where, shlex.join(["python", "benchmarks/scaling.py", *arguments]))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
