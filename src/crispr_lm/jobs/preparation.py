"""Before the work: tasks read, parts taken, prompts checked, weights loaded, so that mistakes show first.

Where settings become objects. Knows no formula.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from datetime import datetime
from pathlib import Path

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.evaluation.suite import Subject, TaskSubject, user_groups
from crispr_lm.inference.evaluation_dtype import PROBED_PROMPTS, choose_evaluation_dtype
from crispr_lm.inference.prompts import check_prompts, encode_all
from crispr_lm.inference.reader import Reader
from crispr_lm.jobs.advice import check_templates
from crispr_lm.metrics.registry import family_named
from crispr_lm.model.devices import DTYPES, PLACES, SPREAD, check_device, check_quantize, computes, parse_device
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.load import ModelSource, open_model
from crispr_lm.other_settings import EvaluateSettings, ScoreSettings
from crispr_lm.runtime.deterministic import make_deterministic
from crispr_lm.runtime.distributed import on_first, ranks
from crispr_lm.runtime.progress import Progress
from crispr_lm.runtime.threads import set_threads
from crispr_lm.search.options import SearchOptions, search_parts
from crispr_lm.search.paper import PaperOptions
from crispr_lm.search.side_effects import AskedAside, asked_aside
from crispr_lm.search.trial import Limits
from crispr_lm.settings import CompareSettings, FolderSettings, ModelSettings, ReportSettings, RunSettings, TaskSettings
from crispr_lm.storage.records import read_object
from crispr_lm.storage.run_folder import ComparisonFolder, RunFolder
from crispr_lm.storage.sanitize import shared_names
from crispr_lm.tasks.base import Example, Task, of_condition, sample, template_hash, template_hashes
from crispr_lm.tasks.parts import Parts, SplitBy, check_attributable, draws, split_of
from crispr_lm.tasks.parts import attribution_candidates as candidates_of
from crispr_lm.tasks.registry import draw, load_task
from crispr_lm.tasks.task_instructions import instructions_by_task


class Timings:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add the time spent in the block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - start, 3)


def load_tasks(settings: TaskSettings) -> list[Task]:
    """Load every task of the settings.

    Raises:
        InputError: as `load_task`, a task is named twice, its metrics are not there, or no task takes the groups given.
    """
    for name in settings.task:
        if settings.task.count(name) > 1:
            raise InputError(f"task {name} is named twice; name it once")
    names = shared_names(settings.task)
    groups = user_groups(settings)
    asked_with = instructions_by_task(settings.instructions, settings.task)
    tasks = [replace(load_task(name, asked_with[name], groups), name=names[name]) for name in settings.task]
    for task in tasks:
        family_named(task.family)  # of a task that is registered they may never have been
    return tasks


def take_parts(task: Task, settings: RunSettings) -> Parts:
    """Split a task by template and draw what is used of each part.

    Raises:
        InputError: too few templates, or fewer examples to attribute on than the user asked for.
    """
    drawn = attribution_sample(task, settings)
    if settings.search == "tuned":
        parts = replace(search_parts(task, options_of(settings)), attribution=drawn)
    else:
        split = split_of(task, settings.seed, settings.split_by)
        size = len(split.validation) if settings.validation_examples == "all" else settings.validation_examples
        parts = Parts(task, drawn, sample(split.validation, size, settings.seed), split.test)
    return replace(parts, test=test_sample(task, parts.test, settings))


def options_of(settings: RunSettings) -> SearchOptions:
    """The options of the search among those of a run; they have the same names."""
    given = {field.name: getattr(settings, field.name) for field in dataclass_fields(SearchOptions)}
    if given["validation_examples"] == "all":
        given["validation_examples"] = sys.maxsize  # more than any split has
    return SearchOptions(**given)


def paper_options(settings: RunSettings) -> PaperOptions:
    """The options of the paper's procedure among those of a run; they have the same names."""
    given = {field.name: getattr(settings, field.name) for field in dataclass_fields(PaperOptions)}
    return PaperOptions(**{**given, "seeds": seeds_of(settings)})


