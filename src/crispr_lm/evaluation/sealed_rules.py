"""Rules that are sealed with a measurement: what of it each is about, and how it is decided from the answers.

The decision is that of a check (`crispr_lm.evaluation.decisions`). Knows measurements; knows no model and no folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from crispr_lm.errors import InputError
from crispr_lm.evaluation.decisions import Decision, Levels, decide
from crispr_lm.evaluation.evaluation import ScoringMethod
from crispr_lm.evaluation.recomputed import Measured
from crispr_lm.evaluation.rules import Rule, RuleSource, metric_of
from crispr_lm.evaluation.suite import Subject, TaskSubject
from crispr_lm.metrics.family import Metric, MetricFamily, with_unmatched
from crispr_lm.metrics.registry import family_named
from crispr_lm.storage.sanitize import without_folders

NUMBERED = re.compile(r" \(\d+\)(?=\.|$)")
"""What `shared_names` adds to the second of two tasks whose files are called alike."""


class Matched(NamedTuple):
    """A rule, its metric, and the name of what is measured that it is about."""

    rule: Rule
    metric: Metric
    name: str


def family_asked(subject: TaskSubject, scoring: ScoringMethod) -> MetricFamily:
    """The metrics of a task, with that of generated answers where they are generated."""
    family = family_named(subject.task.family)
    return with_unmatched(family) if scoring == "generate" else family


def metric_asked(rule: Rule, subject: TaskSubject, family: MetricFamily) -> Metric:
    """The metric of a rule, which the questions that are asked must have a part in.

    Raises:
        InputError: as `metric_of`, or they have none.
    """
    metric = metric_of(rule, subject.task, family)
    options = max(len(example.options) for example in subject.examples)
    columns = family.columns(subject.examples, np.zeros((len(subject.examples), options)))
    if any(name not in columns for name in metric.columns):
        raise InputError(
            f"rule {rule.metric}: the {len(subject.examples)} questions drawn of task {subject.name} have no part in "
            "this metric (no condition, or no unknown or stereotyped option); leave the rule out, or draw more"
        )
    return metric


def matched(source: RuleSource, subjects: Sequence[Subject], scoring: ScoringMethod) -> list[Matched]:
    """What of a measurement each rule is about. Questions and instructions are those of the measurement.

    Args:
        source: The rules.
        subjects: What is measured.
        scoring: How options are compared, where a benchmark does not say so.

    Raises:
        InputError: a task or a metric of the rules is not measured, or the task is scored in another way.
    """
    asked = {name: _subject(source, name, subjects) for name in source.rules.tasks}
    for name, subject in asked.items():
        of_file = source.rules.tasks[name]
        there = subject.scoring(scoring)
        if "scoring" in of_file.model_fields_set and subject.scoring(of_file.scoring) != there:
            raise InputError(
                f"rules {source.name}: task {name} has scoring {of_file.scoring!r}, and it is measured with {there!r}; "
                "give both the same"
            )
    found = []
    for rule in source.rules.rules:
        subject = asked[rule.task]
        metric = metric_asked(rule, subject, family_asked(subject, subject.scoring(scoring)))
        found.append(Matched(rule, metric, subject.name))
    return found


def _subject(source: RuleSource, name: str, subjects: Sequence[Subject]) -> TaskSubject:
    """The only thing measured that a task of the rules can mean: by its name without folders, or by its kind."""
    task = source.rules.tasks[name].task
    short, of_kind = without_folders(task), task.endswith(":")
    tasks = [subject for subject in subjects if isinstance(subject, TaskSubject)]
    fitting = [
        subject
        for subject in tasks
        if (subject.name.startswith(task) if of_kind else NUMBERED.sub("", subject.name) == short)
    ]
    if len(fitting) != 1:
        raise InputError(
            f"rules {source.name}: task {name} ({task}) is {'more than one' if fitting else 'none'} of those measured "
            f"here, which are {', '.join(subject.name for subject in tasks)}; name one of them in the rules, or "
            "measure it with --task or --measure"
        )
    return fitting[0]


def decided(source: RuleSource, measured: Measured, scoring: ScoringMethod, seed: int) -> list[dict[str, Any]]:
    """The decision about each rule, as JSON types: of the edited model where an edit was measured.

    A loss is measured against the unedited model. Without an edit there is no baseline, and the outcome of such a rule
    is "not decidable".

    Args:
        source: The rules.
        measured: Measurements made again from the answers.
        scoring: As in `matched`.
        seed: Of the resamples.

    Raises:
        InputError: as `matched`.
    """
    rules, found = source.rules, []
    for rule, metric, name in matched(source, measured.subjects, scoring):
        before, after = measured.before[name], measured.after.get(name)
        levels = Levels(rule.confidence or rules.confidence, len(rules.rules), seed)
        if after is not None:
            decision = decide(rule, metric, after, before, levels)
        elif rule.form != "loses_at_most":
            decision = decide(rule, metric, before, None, levels)
        else:
            decision = Decision(
                rule.metric, rule.form, rule.limit, "not decidable", before[metric.name], None, None, None, None,
                levels.confidence, len(set(before.clusters)), reason="no edit was measured, so there is no baseline",
            )  # fmt: skip
        found.append(decision.to_dict())
    return found
