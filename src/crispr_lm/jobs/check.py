"""Check a model against rules: the questions are asked once, and every rule is decided.

Mistakes in rules, data and baseline show before any weights are read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crispr_lm.errors import InputError
from crispr_lm.evaluation.decisions import Decision, Levels, decide
from crispr_lm.evaluation.evaluation import Evaluation, evaluation_of
from crispr_lm.evaluation.results import question_row
from crispr_lm.evaluation.rules import RuleSource, read_rules, task_names
from crispr_lm.evaluation.sealed_rules import family_asked, metric_asked
from crispr_lm.evaluation.suite import TaskSubject, group_map
from crispr_lm.jobs.preparation import Needs, Timings, load
from crispr_lm.metrics.family import MetricFamily
from crispr_lm.other_settings import CheckSettings
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.storage.asked import SIDE, Key, question_key, read_stored
from crispr_lm.storage.files import write_json, write_lines
from crispr_lm.storage.output_path import check_output_file
from crispr_lm.storage.sanitize import without_folders
from crispr_lm.tasks.parts import checked_sample
from crispr_lm.tasks.registry import load_task, path_of
from crispr_lm.version import __version__

FORMAT, VERSION = "crispr-lm-check", 1

EXIT = {"holds": 0, "fails": 1, "undecided": 3}
"""Exit status by outcome. 2 is a mistake in the command, its rules or its data."""


@dataclass(frozen=True)
class Outputs:
    """Files that a check writes: its result as JSON, and the model's answers for a later check to compare with."""

    result: Path | None = None
    answers: Path | None = None


@dataclass(frozen=True)
class _Asked:
    """A task of the rules: what is measured, how, and its figures' formulas."""

    subject: TaskSubject
    scoring: Any
    family: MetricFamily


