"""Baselines: option scores corrected by what the model prefers when the input says nothing.

    s'(c) = s(c) − log mean over m of P_m(c),    P_m(c) = softmax over options of s(c | input m)

Input m is the same prompt with the same options, but with content-free words in place of context and question:

- contextual calibration (Zhao et al., *Calibrate Before Use*, ICML 2021, arXiv 2102.09690): "N/A", "[MASK]" and the
  empty string;
- domain-context calibration (Fei et al., *Mitigating Label Biases for In-context Learning*, ACL 2023, arXiv
  2305.19148): words drawn at random from the attribution split's contexts and questions, as many as these have on
  average.

Both divide by the content-free probability (the diagonal W of Zhao et al., b = 0). Where they have one fixed set of
labels, options differ here from question to question, so the correction is taken for each question's own options.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.inference.batching import BatchSize
from crispr_lm.inference.scoring import Likelihood, option_scores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.tasks.base import Example

CONTENT_FREE = ("N/A", "[MASK]", "")
"""The content-free inputs of Zhao et al., whose probabilities they average."""

Input = tuple[str, str]
"""What stands in place of (context, question)."""


def contextual_calibration(fit: Fit, _draw: int) -> Treatment:
    """Correct by content-free input."""
    return _calibrated(fit, [(text, text) for text in CONTENT_FREE])


def domain_context_calibration(fit: Fit, _draw: int) -> Treatment:
    """Correct by random words of the domain."""
    inputs = random_inputs(fit.parts.attribution, fit.settings.calibration_texts, fit.settings.seed)
    return _calibrated(fit, inputs)


def random_inputs(examples: Sequence[Example], count: int, seed: int) -> list[Input]:
    """Draw words from the examples' contexts and questions (with repetition), at these texts' mean lengths."""
    generator = random.Random(seed)
    drawn = []
    texts = [[example.context.split() for example in examples], [example.question.split() for example in examples]]
    for _ in range(count):
        pieces = []
        for of_field in texts:
            words = [word for text in of_field for word in text]
            length = round(len(words) / len(of_field))
            pieces.append(" ".join(generator.choices(words, k=length)) if words else "")
        drawn.append((pieces[0], pieces[1]))
    return drawn


@dataclass(frozen=True)
class Calibration:
    """Corrects option scores by those of content-free inputs.

    Attributes:
        lm: The model.
        inputs: What stands in place of context and question.
        batch_size: Prompts in one pass.
    """

    lm: LanguageModel
    inputs: Sequence[Input]
    batch_size: BatchSize

    def __call__(self, examples: Sequence[Example], instruction: str, scoring: Likelihood, scores: Tensor) -> Tensor:
        """Corrected option scores s', float32 (examples, options); -inf stays where an example has no such option."""
        probabilities = torch.zeros_like(scores)
        for context, question in self.inputs:
            # Options and their places stay: what the model prefers among these is what shall be taken out.
            asked = [
                replace(example, context=context if example.context.strip() else "", question=question)
                for example in examples
            ]
            # Many questions have the same options, and then their prompts are the same.
            places = {_shown(example): place for place, example in enumerate(asked)}
            row_of = {shown: row for row, shown in enumerate(places)}
            distinct = [asked[place] for place in places.values()]
            once = option_scores(self.lm, distinct, instruction, self.batch_size, scoring=scoring)
            rows = torch.tensor([row_of[_shown(example)] for example in asked])
            probabilities += once[rows].softmax(dim=1) / len(self.inputs)
        prior = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        return scores - prior.masked_fill(scores.isneginf(), 0)


def _shown(example: Example) -> tuple[str, ...]:
    """All of an example that its prompt holds."""
    return (example.form, example.context, example.question, *example.options)


def _calibrated(fit: Fit, inputs: Sequence[Input]) -> Treatment:
    return Treatment(
        correct=Calibration(fit.lm, inputs, fit.settings.batch_size),
        details={"inputs": [list(one) for one in inputs]},
    )
