"""Every answer in a log, as numbers per question: ours, samples of lm-eval, and logs of Inspect.

`reader` takes the failures of a log; this takes all of it, so that two logs of the same questions can be compared.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.files import json_content
from crispr_lm.tasks.jsonl import json_rows
from crispr_lm.tasks.logs.entry import as_text, at
from crispr_lm.tasks.logs.inspect_log import inspect_samples

Key = tuple[str, ...]
"""What makes a question the same in two logs of one tool."""

TEMPLATES = ("template", "group", "question_index")
CONDITIONS = ("condition", "context_condition")
CATEGORIES = ("category", "bias_type", "subject")
"""Fields of a document that may hold these, the likeliest first."""

FILTERS_NONE = ("none", "", "None")
"""How lm-eval names the filter that does nothing."""

TEXTS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""Texts as Inspect's own metrics count them (`value_to_float`): correct, partly, incorrect, no answer, ..."""

BBQ_BIAS = "amb_bias_score"
"""Metric of lm-eval's BBQ tasks whose entry for a question is [right, biased, not "unknown", disambiguated]."""

NOT_METRICS = frozenset({"doc_id", "resps", "filtered_resps", "target", "doc", "arguments", "filter"})
"""Fields of a sample of lm-eval before release 0.4.9, which did not list its metrics."""


@dataclass(frozen=True)
class Answer:
    """One question of a log of another tool.

    Attributes:
        key: What makes it the same question in another log.
        source: File and place.
        template: What it must not be parted from; its own key where the log does not say.
        condition: "ambiguous", "disambiguated" or as the log has it; empty where it does not say.
        category: The same of the kind of question.
        values: Metric to number, over epochs and repeats their mean.
        others: Metrics that are no number here: a text, a list, NaN.
        prompt: Hash of what the model was given, where the log has it beside the question.
        bias: Of lm-eval's BBQ tasks: right, stereotyped, not "unknown", each 0 or 1.
    """

    key: Key
    source: str
    template: Key
    condition: str
    category: str
    values: Mapping[str, float]
    others: frozenset[str] = frozenset()
    prompt: str = ""
    bias: tuple[float, ...] | None = None

    @property
    def has_template(self) -> bool:
        """Whether the log says what it must not be parted from."""
        return self.template != self.key


def is_own(path: Path) -> bool:
    """Whether a file holds answers of this library: of a run, or stored by a check."""
    if path.suffix.lower() != ".jsonl":
        return False
    first = next(json_rows(path, undefined=True), None)
    return first is not None and {"scores", "options", "template"} <= first[1].keys()


def read_answer_log(path: Path, cluster: str | None = None) -> tuple[str, tuple[Answer, ...]]:
    """Which tool a log is of, and its answers.

    Args:
        path: Samples of lm-eval (.jsonl), or a log of Inspect (.eval, .json).
        cluster: Field of a document, or of a sample's metadata, that names its template; recognised by its name if not
            given.

    Raises:
        InputError: the file can't be read, is no such log, holds no numbers, or has no such field.
    """
    if path.suffix.lower() == ".jsonl":
        rows = [(f"{path.name}:{where.rpartition(':')[2]}", row) for where, row in json_rows(path, undefined=True)]
        if not rows or not {"doc", "arguments"} <= rows[0][1].keys():
            raise InputError(f"{path}: neither our answers nor samples of lm-eval (--log_samples); give one of these")
        kind, found = "lm-eval", _merged(_of_lm_eval(rows, path, cluster))
    elif path.suffix.lower() == ".eval" or (path.suffix.lower() == ".json" and _is_inspect(path)):
        kind, found = "Inspect", _merged(_of_inspect(path, cluster))
    else:
        raise InputError(f"{path}: no log that is known; give answers.jsonl, samples of lm-eval, or a log of Inspect")
    if not any(answer.values for answer in found):
        raise InputError(f"{path}: no numbers in it to compare; give a log with metrics of each sample")
    return kind, found


def _is_inspect(path: Path) -> bool:
    content = json_content(path, undefined=True)
    return at(content, "eval") is not None and at(content, "status") is not None


