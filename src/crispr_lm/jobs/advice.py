"""What is said of questions before the work: what there is, what is missing, how wide intervals will be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crispr_lm.errors import InputError
from crispr_lm.evaluation.suite import TaskSubject
from crispr_lm.jobs.question_check import SPLITS, precision
from crispr_lm.metrics.statistics import FEWEST_CLUSTERS
from crispr_lm.report.precision import needed_sentence, width_sentence
from crispr_lm.report.words import left_out
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.base import Example, Task
from crispr_lm.tasks.everyday import everyday_templates
from crispr_lm.tasks.findings import words
from crispr_lm.tasks.lacks import lacks
from crispr_lm.tasks.languages import ENGLISH
from crispr_lm.tasks.parts import Parts, attribution_candidates, split_of
from crispr_lm.tasks.registry import language_of

OWN = "choices:"
"""Tasks whose file the user has made; others are what they are."""


def say_lacks(tasks: Iterable[Task], progress: Progress) -> None:
    """Say what files of the user's own lack and how to add it; of others, which rows do not count."""
    for task in tasks:
        if not task.name.startswith(OWN):
            whole = TaskSubject(task, task.examples).described("sum") | {"examples": len(task.examples)}
            for sentence in left_out(whole):
                progress.say(f"{task.name}: {sentence}")
        for sentence in lacks_of(task):
            progress.say(f"{task.name}: {sentence}")


def lacks_of(task: Task) -> list[str]:
    """What a file of the user's own lacks, what that switches off, and how to add it: a sentence each."""
    return [f"{found.found}; {found.advice}" for found in lacks(task.examples)] if task.name.startswith(OWN) else []


def say_sizes(parts: Iterable[Parts], settings: RunSettings, progress: Progress) -> None:
    """Say once of every task where it has fewer examples than defaults ask for, or few templates in the test split."""
    for part in parts:
        for sentence in (*_fewer(part, settings), *_few_templates(part.task, part.test, settings.seed)):
            progress.say(f"{part.task.name}: {sentence}")


def used_up(parts: Iterable[Parts], settings: RunSettings) -> list[str]:
    """The splits ("attribution", "validation") of which no task has a question left that a larger size would take."""
    left = {"attribution": 0, "validation": 0}
    for part in parts:
        used = set(map(id, part.searched_on))
        there = {
            "attribution": attribution_candidates(part.task, settings.attribute_on, settings.seed, settings.split_by),
            "validation": split_of(part.task, settings.seed, settings.split_by).validation,
        }
        for name, examples in there.items():
            left[name] += sum(id(example) not in used for example in examples)
    return [name for name, count in left.items() if not count]


def check_templates(task: Task) -> None:
    """Refuse a task that can't be split, with what it takes and what there is instead.

    Raises:
        InputError: fewer than three templates.
    """
    count = len({example.template for example in task.examples})
    if count < SPLITS:
        needed = needed_sentence(precision(task, 0))
        raise InputError(
            f"task {task.name} has fewer than {SPLITS} templates ({count}), too few for disjoint attribution, "
            f"validation and test splits; {needed[0].lower()}{needed[1:]}. Add situations (crispr-lm questions new "
            "writes a template file to begin with), or give near-copies a common 'group' and different questions "
            f"different ones{_instead(task.examples)} (crispr-lm evaluate --split all needs no split)"
        )


def _fewer(part: Parts, settings: RunSettings) -> list[str]:
    """One sentence on the sizes that are smaller than their defaults, if any is."""
    test = len(part.test) if settings.test_examples == "all" else settings.test_examples
    validation = len(part.validation) if settings.validation_examples == "all" else settings.validation_examples
    draws = len(settings.seeds or (settings.seed,))  # of one size, one after the other
    sizes = (
        ("to attribute on" + (" in each draw" if draws > 1 else ""), len(part.attribution) // draws, settings.examples),
        ("to choose the edit on", len(part.validation), validation),
        ("to measure it on", len(part.test), test),
    )
    if all(there >= asked for _, there, asked in sizes):
        return []
    given = ", ".join(f"{there} {name} (of up to {asked})" for name, there, asked in sizes)
    return [f"{len(part.task.examples):,} questions, so all there are in each split are taken: {given}"]


def _few_templates(task: Task, test: Sequence[Example], seed: int) -> list[str]:
    """How wide intervals will be, and what to do, where that is for few templates."""
    if len({example.template for example in test}) >= FEWEST_CLUSTERS:
        return []
    found = precision(task, seed)
    return [f"{width_sentence(found)}. {needed_sentence(found)}; add some{_instead(task.examples)}"]


def _instead(examples: Sequence[Example]) -> str:
    """Built-in questions to go on with: those of the same kind, where the category's words name one.

    They are English, and no help to whoever has questions in another language.
    """
    if language_of(examples) != ENGLISH:
        return ""
    kinds = sorted({template.category for template in everyday_templates().templates})
    said = {word for example in examples for word in words(example.category.replace("_", " "))}
    same = [kind for kind in kinds if said & set(words(kind.replace("_", " ")))]
    if same:
        return f", or go on now with built-in questions of the same kind: --task builtin:everyday:{same[0]}"
    return f", or go on now with built-in questions: --task builtin:everyday:KIND, KIND being {', '.join(kinds)}"
