"""The difference between two logs of the same questions: paired, with interval and test, and by kind of question.

Both must be of one tool: ours, lm-eval, or Inspect, for only then is it known which questions are the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crispr_lm.errors import InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.metrics.family import Columns, Metric, MetricFamily, ratio
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.registry import family_named
from crispr_lm.metrics.statistics import FEWEST_CLUSTERS, corrected_over_tasks
from crispr_lm.storage.asked import question_key, read_side
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.sanitize import names_apart
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.logs.answers import Answer, is_own, read_answer_log
from crispr_lm.tasks.registry import path_of

SIDES = ("before", "after")
"""Of a run's answers.jsonl, written behind the file's name and a colon."""

OWN = "crispr-lm"
BROKEN_DOWN = ("accuracy", "accuracy_ambiguous", "accuracy_disambiguated")
"""Metrics by condition and category, beside a family's headline: all of them would be a table of hundreds of rows."""

BIAS_SCORES = tuple(metric for metric in QUESTION_ANSWERING.metrics if metric.name.startswith("bias_score_"))
"""Of lm-eval's BBQ tasks, too: no mean over questions."""

BBQ_BIASES = ("amb_bias_score", "disamb_bias_score")
"""How lm-eval names them, and with a category behind it those of each."""

Pair = Callable[[Sequence[int]], tuple[Measurement, Measurement]]
"""From places of questions to both measurements of these."""


@dataclass(frozen=True)
class _Common:
    """The questions that both logs hold, of one task.

    Attributes:
        clusters: Their templates.
        facets: "condition" and "category" to the value of each question; an empty string where it is not known.
        pair: Measures some of them.
        only: Places of the questions that one log alone holds, of the first and the second.
        notes: What else the reader must know, as it stands in the result.
    """

    clusters: Sequence[Hashable]
    facets: Mapping[str, Sequence[str]]
    pair: Pair
    only: tuple[list[str], list[str]]
    notes: Mapping[str, Any] = field(default_factory=dict)


def difference(first: str, second: str, cluster: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Compare two logs of the same questions; differences are second minus first.

    Args:
        first: A run's folder or ``answers.jsonl`` (``:before`` behind it for the unedited model), answers that
            ``crispr-lm check --answers`` has stored, samples of lm-eval, or a log of Inspect.
        second: Another one, of the same tool.
        cluster: Field of other tools' documents that names a question's template.
        seed: Of resamples and permutations.

    Raises:
        InputError: a log can't be read, they are of two tools, or have no question in common.
    """
    paths = [_located(name) for name in (first, second)]
    own = [is_own(path) for path, _ in paths]
    if all(own):
        if cluster is not None:
            raise InputError("--cluster names a field of other tools' logs; our answers have templates, leave it away")
        kind, tasks, alone = OWN, *_own_tasks(paths)
    elif any(own):
        raise InputError(f"{first} and {second} are logs of two tools; give two of one tool")
    else:
        kind, tasks = _other_tasks([path for path, _ in paths], cluster)
        alone = ([], [])
    found = {name: _compared(common, seed) for name, common in tasks.items()}
    _correct(found, "metrics")
    names = names_apart(first, second)
    return {
        "format": "crispr-lm-difference",
        "version": 1,
        "kind": kind,
        "a": names[0],
        "b": names[1],
        "tasks": found,
        "tasks_only_a": alone[0],
        "tasks_only_b": alone[1],
    }


def _located(name: str) -> tuple[Path, str | None]:
    """The file that a name means, and the side of a run's answers."""
    stem, _, side = name.rpartition(":")
    path = path_of(stem if stem and side in SIDES else name)
    if path.is_dir():
        path /= "answers.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: not there; give a log, or the folder of a finished run")
    return path, side if stem and side in SIDES else None


def _own_tasks(
    paths: Sequence[tuple[Path, str | None]],
) -> tuple[dict[str, _Common], tuple[list[str], list[str]]]:
    """Of our answers: the tasks that both hold, and the names of those that one does."""
    logs = []
    for path, side in paths:
        by_task: dict[str, dict[Hashable, dict[str, Any]]] = defaultdict(dict)
        times: Counter[Hashable] = Counter()
        for row in read_side(path, side):
            asked = (row["task"], question_key(row))
            times[asked] += 1
            key = (asked, times[asked])  # a file may ask the same twice
            by_task[row["task"]][key] = row
        logs.append(by_task)
    common = [name for name in logs[0] if name in logs[1]]
    tasks = {}
    for name in common:
        notes = {"instructions_differ": _instructions_differ(paths, name, [log[name] for log in logs])}
        tasks[name] = _own_common(logs[0][name], logs[1][name], _family(paths, name, logs[0][name]), notes)
    if not tasks:
        raise InputError(f"{paths[0][0]} and {paths[1][0]} have no task in common: {', '.join(logs[0])} in the first, "
                         f"{', '.join(logs[1])} in the second")  # fmt: skip
    alone = ([name for name in logs[0] if name not in common], [name for name in logs[1] if name not in common])
    return tasks, alone