def check(
    model: str, settings: CheckSettings, outputs: Outputs | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Decide every rule of a file for a model.

    Args:
        model: As for `crispr_lm.load_model`.
        settings: The rules, the baseline, and how models are loaded.
        outputs: Files to write.
        progress: Shows how far it is.

    Returns:
        ``outcome`` ("holds": every rule does; "fails": one does not; else "undecided"), ``exit`` (its status),
        ``rules`` (a `Decision` each), ``tasks`` (what was asked, and all figures), and what was checked.

    Raises:
        InputError: rules, data, baseline or an output file can't be used; no weights are read then.
    """
    outputs, progress = outputs or Outputs(), progress or SilentProgress()
    for path in (outputs.result, outputs.answers):
        if path is not None:
            check_output_file(path)
    source = read_rules(settings.rules)
    asked = _tasks(source, settings)
    metrics = [metric_asked(rule, asked[rule.task].subject, asked[rule.task].family) for rule in source.rules.rules]
    compared = any(rule.form == "loses_at_most" for rule in source.rules.rules)
    if compared and settings.baseline is None:
        raise InputError(f"rules {source.name} limit what is lost against a baseline; give one with --baseline")
    if settings.baseline is not None and not compared:
        raise InputError(f"rules {source.name} do not use a baseline; leave --baseline away")
    before = None if settings.baseline is None else _stored(path_of(settings.baseline), asked)
    measured = _measured(model, asked, settings, progress)
    if settings.baseline is not None and before is None:
        before = measured if settings.baseline == model else _measured(settings.baseline, asked, settings, progress)
    rules = source.rules
    decisions = []
    for rule, metric in zip(rules.rules, metrics, strict=True):
        levels = Levels(rule.confidence or rules.confidence, len(rules.rules), settings.seed)
        of_baseline = None if before is None else before[rule.task]
        decisions.append(decide(rule, metric, measured[rule.task], of_baseline, levels))
    result = _result(model, settings, source, asked, measured, decisions)
    if outputs.answers is not None:
        write_lines(outputs.answers, _answer_rows(asked, measured))
    if outputs.result is not None:
        write_json(outputs.result, result)
    return result


def _tasks(source: RuleSource, settings: CheckSettings) -> dict[str, _Asked]:
    """What is measured, by the names of the file."""
    found, specs = {}, task_names(source, settings.task)
    groups = group_map(settings.groups, specs.values())
    for name, spec in specs.items():
        of_file = source.rules.tasks[name]
        instructions = of_file.instructions
        if isinstance(instructions, str) and not instructions.isdecimal() and source.folder is not None:
            instructions = str(source.folder / instructions)
        task = load_task(spec, instructions, groups)
        wanted = settings.questions or of_file.questions
        size = len(task.examples) if wanted == "all" else wanted
        subject = TaskSubject(task, checked_sample(task, size, settings.seed))
        scoring = subject.scoring(of_file.scoring)
        found[name] = _Asked(subject, scoring, family_asked(subject, scoring))
    return found


def _measured(
    model: str, asked: Mapping[str, _Asked], settings: CheckSettings, progress: Progress
) -> dict[str, Evaluation]:
    """The evaluation of every task; the model is let go afterwards, so that a baseline finds its memory free."""
    lm = load(model, settings, Needs([one.subject.check for one in asked.values()]), Timings(), progress)
    with progress.step(f"Asking {model}", sum(one.subject.steps for one in asked.values())) as advance:
        return {name: one.subject.measure(lm, one.scoring, settings.batch_size, advance) for name, one in asked.items()}


def _stored(path: Path, asked: Mapping[str, _Asked]) -> dict[str, Evaluation] | None:
    """The evaluations that a file of stored answers holds; None where the baseline is no such file.

    Raises:
        InputError: an answer is missing.
    """
    if path.suffix != ".jsonl":
        return None
    if not path.is_file():
        raise InputError(f"baseline {path} does not exist; give a model, or answers that crispr-lm check has stored")
    stored = read_stored(path)
    found = {}
    for name, one in asked.items():
        keys = [question_key(question_row(example)) for example in one.subject.examples]
        of_task = stored.get(name, {})
        missing = sum(key not in of_task for key in keys)
        if missing:
            raise InputError(
                f"baseline {path}: {missing} of the {len(keys)} questions of task {name} have no answer in it; make it "
                "with the same rules, data, --questions and --seed"
            )
        found[name] = evaluation_of(one.subject.examples, _tables(path, one, keys, of_task), one.family)
    return found


def _tables(path: Path, one: _Asked, keys: Sequence[Key], stored: Mapping[Key, Any]) -> list[torch.Tensor]:
    """Scores (questions, options) per instruction; -inf where there is none."""
    options = max(len(example.options) for example in one.subject.examples)
    tables = []
    for instruction in one.subject.task.instructions:
        table = np.full((len(keys), options), -math.inf)
        for row, key in enumerate(keys):
            scores = stored[key].get(instruction)
            if scores is None:
                raise InputError(
                    f"baseline {path}: its answers of task {one.subject.name} were given under other instructions; "
                    "make it with the same rules"
                )
            table[row, : len(scores)] = [-math.inf if score is None else score for score in scores]
        tables.append(torch.from_numpy(table))
    return tables


def _answer_rows(asked: Mapping[str, _Asked], measured: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    rows = []
    for name, one in asked.items():
        for index, example in enumerate(one.subject.examples):
            scores = [table[index, : len(example.options)].tolist() for table in measured[name].option_scores]
            rows.append(
                {
                    "task": name,
                    "family": one.subject.task.family,
                    "source": without_folders(example.source),
                    **question_row(example),
                    "facets": dict(example.facets),
                    "instructions": list(one.subject.task.instructions),
                    "scores": {SIDE: [[None if math.isinf(score) else score for score in table] for table in scores]},
                }
            )
    return rows


def _name(model: str) -> str:
    """A model as others may read it: a local one without its folders."""
    return without_folders(model) if Path(model).exists() else model


def _result(
    model: str,
    settings: CheckSettings,
    source: RuleSource,
    asked: Mapping[str, _Asked],
    measured: Mapping[str, Evaluation],
    decisions: Sequence[Decision],
) -> dict[str, Any]:
    outcomes = {decision.outcome for decision in decisions}
    outcome = "fails" if "fails" in outcomes else "undecided" if "undecided" in outcomes else "holds"
    tasks = {}
    for name, one in asked.items():
        found = measured[name]
        tasks[name] = {
            "task": one.subject.name,
            "questions": len(found.clusters),
            "templates": len(set(found.clusters)),
            "questions_there": len(one.subject.task.examples),
            "templates_there": len({example.template for example in one.subject.task.examples}),
            "instructions": len(one.subject.task.instructions),
            **one.subject.described(one.scoring),
            "metrics": found.metrics,
        }
    return {
        "format": FORMAT,
        "version": VERSION,
        "crispr_lm": __version__,
        "model": _name(model),
        "baseline": None if settings.baseline is None else _name(settings.baseline),
        "rules_file": without_folders(source.name),
        "rules_sha256": hashlib.sha256(source.text.encode("utf-8")).hexdigest(),
        "seed": settings.seed,
        "outcome": outcome,
        "exit": EXIT[outcome],
        "rules": [decision.to_dict() for decision in decisions],
        "tasks": tasks,
    }
