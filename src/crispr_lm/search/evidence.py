"""What rankings are computed from: effects on tasks, and what ordinary answers hang on, without and with an edit.

Knows tasks as examples, and a model; knows no settings and no folder.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import NamedTuple
from zlib import crc32

from crispr_lm.attribution.effects import Effects, measure_effects
from crispr_lm.attribution.importance import Importance, measure_importance
from crispr_lm.edits.edit import Edit
from crispr_lm.evaluation.kl_divergence import reference_distribution
from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.inference.prompts import EncodedPrompt, encode, open_question
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron, NeuronKind
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.rankings import Evidence, Published
from crispr_lm.tasks.base import Example, neutral_prompts, open_instructions, sample
from crispr_lm.tasks.knowledge import ordinary_questions

FEWEST_NEUTRAL = 8
"""With fewer neutral prompts left over, importance is measured on all of them."""


ALMOST_NONE = 2**-6
"""What eliminated activations are scaled by while effects are measured: what giving them back would do shows only where
a little of them is left. A power of 2, so that no number format rounds."""


KEPT_CHOICES = 32
"""Ordinary choices that one measurement of what they hang on is of."""


@dataclass(frozen=True, eq=False)
class Ordinary:
    """What the unedited model answers where no stereotype is near, and how much that hangs on each neuron.

    Attributes:
        groups: Prompts with the model's own answers: neutral prompts, and short questions asked as tasks ask them.
        importance: By kind of neurons, one for each group.
        choices: The questions with options to choose from, of which that of the unedited model is the answer, each with
            its prompt.
        kept: Effects of each kind of neurons on some of the choices.
    """

    groups: Sequence[Sequence[EncodedPrompt]]
    importance: Mapping[NeuronKind, Sequence[Importance]]
    choices: Sequence[tuple[Example, EncodedPrompt]]
    kept: Mapping[NeuronKind, Effects]

    def unedited(self) -> dict[NeuronKind, list[Importance]]:
        """What a first edit may harm."""
        return {kind: _since(of_kind, of_kind) for kind, of_kind in self.importance.items()}

    def with_edit(
        self, lm: LanguageModel, kind: NeuronKind, seed: int, batch_size: BatchSize
    ) -> tuple[dict[NeuronKind, list[Importance]], dict[NeuronKind, Effects]]:
        """What more neurons may harm, and their effects on some choices, measured with the edit that is in place."""
        now = _importance(lm, self.groups, (kind,), batch_size)
        return {kind: _since(now[kind], self.importance[kind])}, _kept(lm, self.choices, (kind,), seed, batch_size)


def ordinary_answers(
    lm: LanguageModel, measured: int, kinds: Sequence[NeuronKind], seed: int, batch_size: BatchSize = "auto"
) -> Ordinary:
    """To neutral prompts, those that the divergence is not measured on if there are enough, and to short questions.

    What makes a model answer "unknown" to a question is easily found in what makes it answer questions at all, which
    neutral prompts hardly show.
    """
    texts = neutral_prompts()
    aside = texts[measured:] if len(texts) - measured >= FEWEST_NEUTRAL else texts
    asked = list(zip(ordinary_questions(), cycle(open_instructions()), strict=False))
    written = [open_question(question.question, instruction) for question, instruction in asked]
    groups = [reference_distribution(lm, group, batch_size=batch_size).prompts for group in (aside, written)]
    prompts = [encode(lm, *pair) for pair in asked]
    own = prompt_scores(lm, prompts, batch_size).argmax(dim=1).tolist()
    choices = [
        (replace(question, answer=answer), prompt)
        for (question, _), answer, prompt in zip(asked, own, prompts, strict=True)
    ]
    kept = _kept(lm, choices, kinds, seed, batch_size)
    return Ordinary(groups, _importance(lm, groups, kinds, batch_size), choices, kept)


def _kept(
    lm: LanguageModel,
    choices: Sequence[tuple[Example, EncodedPrompt]],
    kinds: Sequence[NeuronKind],
    seed: int,
    batch_size: BatchSize,
) -> dict[NeuronKind, Effects]:
    drawn = random.Random(seed).sample(choices, min(KEPT_CHOICES, len(choices)))
    return measure_effects(lm, [example for example, _ in drawn], [prompt for _, prompt in drawn], kinds, batch_size)


def _importance(
    lm: LanguageModel,
    groups: Sequence[Sequence[EncodedPrompt]],
    kinds: Sequence[NeuronKind],
    batch_size: BatchSize,
) -> dict[NeuronKind, list[Importance]]:
    measured = [measure_importance(lm, group, kinds, batch_size) for group in groups]
    return {kind: [of_group[kind] for of_group in measured] for kind in kinds}


def _since(now: Sequence[Importance], original: Sequence[Importance]) -> list[Importance]:
    return [of_group.since(before) for of_group, before in zip(now, original, strict=True)]


class Asked(NamedTuple):
    """What effects on a task are measured on.

    Attributes:
        examples: To draw from.
        size: How many are drawn for one measurement.
        instructions: Each example is asked under one of them.
    """

    examples: Sequence[Example]
    size: int
    instructions: Sequence[str]

    def drawn(self, seed: int) -> tuple[Example, ...]:
        """The examples of one measurement."""
        return sample(self.examples, self.size, seed)


def evidence_anew(
    lm: LanguageModel,
    published: Published,
    asked: Sequence[Asked],
    seed: int,
    batch_size: BatchSize,
    original: Ordinary,
    kind: NeuronKind,
    eliminated: Sequence[Neuron],
    scale: float,
    progress: Progress | None = None,
) -> Evidence:
    """What rankings are computed from, measured with an edit in place, on other examples than without it.

    The edit's own neurons have the effects of giving them back (`Effects.turn_round`).

    Args:
        lm: The model, unedited.
        published: The published ranking, of the unedited model.
        asked: Of every task.
        seed: Of the examples drawn, together with the neurons eliminated.
        batch_size: Prompts in one pass.
        original: Of the model as it is.
        kind: Kind of neurons that are measured.
        eliminated: The edit's neurons.
        scale: What their activations are multiplied with.
        progress: Shows how far it is.
    """
    seed += crc32(repr(sorted(eliminated)).encode())  # others in every pass, the same ones in a resumed run
    scale = scale or ALMOST_NONE
    count = sum(len(of_task.drawn(seed)) for of_task in asked)
    inner = (progress or SilentProgress()).step(f"Measuring effects beside {len(eliminated)} neurons", count)
    with inner as advance, Edit.from_neurons(lm, eliminated, scale).applied(lm):
        of_tasks = [search_effects(lm, of_task, (kind,), seed, batch_size, advance) for of_task in asked]
        importance, kept = original.with_edit(lm, kind, seed, batch_size)
    effects = Effects.joined([of_task[kind] for of_task in of_tasks])
    for measured in (effects, *kept.values()):
        measured.turn_round([neuron for neuron in eliminated if neuron.kind == kind], scale)
    return Evidence(published, {kind: effects}, importance, kept)


def search_effects(
    lm: LanguageModel,
    asked: Asked,
    kinds: Sequence[NeuronKind],
    seed: int,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> dict[NeuronKind, Effects]:
    """Effects on drawn examples that are each asked under one instruction, all instructions equally often."""
    examples, instructions = asked.drawn(seed), asked.instructions
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    instruction_of = {index: instructions[rank % len(instructions)] for rank, index in enumerate(order)}
    prompts = [encode(lm, example, instruction_of[index]) for index, example in enumerate(examples)]
    return measure_effects(lm, examples, prompts, kinds, batch_size, progress)