def limits_of(settings: RunSettings) -> Limits:
    """What an edit may cost."""
    return Limits(
        settings.max_kl,
        settings.max_accuracy_loss,
        settings.max_overabstention,
        settings.max_neurons,
        settings.caution,
        settings.max_bias_rise,
        settings.max_fact_loss,
        settings.max_spillover,
    )


def searched_aside(tasks: Sequence[Task], settings: RunSettings) -> AskedAside:
    """The questions on side effects that the search of these settings asks."""
    return asked_aside(tasks, limits_of(settings), settings.seed) if settings.search == "tuned" else AskedAside()


def attribution_sample(task: Task, settings: RunSettings | ScoreSettings) -> tuple[Example, ...]:
    """Draw the examples to attribute on from the attribution split.

    Raises:
        InputError: too few templates, or fewer examples than the user asked for.
    """
    _check_asked_for(task, settings)
    check_attributable(task)
    return draws(attribution_candidates(task, settings), settings.examples, seeds_of(settings), settings.sampling)


def attribution_candidates(task: Task, settings: RunSettings | ScoreSettings) -> tuple[Example, ...]:
    """All examples of the attribution split that may be attributed on."""
    return candidates_of(task, settings.attribute_on, settings.seed, _split_by(settings))


def seeds_of(settings: RunSettings | ScoreSettings) -> tuple[int, ...]:
    """Seeds of the draws of attribution examples."""
    return settings.seeds or (settings.seed,)


def _split_by(settings: RunSettings | ScoreSettings) -> SplitBy:
    return settings.split_by if isinstance(settings, RunSettings) else "template"


def _check_asked_for(task: Task, settings: RunSettings | ScoreSettings) -> None:
    """Refuse what the user has asked for and the task does not have; defaults take what there is.

    Raises:
        InputError: it says which option.
    """
    if task.measured_only:  # drawing says what to do
        return
    if _split_by(settings) == "template":
        check_templates(task)
    split = split_of(task, settings.seed, _split_by(settings)).attribution
    given = settings.model_fields_set
    if "attribute_on" in given and not of_condition(split, settings.attribute_on):
        raise InputError(
            f"the attribution split of task {task.name} has no {settings.attribute_on} examples; leave --attribute-on "
            "away, or add such examples"
        )
    there = len(attribution_candidates(task, settings))
    if "examples" in given and there < settings.examples:
        raise InputError(
            f"{settings.examples} examples to attribute on were asked for, but the attribution split of task "
            f"{task.name} has {there}; lower --examples, leave it away to take what there is, or add examples"
        )


def test_sample(
    task: Task, examples: Sequence[Example], settings: RunSettings | EvaluateSettings
) -> tuple[Example, ...]:
    """Draw the examples that results are measured on."""
    size = len(examples) if settings.test_examples == "all" else settings.test_examples
    return draw(task, examples, size, settings.seed)


def made_on(parts: Iterable[Parts], aside: AskedAside) -> tuple[str, ...]:
    """Hashes of all templates that an edit of these parts is fitted or chosen on."""
    searched_on = [*(part.searched_on for part in parts), aside.examples]
    return template_hashes(example for examples in searched_on for example in examples)


def without_searched(subjects: Sequence[Subject], searched: Iterable[str], progress: Progress) -> list[Subject]:
    """What is measured, without questions that a search has used; it says how many are left out.

    That concerns kinds of ``builtin:everyday`` that an edit is not made for. Of other tasks `check_held_out` refuses
    such questions.

    Args:
        subjects: What is to be measured.
        searched: Hashes of templates.
        progress: It is said there.
    """
    hashes, kept = frozenset(searched), list(subjects)
    for place, subject in enumerate(subjects):
        if not isinstance(subject, TaskSubject):
            continue
        left = tuple(example for example in subject.examples if template_hash(example.template) not in hashes)
        if (count := len(subject.examples) - len(left)) and left:
            kept[place] = replace(subject, examples=left)
            progress.say(f"{subject.name}: {count} questions that a search has used are not measured")
    return kept


def seen(examples: Iterable[Example], made_on: Iterable[str]) -> int:
    """How many of the examples are of templates with these hashes, so that they are not held out."""
    hashes = frozenset(made_on)
    return sum(template_hash(example.template) in hashes for example in examples)


