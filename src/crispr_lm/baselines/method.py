"""The one interface of what a user could do about a biased model: a `Method` is fitted and gives a `Treatment`.

A treatment says how the model answers afterwards: with neurons scaled, with a vector added to its residual stream,
with an adapter, under another instruction, with other words in the question, or with corrected option scores. Every
treatment is measured in the same way, `measure`.
Knows models, prompts and subjects; knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from crispr_lm.baselines.errors import NotRunError
from crispr_lm.evaluation.evaluation import ScoringMethod, evaluation_of
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.suite import Subject, TaskSubject
from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.inference.scoring import Likelihood
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.tasks.base import SENTENCES, Example

if TYPE_CHECKING:
    from crispr_lm.baselines.adapter import Adapter
    from crispr_lm.baselines.fit import Fit
    from crispr_lm.baselines.residual import Steering
    from crispr_lm.edits.edit import Edit
    from crispr_lm.model.language_model import LanguageModel

MethodKind = Literal["original", "library", "control", "baseline"]
"""The model as it is, this library's method, a control that should do worse, or something else a user could do."""

Rewriting = Callable[[Sequence[Example]], Sequence[Example]]
"""From examples to those that are asked instead: the same options and answers, in the same order."""

Correction = Callable[[Sequence[Example], str, Likelihood, Tensor], Tensor]
"""From examples, instruction, how options are compared, and their scores (examples, options), to corrected scores."""


@dataclass(frozen=True)
class Treatment:
    """What is done to a model, to its prompts or to its scores; by default nothing, which is the unedited model.

    Attributes:
        edit: Neurons that are scaled while the model answers.
        steering: A vector that is added to the residual stream while it answers.
        adapter: A LoRA adapter that is put around its linear layers while it answers.
        rephrase: Turns an instruction into the one that is asked instead.
        rewrite: Turns questions into those that are asked instead; the model may write them.
        correct: Turns option scores into others.
        details: Anything worth keeping on record, JSON-serialisable.
        recommended: False where the method itself found nothing worth doing, and this is nothing, or the least harmful
            that it tried.
    """

    edit: Edit | None = None
    steering: Steering | None = None
    adapter: Adapter | None = None
    rephrase: Callable[[str], str] | None = None
    rewrite: Rewriting | None = None
    correct: Correction | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    recommended: bool = True

    @property
    def changes_model(self) -> bool:
        """Whether the model itself answers differently, also where no option is asked for."""
        return any(change is not None for change in (self.edit, self.steering, self.adapter))

    @contextmanager
    def applied(self, lm: LanguageModel) -> Iterator[None]:
        """Change the model while the block runs; its weights are not touched."""
        with ExitStack() as stack:
            changes: tuple[Edit | Steering | Adapter | None, ...] = (self.edit, self.steering, self.adapter)
            for change in changes:
                if change is not None:
                    stack.enter_context(change.applied(lm))
            yield


def neurons_stored(neurons: Sequence[Neuron]) -> list[list[str | int]]:
    """Neurons as JSON types, as `neurons_read` takes them."""
    return [[neuron.kind, neuron.module, neuron.index] for neuron in neurons]


def neurons_read(stored: Sequence[Sequence[Any]]) -> list[Neuron]:
    """The neurons that `neurons_stored` gave."""
    return [Neuron(module, index, kind) for kind, module, index in stored]


@dataclass(frozen=True)
class Method:
    """Something that can be done about a biased model.

    Attributes:
        name: As in ``--methods`` and ``comparison.json``.
        label: As people read it.
        kind: What it is compared as.
        summary: What it does, in one line.
        source: Where it is described; empty for controls.
        fit: From what there is to fit on, and the number of the draw, to the treatment.
        random: Whether draws differ, so that several are made.
        named_only: Whether it is run only where it is named: "all" leaves it out, for its price.
    """

    name: str
    label: str
    kind: MethodKind
    summary: str
    fit: Callable[[Fit, int], Treatment]
    source: str = ""
    random: bool = False
    named_only: bool = False


def measure(
    lm: LanguageModel,
    treatment: Treatment,
    subject: Subject,
    scoring: ScoringMethod = "sum",
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> Measurement:
    """Measure the treated model on a subject: the same examples, instructions and metrics for every treatment.

    Texts have neither instruction nor options to choose from: for these, only what changes the model does anything.

    Raises:
        NotRunError: option scores are to be corrected, but answers are generated and have none.
    """
    if not isinstance(subject, TaskSubject) or subject.examples[0].form == SENTENCES:
        with treatment.applied(lm):
            return subject.measure(lm, scoring, batch_size, progress)
    asked, compared = subject, subject.scoring(scoring)
    if treatment.rephrase is not None:
        instructions = tuple(map(treatment.rephrase, subject.task.instructions))
        asked = replace(subject, task=replace(subject.task, instructions=instructions))
    if treatment.rewrite is not None:
        asked = replace(asked, examples=tuple(treatment.rewrite(subject.examples)))
    with treatment.applied(lm):
        if treatment.correct is None:
            found = asked.measure(lm, scoring, batch_size, progress)
            return evaluation_of(subject.examples, found.option_scores, found.family)
        if compared == "generate":
            raise NotRunError("it corrects option scores, and generated answers have none")
        found = asked.measure(lm, scoring, batch_size, progress)
        tables = [
            treatment.correct(subject.examples, instruction, compared, table)
            for instruction, table in zip(asked.task.instructions, found.option_scores, strict=True)
        ]
    return evaluation_of(subject.examples, tables, found.family)
