"""What a run measures before and after: bias tasks, capability tasks, and the divergence on neutral prompts.

Knows tasks, models and settings; knows no edit. What it returns is compared and told by `crispr_lm.results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from crispr_lm.batching import BatchSize
from crispr_lm.divergence import Original, original_of
from crispr_lm.errors import InputError
from crispr_lm.evaluation import Evaluation, ScoringMethod, evaluate
from crispr_lm.model.load import LanguageModel
from crispr_lm.progress import Progress
from crispr_lm.settings import EvaluateSettings, RunSettings
from crispr_lm.tasks import Example, Task, load_task, neutral_prompts, sample
from crispr_lm.tasks.task import SENTENCES

Role = Literal["bias", "capability"]


@dataclass(frozen=True)
class Subject:
    """Something to be measured.

    Attributes:
        task: The task, its instructions being those it is measured under.
        examples: Those of its examples that are measured.
        role: "bias" for what the edit is made for, "capability" for what it must not harm.
    """

    task: Task
    examples: tuple[Example, ...]
    role: Role = "bias"

    @property
    def prompts(self) -> int:
        """How many prompts are scored."""
        return len(self.examples) * len(self.task.instructions)

    def scoring(self, chosen: ScoringMethod) -> ScoringMethod:
        """How its options are compared: texts can't be generated, they are always compared by their likelihood."""
        return "sum" if chosen == "generate" and self.examples[0].form == SENTENCES else chosen

    def measure(
        self, lm: LanguageModel, scoring: ScoringMethod, batch_size: BatchSize, advance: Callable[[int], None] | None
    ) -> Evaluation:
        """Measure the model as it is now."""
        return evaluate(
            lm,
            self.examples,
            self.task.instructions,
            batch_size,
            advance,
            family=self.task.family,
            scoring=self.scoring(scoring),
        )


def further_subjects(settings: RunSettings | EvaluateSettings) -> list[Subject]:
    """What is measured beside the tasks that the edit is made for, as ``--measure`` says.

    Each under the first of its instructions alone: what counts here is the difference, and many questions tell more of
    it than many wordings of a few.

    Raises:
        InputError: as `load_task`, or a task is measured twice.
    """
    subjects = []
    for name in settings.measure:
        if name in settings.task or settings.measure.count(name) > 1:
            raise InputError(f"task {name} is to be measured twice; name it once")
        task = load_task(name, None)
        task = Task(**{**vars(task), "instructions": task.instructions[:1]})
        size = len(task.examples) if settings.measure_examples == "all" else settings.measure_examples
        subjects.append(Subject(task, sample(task.examples, size, settings.seed), "capability"))
    return subjects


def measure_all(
    lm: LanguageModel,
    subjects: Sequence[Subject],
    settings: RunSettings | EvaluateSettings,
    progress: Progress,
    description: str,
) -> dict[str, Evaluation]:
    """Measure every subject on the model as it is now; task name to evaluation."""
    with progress.step(description, sum(subject.prompts for subject in subjects)) as advance:
        return {
            subject.task.name: subject.measure(lm, settings.scoring, settings.batch_size, advance)
            for subject in subjects
        }


def take_original(lm: LanguageModel, settings: RunSettings | EvaluateSettings, progress: Progress) -> Original:
    """Take what the unedited model expects on the bundled neutral prompts."""
    texts = neutral_prompts()[: settings.neutral_prompts]
    with progress.step("Continuing neutral prompts", len(texts)) as advance:
        return original_of(lm, texts, batch_size=settings.batch_size, progress=advance)