def _family(
    paths: Sequence[tuple[Path, str | None]], task: str, rows: Mapping[Hashable, Mapping[str, Any]]
) -> MetricFamily:
    """A task's metrics: a check stores their name with the answers, a run in the results beside them."""
    name = next(iter(rows.values())).get("family")
    if name is None:
        results = read_object(paths[0][0].parent / "results.json")
        described = results.get("tasks", {}).get(task, {})
        name = described.get("family") if isinstance(described, Mapping) else None
    if not isinstance(name, str):
        raise InputError(f"{paths[0][0]}: which metrics task {task} has is not known; keep results.json beside it")
    return family_named(name)


def _own_common(
    first: Mapping[Hashable, dict[str, Any]],
    second: Mapping[Hashable, dict[str, Any]],
    family: MetricFamily,
    notes: Mapping[str, Any],
) -> _Common:
    keys = _shared_keys(first, second)
    examples = [_example(first[key]) for key in keys]
    tables = [
        [_scores([log[key] for key in keys], number) for number in range(_instructions(log))] for log in (first, second)
    ]
    if len(tables[0]) != len(tables[1]):
        raise InputError(
            f"the answers were given under {len(tables[0])} and {len(tables[1])} instructions; both must have as many"
        )

    def pair(places: Sequence[int]) -> tuple[Measurement, Measurement]:
        chosen = [examples[place] for place in places]
        clusters = [example.template for example in chosen]
        a, b = (
            Measurement.of(family, [family.columns(chosen, table[list(places)]) for table in of_log], clusters)
            for of_log in tables
        )
        return a, b

    facets = {
        "condition": [example.condition or "" for example in examples],
        "category": [example.category for example in examples],
    }
    only = tuple([str(log[key].get("source", "")) for key in log if key not in other]
                 for log, other in ((first, second), (second, first)))  # fmt: skip
    return _Common([example.template for example in examples], facets, pair, (only[0], only[1]), notes)


def _instructions_differ(
    paths: Sequence[tuple[Path, str | None]], task: str, logs: Sequence[Mapping[Hashable, Mapping[str, Any]]]
) -> bool | None:
    """Whether a task's answers were given under other instructions; None where that is not known of both logs.

    A check stores instructions with the answers, a run in the seal beside them. Their order does not matter: figures
    are means over them.
    """
    if paths[0][0] == paths[1][0]:
        return False
    texts = []
    for (path, _), rows in zip(paths, logs, strict=True):
        found = next(iter(rows.values())).get("instructions")
        if found is None:
            with suppress(InputError, *MALFORMED):
                found = read_object(path.parent / "sealed.json")["content"]["measured"][task]["instructions"]
        texts.append(None if found is None else sorted(map(str, found)))
    return None if None in texts else texts[0] != texts[1]


def _instructions(log: Mapping[Hashable, Mapping[str, Any]]) -> int:
    return min(len(row["tables"]) for row in log.values())


def _scores(rows: Sequence[Mapping[str, Any]], instruction: int) -> np.ndarray[Any, Any]:
    """float64 (questions, options) under one instruction; -inf where there is no score."""
    table = np.full((len(rows), max(len(row["options"]) for row in rows)), -math.inf)
    for number, row in enumerate(rows):
        scores = row["tables"][instruction]
        table[number, : len(scores)] = [-math.inf if score is None else score for score in scores]
    return table


def _example(row: Mapping[str, Any]) -> Example:
    return Example(
        context=row["context"],
        question=row["question"],
        options=tuple(row["options"]),
        answer=row["answer"],
        template=row["template"],
        condition=row.get("condition"),
        unknown=row.get("unknown"),
        stereotyped=row.get("stereotyped"),
        category=row.get("category") or "",
        facets=tuple(row.get("facets", {}).items()),
        language=row.get("language", "en"),
    )


def _other_tasks(paths: Sequence[Path], cluster: str | None) -> tuple[str, dict[str, _Common]]:
    """Of two logs of another tool."""
    (kind, first), (other, second) = (read_answer_log(path, cluster) for path in paths)
    if kind != other:
        raise InputError(f"{paths[0]} is a log of {kind}, {paths[1]} of {other}; give two of one tool")
    a, b = ({answer.key: answer for answer in log} for log in (first, second))
    keys = _shared_keys(a, b)
    answers = [(a[key], b[key]) for key in keys]
    names = dict.fromkeys(name for one, two in answers for name in one.values if name in two.values)
    if not names:
        raise InputError(f"{paths[0]} and {paths[1]} have no metric in common; give logs of the same task")
    means = tuple(Metric(name, name, (f"sum {name}", f"count {name}"), ratio, "neither", extent=None) for name in names)
    bias = BIAS_SCORES if all(answer.bias is not None for both in answers for answer in both) else ()
    family = MetricFamily(name="log", metrics=(*means, *bias), headline=next(iter(names)))

    def pair(places: Sequence[int]) -> tuple[Measurement, Measurement]:
        chosen = [answers[place] for place in places]
        clusters = [one.template for one, _ in chosen]
        one, two = (Measurement.of(family, [_columns(names, chosen, side)], clusters) for side in (0, 1))
        return one, two

    facets = {
        "condition": [one.condition for one, _ in answers],
        "category": [one.category for one, _ in answers],
    }
    only = ([a[key].source for key in a if key not in b], [b[key].source for key in b if key not in a])
    common = _Common([one.template for one, _ in answers], facets, pair, only, _notes(answers, names))
    return kind, {"all": common}