def _of_lm_eval(rows: Iterable[tuple[str, Mapping[str, Any]]], path: Path, cluster: str | None) -> Iterator[Answer]:
    """One for each line: a document has a line for each filter, whose metrics are told apart by its name."""
    for source, row in rows:
        # A hash: a doc_id depends on which part of the data was asked.
        key = (as_text(row.get("doc_hash") or row["doc"]),)
        names = row.get("metrics")
        listed = names if isinstance(names, list) else [name for name in row if name not in NOT_METRICS]
        filtered = as_text(row.get("filter"))
        suffix = "" if filtered in FILTERS_NONE else f" ({filtered})"
        values = {f"{name}{suffix}": _number(row.get(name)) for name in map(str, listed)}
        found = _answer(key, source, row["doc"], values, _cluster_field(row["doc"], cluster, path))
        yield replace(found, prompt=as_text(row.get("prompt_hash") or ""), bias=_bbq_bias(row.get(BBQ_BIAS)))


def _of_inspect(path: Path, cluster: str | None) -> Iterator[Answer]:
    """One for each sample and epoch that has scores."""
    for sample in inspect_samples(path):
        asked = sample.input if isinstance(sample.input, str) else [one.model_dump(mode="json") for one in sample.input]
        if not isinstance(asked, str):  # messages have ids of their own, drawn anew for every run
            asked = json.dumps([[one["role"], one["content"]] for one in asked], ensure_ascii=False, sort_keys=True)
        values: dict[str, float | None] = {}
        for name, score in (sample.scores or {}).items():
            parts = score.value if isinstance(score.value, Mapping) else {"": score.value}
            values |= {f"{name}.{part}" if part else name: _number(value) for part, value in parts.items()}
        metadata = dict(sample.metadata or {})
        source = f"{path.name}: sample {sample.id} epoch {sample.epoch}"
        yield _answer((str(sample.id), asked), source, metadata, values, _cluster_field(metadata, cluster, path))


def _cluster_field(document: Any, cluster: str | None, path: Path) -> str | None:
    """The field that names a document's template, if it has one.

    Raises:
        InputError: the user named one that it does not have.
    """
    if cluster is None:
        return next((name for name in TEMPLATES if at(document, name) is not None), None)
    if at(document, cluster) is None:
        raise InputError(f"{path}: a question has no field {cluster!r}, which --cluster names; check the name")
    return cluster


def _answer(key: Key, source: str, document: Any, values: Mapping[str, float | None], cluster: str | None) -> Answer:
    condition, category = (
        as_text(next((at(document, name) for name in names if at(document, name) is not None), ""))
        for names in (CONDITIONS, CATEGORIES)
    )
    # Numbers of templates start anew in every category.
    template = key if cluster is None else (category, as_text(at(document, cluster)))
    condition = {"ambig": "ambiguous", "disambig": "disambiguated"}.get(condition, condition)
    known = {name: value for name, value in values.items() if value is not None}
    return Answer(key, source, template, condition, category, known, frozenset(values.keys() - known.keys()))


def _number(value: Any) -> float | None:
    """A score as a number; None for what is none."""
    if isinstance(value, str) and value in TEXTS:
        return TEXTS[value]
    if not isinstance(value, (bool, int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return TEXTS.get(str(value).lower())
    return number if math.isfinite(number) else None


def _bbq_bias(entry: Any) -> tuple[float, ...] | None:
    """What lm-eval's BBQ tasks count of an answer: right, stereotyped, not "unknown"."""
    if not isinstance(entry, list) or len(entry) != 4:
        return None
    counts = [_number(value) for value in entry[:3]]
    return None if None in counts else tuple(value for value in counts if value is not None)


def _merged(answers: Iterable[Answer]) -> tuple[Answer, ...]:
    """One answer for each question: the mean of every metric over its epochs, filters and repeats."""
    by_key: dict[Key, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_key[answer.key].append(answer)
    found = []
    for same in by_key.values():
        values: dict[str, list[float]] = defaultdict(list)
        for one in same:
            for name, value in one.values.items():
                values[name].append(value)
        means = {name: sum(of_name) / len(of_name) for name, of_name in values.items()}
        others = frozenset(name for one in same for name in one.others) - means.keys()
        found.append(replace(same[0], values=means, others=others))
    return tuple(found)
