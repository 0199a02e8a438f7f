"""The loop: gates are closed along the gradient of a Lagrangian, on a few fresh prompts at a time.

Eliminate at most n neurons so that biased answers become rare, at a price for what is lost elsewhere:

    minimise  L_biased(c) + λ · L_skill(c) + ρ · KL(c)   with at most n neurons closed

over closings c_i = 1 − g_i in [0, 1] (`attribution.gate_gradients`). Every step takes

    r = ∂/∂g [ L_biased + λ · L_skill + ρ · KL ]  −  ρ · F / 2

on fresh prompts, F the diagonal of the Fisher information. Steps are averaged with momentum, shrunk towards 0 by their
standard error, and added up to z; the n largest of z that are above 0 are closed, by z or whole where it is above 1. z
itself is not held at 1: the order of neurons that are closed whole would be lost. The losses of one prompt are

    L_biased = softplus(max over wrong o of s(o) − s(y))                       where the context does not tell
    L_skill  = softplus(s(unknown) − max over other o of s(o))
               + STAY · KL(original ‖ edited) over the options but "unknown"   where it does

λ and ρ follow from the limits and stay as they are: multipliers that follow what the last steps have lost make the
readiness to abstain swing, and tell the conditions apart worse (docs/results/search.md).

Knows prompts, a model and limits; knows no settings and no folder.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from crispr_lm.attribution.gate_gradients import Gates, continuation_logits
from crispr_lm.errors import InputError
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution
from crispr_lm.inference.batching import ProgressCallback
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.runtime.progress import Progress
from crispr_lm.search.losses import biased_loss, kl_loss, skill_loss
from crispr_lm.search.neuron_count import validation_part
from crispr_lm.search.options import BIASED, ORDINARY, SKILLED, STEPS, SearchOptions
from crispr_lm.search.trial import Limits
from crispr_lm.storage.files import write_bytes
from crispr_lm.tasks.base import DISAMBIGUATED, Example
from crispr_lm.tasks.parts import Parts

Item = TypeVar("Item")
Number = TypeVar("Number", float, Tensor)

MOMENTUM = 0.9
"""Weight of the steps before in the running mean of gradients."""

CAUTION = 0.7
"""Standard errors by which a mean gradient is shrunk towards 0: of 10^5 noisy numbers the largest are noise."""

STEP_SIZE = 0.1
"""By how much the n largest mean gradients close their gates in one step, in the mean."""

FAIR_SHARES = 3.0
"""A neuron that alone brings more than so many n-th parts of the divergence allowed stays."""

STRICTER = 7.0
"""How many times λ the neurons of an edit are ordered with: those come last that make it abstain too readily."""

CLEAR = 0.6
"""How far the gates of an edit are closed, in the mean, before it is tried."""

_VECTORS = ("closing", "mean", "square", "skill")


@dataclass(frozen=True, eq=False)
class LoopState:
    """Where a loop stands: what an interrupted search goes on from.

    Attributes:
        step: Gradient steps done.
        closing: z, float32 (N,).
        mean: Running mean of r, float32 (N,).
        square: Running mean of r², float32 (N,).
        skill: Running mean of the gradient of L_skill alone, float32 (N,).
    """

    step: int
    closing: Tensor
    mean: Tensor
    square: Tensor
    skill: Tensor

    @staticmethod
    def new(neurons: int) -> LoopState:
        """Of the unedited model."""
        return LoopState(0, *torch.zeros(len(_VECTORS), neurons))

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        tensors = {name: getattr(self, name) for name in _VECTORS}
        tensors["step"] = torch.tensor(self.step)
        write_bytes(path, safetensors_bytes(tensors))

    @staticmethod
    def load(path: Path) -> LoopState:
        """Read what `save` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            tensors = load_file(path)
            vectors = torch.stack([tensors[name] for name in _VECTORS]).float()
            if not bool(vectors.isfinite().all()):
                raise ValueError("it holds numbers that are not finite")
            return LoopState(int(tensors["step"]), *vectors)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{path.name} can't be read ({error}); give --overwrite to start anew") from error


