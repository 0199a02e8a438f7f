"""Search over the number of neurons alone: a sweep over one ranking, or the golden section of the paper's code.

`search.search_edit` is the search over everything. Chosen on the validation split; others measure it on the test
split. Always answering "unknown" has a balanced accuracy of 0.5, better than a model that always guesses a group, so no
single mean is the criterion of the sweep: the gain on ambiguous questions is bought within a limit on the loss on
disambiguated ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from crispr_lm.edits.edit import Edit
from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.inference.prompts import EncodedPrompt, encode
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.metrics.family import Metrics
from crispr_lm.metrics.question_answering import question_answering_metrics
from crispr_lm.tasks.base import Example

if TYPE_CHECKING:
    from crispr_lm.attribution.neuron_scores import NeuronScores
    from crispr_lm.model.language_model import LanguageModel

COUNTS = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500)
"""Numbers of neurons that are tried: dense where the effect is steep."""

GOLDEN_RATIO = (5**0.5 - 1) / 2

TOLERANCE = 4
"""Width of the interval in which a golden-section search tries every number; the default of the paper's code."""


@dataclass(frozen=True)
class Candidate:
    """One number of neurons and what it does on the validation split.

    Attributes:
        neurons: How many of the highest-ranked neurons are eliminated; 0 is the original model.
        metrics: Task name to metrics.
    """

    neurons: int
    metrics: Mapping[str, Metrics]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, a line of ``search.jsonl``."""
        return {"neurons": self.neurons, "metrics": {task: dict(metrics) for task, metrics in self.metrics.items()}}

    @staticmethod
    def from_dict(row: Mapping[str, Any]) -> Candidate:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: something else.
        """
        return _CANDIDATE.validate_python(row)


_CANDIDATE = TypeAdapter(Candidate)


@dataclass(frozen=True)
class Choice:
    """The recommended candidate, and why, in one sentence."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class ChoosePart:
    """The examples of one task that candidates are judged on, each asked once, under an instruction drawn for it."""

    task: str
    examples: tuple[Example, ...]
    prompts: tuple[EncodedPrompt, ...]

    def joined(self, other: ChoosePart) -> ChoosePart:
        """With another's examples of the same task behind its own."""
        return ChoosePart(self.task, self.examples + other.examples, self.prompts + other.prompts)


def validation_part(
    lm: LanguageModel, task: str, examples: Sequence[Example], instructions: Sequence[str], seed: int
) -> ChoosePart:
    """Encode each example under one instruction, all instructions equally often.

    For the same number of prompts, many examples under one instruction each tell more than few examples under all.
    """
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    instruction_of = {index: instructions[rank % len(instructions)] for rank, index in enumerate(order)}
    prompts = tuple(encode(lm, example, instruction_of[index]) for index, example in enumerate(examples))
    return ChoosePart(task, tuple(examples), prompts)


@dataclass(frozen=True)
class Measured:
    """What an interrupted run has measured, and who is told of the rest.

    Attributes:
        known: Candidates that are not measured again.
        finished: Called with each candidate measured now.
        progress: Called with the number of prompts just finished.
    """

    known: Sequence[Candidate] = ()
    finished: Callable[[Candidate], None] = lambda _candidate: None
    progress: ProgressCallback | None = None


def counts_up_to(most: int) -> list[int]:
    """The numbers of neurons to try, with 0 (the original) and `most` itself."""
    return sorted({0, most, *(count for count in COUNTS if count < most)})


def measure(
    lm: LanguageModel, parts: Sequence[ChoosePart], batch_size: BatchSize, progress: ProgressCallback | None = None
) -> dict[str, Metrics]:
    """Metrics of the model as it is now, per task."""
    metrics = {}
    for part in parts:
        chosen = prompt_scores(lm, part.prompts, batch_size, progress).argmax(dim=1).tolist()
        metrics[part.task] = question_answering_metrics(part.examples, chosen)
    return metrics