def _notes(answers: Sequence[tuple[Answer, Answer]], names: Mapping[str, None]) -> dict[str, Any]:
    """What is not compared, and what the questions in common differ in."""
    seen = [{name for both in answers for name in (*both[side].values, *both[side].others)} for side in (0, 1)]
    if answers[0][0].bias is not None:  # compared, under our names
        seen = [{name for name in of_log if not name.startswith(BBQ_BIASES)} for of_log in seen]
    return {
        "clustered": any(one.has_template for one, _ in answers),
        "prompts_differ": sum(one.prompt != two.prompt for one, two in answers),
        "no_numbers": sorted((seen[0] & seen[1]) - names.keys()),
        "metrics_only_a": sorted(seen[0] - seen[1]),
        "metrics_only_b": sorted(seen[1] - seen[0]),
    }


def _columns(
    names: Mapping[str, None], chosen: Sequence[tuple[Answer, Answer]], side: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Sums and counts of every metric, over the questions for which both logs have it."""
    columns = {}
    for name in names:
        both = np.array([float(name in one.values and name in two.values) for one, two in chosen])
        columns[f"count {name}"] = both
        columns[f"sum {name}"] = both * np.array([answers[side].values.get(name, 0.0) for answers in chosen])
    return columns | _bias_columns([answers[side] for answers in chosen])


def _bias_columns(answers: Sequence[Answer]) -> Columns:
    """What bias scores are computed from, where the log has it."""
    counts = [answer.bias for answer in answers if answer.bias is not None]
    if len(counts) < len(answers):
        return {}
    right, stereotyped, given = np.array(counts).T
    columns: dict[str, Any] = {}
    for condition in (AMBIGUOUS, DISAMBIGUATED):
        known = np.array([float(answer.condition == condition) for answer in answers])
        columns |= {
            f"known_{condition}": known,
            f"given_{condition}": known * given,
            f"stereotyped_{condition}": known * stereotyped,
            f"right_known_{condition}": known * right,
        }
    return columns


def _shared_keys(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> list[Any]:
    keys = [key for key in first if key in second]
    if not keys:
        raise InputError(
            f"the logs have no question in common ({len(first)} in the first, {len(second)} in the second); give two "
            "logs of the same questions"
        )
    return keys


def _compared(common: _Common, seed: int) -> dict[str, Any]:
    """All figures of the questions in common, and some of them by condition and category."""
    everything = range(len(common.clusters))
    found = _figures(*common.pair(everything), seed)
    breakdown: dict[str, Any] = {}
    for facet, values in common.facets.items():
        members = {value: [place for place in everything if values[place] == value] for value in sorted(set(values))}
        if len(members) < 2:
            continue
        breakdown[facet] = {}
        for value, places in members.items():
            first, second = (_briefly(measured, facet) for measured in common.pair(places))
            breakdown[facet][value or "(none)"] = _figures(first, second, seed)
        _correct(breakdown[facet], "metrics")
    return {**found, **common.notes, "only_a": common.only[0], "only_b": common.only[1], "breakdown": breakdown}


def _briefly(measured: Measurement, facet: str) -> Measurement:
    """The measurement with the metrics of breakdowns alone; within a condition its accuracy is the only one."""
    family = measured.family
    if family.name == "log":
        return measured
    names = {family.headline, *BROKEN_DOWN} - (set(BROKEN_DOWN[1:]) if facet == "condition" else set())
    kept = tuple(metric for metric in family.metrics if metric.name in names)
    return Measurement.of(replace(family, metrics=kept), measured.columns, measured.clusters)


def _figures(first: Measurement, second: Measurement, seed: int) -> dict[str, Any]:
    found = second.differences_from(first, seed)
    labels = {metric.name: metric.label.strip() for metric in first.family.metrics}
    templates = len(set(first.clusters))
    return {
        "questions": len(first.clusters),
        "templates": templates,
        "few_templates": templates < FEWEST_CLUSTERS,
        "metrics": {
            name: {
                "label": labels[name],
                "questions": int(first.columns[0].get(f"count {name}", np.ones(len(first.clusters))).sum()),
                "a": first[name],
                "b": second[name],
                **of_metric.to_dict(),
                "_found": of_metric,
            }
            for name, of_metric in found.items()
            if first[name] is not None and second[name] is not None
        },
    }


def _correct(of_parts: Mapping[str, dict[str, Any]], field: str) -> None:
    """Fill in p-values that hold for all parts (tasks, or values of a facet) together."""
    found = {
        name: {metric: row.pop("_found") for metric, row in part[field].items()} for name, part in of_parts.items()
    }
    for name, of_metrics in corrected_over_tasks(found).items():
        for metric, corrected in of_metrics.items():
            of_parts[name][field][metric] |= corrected.to_dict()