@dataclass(frozen=True, eq=False)
class Ordinary:
    """Answers that are to stay as they are.

    Attributes:
        reference: The unedited model on texts that the divergence is not measured on.
        harm: float32 (N,), F, the diagonal of the Fisher information per token. F c²/2 is the divergence in nats that
            closing the gate alone by c brings, to second order.
    """

    reference: ReferenceDistribution
    harm: Tensor

    @staticmethod
    def measured(gates: Gates, reference: ReferenceDistribution, progress: ProgressCallback) -> Ordinary:
        """Measure the harm: one pass each way for each prompt, by itself.

        In the half of the prompts where it is larger: neutral ones hardly use what a model answers questions with.
        """
        openness, half = torch.ones(gates.count), len(reference.prompts) // 2
        harm = torch.zeros(2, gates.count)
        for number, prompt in enumerate(reference.prompts):
            slope = gates.gradient(openness, [prompt], lambda _, scores: scores.sum())
            harm[int(number >= half)] += slope**2 / len(prompt.option_ids[0])
            progress(1)
        harm /= torch.tensor([[max(half, 1)], [len(reference.prompts) - half]])
        return Ordinary(reference, harm.amax(0))


class Loop:
    """Gradient steps, and the edit that they have come to.

    Attributes:
        state: Where the loop stands.
    """

    def __init__(
        self,
        lm: LanguageModel,
        parts: Sequence[Parts],
        gates: Gates,
        ordinary: Ordinary,
        limits: Limits,
        options: SearchOptions,
    ) -> None:
        """Take what to work on.

        Args:
            lm: The model, unedited between steps.
            parts: Of every task; examples are drawn from `Parts.gradients`.
            gates: Of the neurons that may be eliminated.
            ordinary: Answers that are to stay as they are.
            limits: On the cost of an edit.
            options: Seed and batch size.
        """
        self._lm, self._gates, self._ordinary, self._limits, self._options = lm, gates, ordinary, limits, options
        self._questions = [_questions(lm, part, options.seed) for part in parts]
        self.state = LoopState.new(gates.count)
        self._skill_weight, self._kl_weight = limits.multipliers

    def round(self, progress: Progress) -> None:
        """Take the gradient steps of a round."""
        with progress.step("Gradient steps", STEPS) as advance:
            for _ in range(STEPS):
                self._step()
                advance(1)

    def edit(self) -> tuple[Neuron, ...]:
        """The neurons whose gates are closed most, n at the most; last those that are to return first.

        In the order of the Lagrangian's gradient, with a λ that is `STRICTER` times as large.
        """
        best, state = self._best(), self.state
        merit = state.mean + (STRICTER - 1) * self._skill_weight * state.skill
        return tuple(self._gates.neurons(best[merit[best].argsort(descending=True, stable=True)]))

    @property
    def is_clear(self) -> bool:
        """Whether the edit is near to what the gates are: if they are half open, closing them is another edit."""
        best = self._best()
        return bool(len(best)) and float(self.state.closing[best].clamp(max=1).mean()) >= CLEAR

    def _step(self) -> None:
        state = self.state
        best, closed = self._best(), torch.zeros(self._gates.count)
        closed[best] = state.closing[best].clamp(max=1)
        gradient, of_skill = self._gradient(1 - closed)
        mean = MOMENTUM * state.mean + (1 - MOMENTUM) * gradient
        square = MOMENTUM * state.square + (1 - MOMENTUM) * gradient**2
        seen = 1 - MOMENTUM ** (state.step + 1)  # a running mean that begins with 0
        of_mean = mean / seen
        error = ((square / seen - of_mean**2).clamp(min=0) * (1 - MOMENTUM) / seen).sqrt()
        shrunk = of_mean.sign() * (of_mean.abs() - CAUTION * error).clamp(min=0)
        harm = self._ordinary.harm
        merit = shrunk - self._kl_weight * harm / 2
        stays = harm / 2 > FAIR_SHARES * self._limits.kl / self._most
        merit[stays] = 0.0
        of_best = float(merit.topk(self._most).values.clamp(min=0).mean()) or math.inf
        closing = (state.closing + STEP_SIZE * merit / of_best).clamp(min=-1).masked_fill(stays, -1.0)
        skill = MOMENTUM * state.skill + (1 - MOMENTUM) * of_skill
        self.state = LoopState(state.step + 1, closing, mean, square, skill)

    @property
    def _most(self) -> int:
        return min(self._limits.neurons, self._gates.count)

    def _best(self) -> Tensor:
        best = self.state.closing.topk(self._most).indices
        return best[self.state.closing[best] > 0]

    def _gradient(self, openness: Tensor) -> tuple[Tensor, Tensor]:
        """Of the Lagrangian with respect to the gates, and of L_skill alone."""
        state, options = self.state, self._options
        biased, skill = torch.zeros(2, self._gates.count)
        for questions in self._questions:
            asked = _drawn(questions.ambiguous, BIASED, state.step, options.seed)
            biased += self._of_questions(openness, asked) / len(self._questions)
            asked = _drawn(questions.disambiguated, SKILLED, state.step, options.seed)
            skill += self._of_questions(openness, asked) / len(self._questions)
        reference = self._ordinary.reference
        drawn = _drawn(range(len(reference.prompts)), ORDINARY, state.step, options.seed)

        def diverged(index: int, logits: Tensor) -> Tensor:
            return kl_loss(reference.log_probabilities[drawn[index]], logits)

        prompts = [reference.prompts[index] for index in drawn]
        kl = self._gates.gradient(openness, prompts, diverged, continuation_logits, options.batch_size)
        return biased + self._skill_weight * skill + self._kl_weight * kl, skill

    def _of_questions(self, openness: Tensor, questions: Sequence[_Question]) -> Tensor:
        """Of the mean loss of some questions of one condition."""
        if not questions:
            return torch.zeros(self._gates.count)
        new = [question for question in questions if question.unedited is None and question.disambiguated]
        if new:
            scores = prompt_scores(self._lm, [question.prompt for question in new], self._options.batch_size)
            for question, unedited in zip(new, scores, strict=True):
                question.unedited = unedited[: len(question.prompt.option_ids)]
        prompts = [question.prompt for question in questions]
        return self._gates.gradient(
            openness, prompts, lambda index, scores: questions[index].loss(scores), batch_size=self._options.batch_size
        )


