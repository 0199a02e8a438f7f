"""How long a run takes and how much memory it needs, said before it begins.

Passes are counted from sizes; what one takes is measured on a few of the run's own prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from crispr_lm.attribution.gate_gradients import Gates, gated_bytes_per_token
from crispr_lm.edits.whole_weights import weights_can_change
from crispr_lm.evaluation.suite import Subject
from crispr_lm.inference.batching import AUTO_TOKENS
from crispr_lm.inference.packing import packed_length
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.jobs.preparation import options_of
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.memory import weight_bytes
from crispr_lm.model.neuron_sites import searched_kinds
from crispr_lm.model.offload import is_offloaded
from crispr_lm.search.cost import search_passes
from crispr_lm.search.neuron_count import counts_up_to, golden_section_trials, validation_part
from crispr_lm.search.options import SKILLED
from crispr_lm.search.side_effects import AskedAside
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.parts import Parts

PROBED = 4
"""Prompts that are timed, as in a batch; once before, so that nothing is found out in the time measured."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        minutes: By step.
        passes: By step, forward passes of a prompt; a backward pass counts as measured.
        seconds_per_pass: Of a forward pass of one prompt.
        backward: Forward passes that a backward pass takes as long as.
        gigabytes: Of memory: the weights, twice where the saved model is compared with the one in memory, and what a
            batch keeps for its gradients.
        least: Minutes of all steps with one round of the search.
    """

    minutes: dict[str, float]
    passes: dict[str, float]
    seconds_per_pass: float
    backward: float
    gigabytes: float
    least: float

    @property
    def text(self) -> str:
        """One sentence."""
        total = sum(self.minutes.values())
        steps = ", ".join(f"{name} {minutes:.1f}" for name, minutes in self.minutes.items())
        passes = sum(self.passes.values())
        return (
            f"About {_minutes(total)} at the present pace ({passes:,.0f} passes of a prompt; minutes: "
            f"{steps}), {self.gigabytes:.1f} GB of memory"
        )

    def within(self, budget: float | None) -> str:
        """The sentence, and what a time budget in minutes changes."""
        if budget is None or sum(self.minutes.values()) <= budget:
            return self.text
        if self.least > budget:
            return (
                f"{self.text}; one round of the search makes about {_minutes(self.least)}, more than the time budget "
                f"of {budget:g}: give smaller samples to keep to it"
            )
        return f"{self.text}; the time budget of {_minutes(budget)} leaves out rounds of the search"

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "total_minutes": sum(self.minutes.values())}


def estimate(
    lm: LanguageModel, parts: Sequence[Parts], subjects: Sequence[Subject], settings: RunSettings, aside: AskedAside
) -> Estimate:
    """Count what a run does, and time a few prompts.

    Args:
        lm: The model, unedited.
        parts: Of every task.
        subjects: What is measured before and after.
        settings: Of the run.
        aside: Questions on side effects that the search asks.
    """
    forward, both, tokens = _seconds(lm, parts[0], settings)
    backward = max(both / forward - 1, 0.0)
    pairs = sum(len(part.attribution) * len(part.task.instructions) for part in parts)
    counted = {"attribution": pairs * (1 + 2 * backward)}  # one forward, two backward passes
    further_rounds = 0.0
    if settings.search == "tuned":
        counted["search"], with_one = (
            sum(of.total(backward) for of in search_passes(parts, options, aside).values())
            for options in (options_of(settings), replace(options_of(settings), rounds=min(1, settings.rounds)))
        )
        further_rounds = counted["search"] - with_one
    elif settings.search == "golden-section":
        prompts = sum(len(part.validation) * len(part.task.instructions) for part in parts)
        counted["search"] = float(prompts * golden_section_trials(settings.max_neurons))
    else:
        prompts = sum(len(part.validation) for part in parts)
        counted["search"] = float(prompts * len(counts_up_to(settings.max_neurons)))
    counted["measuring"] = 2.0 * sum(subject.steps for subject in subjects)
    # As many prompts as are in the largest batch of a gradient step.
    kept = gated_bytes_per_token(lm) * min(AUTO_TOKENS["cpu"], SKILLED * tokens)
    copies = 0 if is_offloaded(lm.model) else 2 if weights_can_change(lm.model) else 1
    return Estimate(
        {name: round(passes * forward / 60, 2) for name, passes in counted.items()},
        {name: round(passes) for name, passes in counted.items()},
        forward,
        round(backward, 2),
        (copies * weight_bytes(lm.model, lm.dtype) + kept) / 1e9,
        round((sum(counted.values()) - further_rounds) * forward / 60, 2),
    )


def _minutes(minutes: float) -> str:
    """Minutes in words: whole ones, but two digits of what is less (a budget may be)."""
    number = f"{minutes:.0f}" if minutes >= 1 else f"{minutes:.2g}"
    return "1 minute" if number == "1" else f"{number} minutes"


def _seconds(lm: LanguageModel, part: Parts, settings: RunSettings) -> tuple[float, float, int]:
    """Of a forward pass of one prompt, and of one that a backward pass follows; and the longest prompt's tokens."""
    asked = validation_part(lm, part.task.name, part.validation[:PROBED], part.task.instructions[:1], settings.seed)
    gates = Gates(lm, searched_kinds(settings.neurons))

    def gradient() -> None:
        gates.gradient(
            torch.ones(gates.count), asked.prompts, lambda _, scores: scores[0], batch_size=settings.batch_size
        )

    forward = _timed(lambda: prompt_scores(lm, asked.prompts, settings.batch_size))
    longest = max(map(packed_length, asked.prompts))
    return forward / len(asked.prompts), _timed(gradient) / len(asked.prompts), longest


def _timed(work: Callable[[], object]) -> float:
    work()
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-6)
