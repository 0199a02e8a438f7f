"""What a run measures before and after: bias tasks, capability tasks, texts, and the divergence on neutral prompts.

Knows tasks, models and settings; knows no edit. What it returns is compared by `crispr_lm.evaluation.results`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from crispr_lm.errors import InputError
from crispr_lm.evaluation.evaluation import Evaluation, ScoringMethod, evaluate_task
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, reference_distribution
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.perplexity import WINDOW, perplexity, windows
from crispr_lm.evaluation.twins import TwinsSubject
from crispr_lm.inference.batching import BatchSize
from crispr_lm.inference.prompts import check_prompts
from crispr_lm.inference.reader import Reader
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import ReportSettings, RunSettings, TaskSettings
from crispr_lm.storage.sanitize import shared_names
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, SENTENCES, Example, Task, neutral_prompts
from crispr_lm.tasks.benchmark_rows import hub_text
from crispr_lm.tasks.files import text_of
from crispr_lm.tasks.groups import GroupMap, read_groups
from crispr_lm.tasks.other_kinds import OTHER_KINDS, measured_other_kinds
from crispr_lm.tasks.registry import HUB, KINDS, TEXTS, draw, instruction_count, load_task, path_of
from crispr_lm.tasks.task_instructions import instructions_for_others
from crispr_lm.tasks.twins import drawn_pairs, read_twins

Role = Literal["bias", "capability"]


class Subject(Protocol):
    """Something to be measured; `role` is "bias", or "capability" for what an edit must not harm."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def role(self) -> Role: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def origin(self) -> tuple[str, ...]: ...  # noqa: D102

    def check(self, reader: Reader) -> None:
        """Check that it can be measured on a model, before its weights are read."""

    def measure(
        self, lm: LanguageModel, scoring: ScoringMethod, batch_size: BatchSize, advance: Callable[[int], None] | None
    ) -> Measurement:
        """Measure the model as it is now."""

    def described(self, scoring: ScoringMethod) -> dict[str, object]:
        """What results say of it, beside its figures."""


@dataclass(frozen=True)
class TaskSubject:
    """A task to be measured.

    Attributes:
        task: The task, its instructions being those it is measured under.
        examples: Those of its examples that are measured.
        role: What it is measured for.
    """

    task: Task
    examples: tuple[Example, ...]
    role: Role = "bias"

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.task.name

    @property
    def origin(self) -> tuple[str, ...]:
        """The files it was read from."""
        return self.task.origin

    @property
    def steps(self) -> int:
        """How many prompts are scored."""
        return len(self.examples) * len(self.task.instructions)

    def check(self, reader: Reader) -> None:
        """Check that every prompt fits."""
        check_prompts(reader, self.examples, self.task.instructions)

    def scoring(self, chosen: ScoringMethod) -> ScoringMethod:
        """How its options are compared: as its benchmark says, else as chosen; whole texts can't be generated."""
        if self.task.scoring is not None:
            return self.task.scoring
        return "sum" if chosen == "generate" and self.examples[0].form == SENTENCES else chosen

    def measure(
        self, lm: LanguageModel, scoring: ScoringMethod, batch_size: BatchSize, advance: Callable[[int], None] | None
    ) -> Evaluation:
        """Measure the model as it is now."""
        asked = replace(self.task, examples=self.examples)
        return evaluate_task(lm, asked, self.scoring(scoring), batch_size, advance)

    def described(self, scoring: ScoringMethod) -> dict[str, object]:
        """How it is measured, and on how many questions the stereotyped option is not known."""
        conditioned = [example for example in self.examples if example.condition in (AMBIGUOUS, DISAMBIGUATED)]
        return {
            "scoring": self.scoring(scoring),
            "without_stereotyped_option": sum(example.stereotyped is None for example in conditioned),
            **({} if self.task.rows is None else {"file_rows": asdict(self.task.rows)}),
        }