@dataclass(eq=False)
class _Question:
    """An example as a prompt, with the unedited model's scores once they are known."""

    example: Example
    prompt: EncodedPrompt
    unedited: Tensor | None = None

    @property
    def disambiguated(self) -> bool:
        return self.example.condition == DISAMBIGUATED

    def loss(self, scores: Tensor) -> Tensor:
        if not self.disambiguated:
            return biased_loss(scores, self.example.answer)
        assert self.unedited is not None
        return skill_loss(scores, self.unedited.to(scores.device), self.example.unknown)


@dataclass(frozen=True)
class _Questions:
    """Of one task; what a task does not tell apart counts as ambiguous."""

    ambiguous: Sequence[_Question]
    disambiguated: Sequence[_Question]


def _questions(lm: LanguageModel, part: Parts, seed: int) -> _Questions:
    """Each example is asked under one instruction, all instructions equally often."""
    asked = validation_part(lm, part.task.name, part.gradients, part.task.instructions, seed)
    questions = [_Question(example, prompt) for example, prompt in zip(asked.examples, asked.prompts, strict=True)]
    return _Questions(
        [question for question in questions if not question.disambiguated],
        [question for question in questions if question.disambiguated],
    )


def _drawn(pool: Sequence[Item], count: int, step: int, seed: int) -> list[Item]:
    """The items of a step: all of the pool in turn, in another order each time through; a step holds none twice."""
    count = min(count, len(pool))
    places = range(step * count, (step + 1) * count)
    orders = {
        turn: random.Random(f"{seed} {turn}").sample(range(len(pool)), len(pool))
        for turn in {p // len(pool) for p in places}
    }
    return [pool[orders[place // len(pool)][place % len(pool)]] for place in places]