def check_held_out(subjects: Iterable[Subject], made_on: Iterable[str], advice: str) -> None:
    """Check that nothing is measured on templates that an edit was fitted or chosen on.

    Args:
        subjects: What is measured.
        made_on: Hashes of the edit's templates.
        advice: What the user can do.

    Raises:
        InputError: there are such examples; it says how many.
    """
    for subject in subjects:
        if isinstance(subject, TaskSubject) and (count := seen(subject.examples, made_on)):
            raise InputError(
                f"{count} of the {len(subject.examples)} questions to be measured of task {subject.name} are of "
                f"templates that the edit is fitted or chosen on, so they are not held out; {advice}"
            )


def fits(task: Task, examples: Sequence[Example]) -> Callable[[Reader], None]:
    """The check that examples fit a model."""
    return lambda reader: check_prompts(reader, examples, task.instructions)


@dataclass(frozen=True)
class Needs:
    """What a model is loaded for.

    Attributes:
        checks: Checks that every prompt fits it.
        probe: A task and examples that decide on the number format that answers are measured in.
        twice: Whether the edited model will be loaded beside it.
    """

    checks: Sequence[Callable[[Reader], None]] = ()
    probe: tuple[Task, Sequence[Example]] | None = None
    twice: bool = False


def load(
    model: str,
    settings: ModelSettings,
    needs: Needs,
    timings: Timings,
    progress: Progress,
) -> LanguageModel:
    """Open the model, check that every prompt fits it, and only then read the weights.

    Args:
        model: As the user named it.
        settings: How it is loaded.
        needs: What it is loaded for.
        timings: Seconds are added to "load".
        progress: Shows that it loads.
    """
    if settings.deterministic:
        make_deterministic()
    check_device(settings.device)
    if settings.device in SPREAD and ranks() > 1:
        raise InputError(
            f"device {settings.device} spreads one model over all accelerators, so one process uses them all; start it "
            "without torchrun, or give each process an accelerator with --device cuda"
        )
    check_quantize(settings.quantize)
    _say_emulated(settings, progress)
    moment = on_first(lambda: settings.prompt_date or datetime.now())  # the same in every process
    with timings.of("load"), progress.step(f"Loading {model}"):
        source: ModelSource = open_model(
            model,
            trust_remote_code=settings.trust_remote_code,
            prompt_format=settings.prompt_format,
            moment=moment,
        )
        for check in needs.checks:
            check(source)
        lm = source.load(
            settings.dtype,
            settings.device,
            allow_pickle=settings.allow_pickle,
            quantize=settings.quantize,
            twice=needs.twice and settings.quantize == "none",
        )
    if lm.device.type == "cpu":
        recorded = _recorded_threads(settings)
        progress.say(set_threads(settings.threads, recorded, fixed=settings.deterministic))
    if isinstance(settings, ReportSettings) and needs.probe is not None:
        task, examples = needs.probe
        prompts = encode_all(lm, sample(examples, PROBED_PROMPTS, settings.seed), task.instructions[0])
        choose_evaluation_dtype(lm, settings.evaluation_dtype, prompts)
    return lm


def _say_emulated(settings: ModelSettings, progress: Progress) -> None:
    """Name a number format that the processor has no instructions for."""
    if settings.dtype == "auto" or settings.device in SPREAD:
        return
    device = parse_device("auto" if settings.device in PLACES else settings.device)
    if device.type == "cpu" and not computes(DTYPES[settings.dtype], device):
        progress.say(
            f"This processor has no instructions for {settings.dtype} and emulates them, which takes many times as "
            "long as float32; --dtype auto takes float32 here"
        )


def _recorded_threads(settings: ModelSettings) -> int | None:
    """Threads of the run in the output folder, if it is resumed."""
    if not isinstance(settings, FolderSettings) or settings.overwrite:
        return None
    folder = (ComparisonFolder if isinstance(settings, CompareSettings) else RunFolder)(settings.output)
    try:
        found = read_object(folder.run).get("threads")
    except InputError:  # there is none, or one that `JobFolder.start` refuses
        return None
    return found if isinstance(found, int) and found > 0 else None


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        CrisprError: it can't be read.
    """
    try:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CrisprError(f"{path} can't be read ({error.strerror or error})") from error