@dataclass(frozen=True)
class TextSubject:
    """A running text whose perplexity is measured, in at most so many windows (None for all of it)."""

    name: str
    text: str
    most_windows: int | None
    origin: tuple[str, ...]
    role: Role = "capability"

    @property
    def steps(self) -> int:
        """How many windows there are at most; a token is hardly shorter than three letters."""
        return min(self.most_windows or len(self.text), 1 + len(self.text) // (3 * WINDOW))

    @property
    def most_tokens(self) -> int | None:
        """How many tokens are measured at most."""
        return None if self.most_windows is None else self.most_windows * (WINDOW - 1)

    def check(self, reader: Reader) -> None:
        """Check that the model can be measured this way."""
        windows(reader, self.text[:1000])

    def measure(
        self, lm: LanguageModel, scoring: ScoringMethod, batch_size: BatchSize, advance: Callable[[int], None] | None
    ) -> Measurement:
        """Measure the model as it is now."""
        return perplexity(lm, self.text, self.most_tokens, advance)

    def described(self, scoring: ScoringMethod) -> dict[str, object]:
        """Nothing to choose from."""
        return {"scoring": "perplexity", "without_stereotyped_option": 0}


def user_groups(settings: TaskSettings) -> GroupMap | None:
    """The map of ``--groups``, if there is one.

    Raises:
        InputError: as `group_map`.
    """
    measured = settings.measure if isinstance(settings, ReportSettings) else ()
    return group_map(settings.groups, [*settings.task, *measured])


def group_map(path: Path | None, tasks: Iterable[str]) -> GroupMap | None:
    """The map from persons to groups in a file, for tasks of these names.

    Raises:
        InputError: it can't be read, or none of the tasks finds persons by groups.
    """
    if path is None:
        return None
    kinds = (KINDS.get(name.partition(":")[0]) for name in tasks)
    if not any(kind is not None and kind.takes_groups for kind in kinds):
        raise InputError(f"--groups {path}: no task here finds persons by groups; leave the option away")
    return read_groups(path)


def further_subjects(settings: RunSettings | EvaluateSettings, tasks: Sequence[Task] = ()) -> list[Subject]:
    """What is measured beside the tasks that the edit is made for, as ``--measure`` says.

    Each under as many of the built-in instructions for its form as ``--measure-instructions`` says, so that its figures
    have a spread too. Instructions of the user's own are worded for the user's own tasks, and not used here.

    Args:
        settings: Of the job.
        tasks: That the edit is made for; with none every kind of stereotype is another one.

    Raises:
        InputError: as `load_task`, or a task is measured twice.
    """
    subjects: list[Subject] = []
    asked_for = settings.measure_instructions
    names, groups = shared_names([*settings.task, *settings.measure]), user_groups(settings)
    for name in settings.measure:
        if name in settings.task or settings.measure.count(name) > 1:
            raise InputError(f"task {name} is to be measured twice; name it once")
        most = None if settings.measure_examples == "all" else settings.measure_examples
        if name == OTHER_KINDS:
            subjects += _of_other_kinds(tasks, most, settings.seed)
            continue
        scheme, _, rest = name.partition(":")
        if scheme in TEXTS:
            from_hub = name == f"wikitext:{HUB}"
            text = hub_text() if from_hub else text_of(path_of(rest))
            if not text.strip():
                raise InputError(f"{rest}: no text in it, so there is no perplexity to measure; give a file with text")
            subjects.append(TextSubject(names[name], text, most, () if from_hub else (rest,)))
            continue
        if scheme == "twins":
            twins = drawn_pairs(read_twins(path_of(rest)), most, settings.seed)
            subjects.append(TwinsSubject(names[name], twins, (rest,)))
            if not any(pair.continuations for pair in twins.pairs):
                continue
            names[name] += " (continuations)"
        task = replace(load_task(name, asked_for, groups), name=names[name])
        if asked_for is None:
            count = instruction_count(instructions_for_others(settings.instructions))
            task = replace(task, instructions=task.instructions[:count])
        drawn = draw(task, task.examples, most or len(task.examples), settings.seed)
        # WinoBias and the like measure bias; what has one right answer and no stereotype measures capability.
        bias = any(example.stereotyped is not None for example in task.examples)
        subjects.append(TaskSubject(task, drawn, "bias" if bias else "capability"))
    return subjects


def _of_other_kinds(tasks: Sequence[Task], most: int | None, seed: int) -> list[Subject]:
    """Questions of other kinds of stereotype, or none where the tasks are of every kind.

    Twice as many as of another task, since their figures are reported by kind, under a single instruction: many
    questions asked once tell more of a kind than few asked ten times.
    """
    made_for = [example for task in tasks for example in task.examples]
    task = measured_other_kinds(made_for, None if most is None else 2 * most, seed)
    if task is None:
        return []
    return [TaskSubject(replace(task, instructions=task.instructions[:1]), task.examples, "capability")]


def measure_all(
    lm: LanguageModel,
    subjects: Sequence[Subject],
    settings: RunSettings | EvaluateSettings,
    progress: Progress,
    description: str,
) -> dict[str, Measurement]:
    """Measure every subject on the model as it is now; name to measurement."""
    with progress.step(description, sum(subject.steps for subject in subjects)) as advance:
        return {
            subject.name: subject.measure(lm, settings.scoring, settings.batch_size, advance) for subject in subjects
        }


def measure_reference(
    lm: LanguageModel, settings: RunSettings | EvaluateSettings, progress: Progress
) -> ReferenceDistribution:
    """Compute the reference distribution of the unedited model on the bundled neutral prompts."""
    texts = neutral_prompts()[: settings.neutral_prompts]
    with progress.step("Continuing neutral prompts", len(texts)) as advance:
        return reference_distribution(lm, texts, batch_size=settings.batch_size, progress=advance)


def evaluations(measurements: Mapping[str, Measurement]) -> dict[str, Evaluation]:
    """Those of the measurements that are answers to questions."""
    return {name: found for name, found in measurements.items() if isinstance(found, Evaluation)}