def sweep(
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[ChoosePart],
    most: int,
    batch_size: BatchSize = "auto",
    measured: Measured = Measured(),
) -> list[Candidate]:
    """Measure growing numbers of the highest-ranked neurons on the validation split.

    Args:
        lm: The model; left as it was.
        scores: The ranking.
        parts: What to measure on, one part per task.
        most: Largest number of neurons.
        batch_size: Prompts in one forward pass.
        measured: What is known, and who is told of the rest.
    """
    of_count = {candidate.neurons: candidate for candidate in measured.known}
    candidates = []
    for count in counts_up_to(min(most, len(scores))):
        candidate = of_count.get(count)
        if candidate is None:
            with Edit.from_neurons(lm, scores.top(count)).applied(lm):
                candidate = Candidate(count, measure(lm, parts, batch_size, measured.progress))
            measured.finished(candidate)
        elif measured.progress is not None:
            measured.progress(sum(len(part.prompts) for part in parts))
        candidates.append(candidate)
    return candidates


def golden_section(accuracy: Callable[[int], float], most: int) -> int:
    """The number in [0, most] of highest accuracy that a golden-section search comes upon, as the paper's code does it.

    The search narrows the interval until it is at most `TOLERANCE` wide, then tries every number left. Accuracies count
    to a hundredth of a percent. Of equal ones inside the interval the lower half is kept; in the end, of all numbers
    tried, the first that reached the highest is taken. Accuracy is no unimodal function of the number, so this finds a
    good number, not the best, and 0 is tried only where the interval shrinks to it.

    Args:
        accuracy: Of a number of neurons; called once for each.
        most: The largest number.
    """
    found: dict[int, float] = {}

    def tried(count: int) -> float:
        if count not in found:
            found[count] = round(100 * accuracy(count), 2)
        return found[count]

    low, high = 0, most
    while high - low > TOLERANCE:
        step = round((high - low) * GOLDEN_RATIO)
        lower, upper = high - step, low + step
        if tried(lower) < tried(upper):
            low = lower
        else:
            high = upper
    for count in range(low, high + 1):
        tried(count)
    return max(found, key=found.__getitem__)


def golden_section_trials(most: int) -> int:
    """How many numbers `golden_section` tries at most."""
    width, trials = most, 0
    while width > TOLERANCE:
        width, trials = round(width * GOLDEN_RATIO), trials + 1
    return trials + 2 + width


def choose(candidates: Sequence[Candidate], max_accuracy_loss: float) -> Choice:
    """Recommend the candidate of highest ambiguous accuracy within the limit; of equals, the one of fewest neurons.

    Accuracies are means over tasks; the limit holds for every task. A task without conditions counts with its accuracy
    and sets no limit.

    Args:
        candidates: With the original model (0 neurons) among them.
        max_accuracy_loss: Largest loss of disambiguated accuracy against the original, in each task.
    """
    original = next(candidate for candidate in candidates if candidate.neurons == 0)
    allowed = [candidate for candidate in candidates if _largest_loss(original, candidate) <= max_accuracy_loss + 1e-9]
    best = max(allowed, key=lambda candidate: (_gained(candidate), -candidate.neurons))
    if best.neurons == 0:
        reason = (
            f"no edit recommended: none of the {len(candidates) - 1} candidates answers more questions right on the "
            f"validation split at a loss of at most {max_accuracy_loss:g} of disambiguated accuracy"
        )
        return Choice(original, reason)
    reason = (
        f"{best.neurons} neuron{'s' if best.neurons > 1 else ''}: highest ambiguous accuracy on the validation split "
        f"({_gained(original):.2f} to {_gained(best):.2f}) among the {len(allowed)} of {len(candidates)} candidates "
        f"that lose at most {max_accuracy_loss:g} of disambiguated accuracy (this one: "
        f"{_largest_loss(original, best):.2f})"
    )
    return Choice(best, reason)


def _gained(candidate: Candidate) -> float:
    """Mean over tasks of the ambiguous accuracy (the accuracy where there are no conditions)."""
    values = []
    for metrics in candidate.metrics.values():
        ambiguous = metrics.get("accuracy_ambiguous")
        value = ambiguous if ambiguous is not None else metrics["accuracy"]
        assert value is not None
        values.append(value)
    return fmean(values)


def _largest_loss(original: Candidate, candidate: Candidate) -> float:
    """Largest loss of disambiguated accuracy over tasks, at least 0."""
    losses = [0.0]
    for task, before in original.metrics.items():
        kept_before = before.get("accuracy_disambiguated")
        kept_after = candidate.metrics[task].get("accuracy_disambiguated")
        if kept_before is not None and kept_after is not None:
            losses.append(kept_before - kept_after)
    return max(losses)
