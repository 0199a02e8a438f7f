"""The model card: ``README.md`` beside an edited model, an adapter or an edit, with metadata as the hub reads it.

Reads result dictionaries and an edit, never a model. Every text that comes from data or model is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

from crispr_lm.edits.edit import Edit
from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.registry import ordered_metrics
from crispr_lm.model.origin import ModelOrigin
from crispr_lm.report import words
from crispr_lm.report.statement import statement
from crispr_lm.storage.sanitize import all_visible
from crispr_lm.tasks.registry import Dataset, dataset_of
from crispr_lm.version import __version__

Shared = Literal["folder", "lora", "slim", "edit"]

PAPER = "arxiv:2311.09627"

HEADLINE = (
    "accuracy_ambiguous",
    "accuracy_disambiguated",
    "unknown_rate_disambiguated",
    "abstention_gap",
    "answered_accuracy",
    "bias_score_ambiguous",
    "bias_score_disambiguated",
    "accuracy",
)
"""Metrics that the table shows first, where a task has them; of other families it shows all."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    label: str
    before: str
    after: str
    difference: str
    interval: str
    p_value: str


@dataclass(frozen=True)
class MeasuredTask:
    """A table and what goes with it."""

    name: str
    dataset: Dataset
    role: str
    examples: int
    templates: int
    instructions: int
    rows: tuple[Row, ...]
    over_abstention: str | None


def card(
    what: Shared,
    edit: Edit,
    origin: ModelOrigin,
    results: Mapping[str, Any] | None = None,
    doubt: str | None = None,
    *,
    is_encoder_decoder: bool = False,
) -> str:
    """The card as text, with its metadata block.

    Args:
        what: What lies beside the card.
        edit: The edit that was made.
        origin: Of the base model; its licence is carried over.
        results: What ``results.json`` of the run that found the edit holds; None where nothing was measured.
        doubt: Why what lies beside the card must not be used; None where its check found nothing wrong.
        is_encoder_decoder: For the hub's name of the task that the model does.
    """
    tasks = list(_tasks(results)) if results is not None else []
    environment = jinja2.Environment(
        autoescape=False,  # Markdown, not HTML: every text goes through the filter
        loader=jinja2.FunctionLoader(_asset),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["escaped"] = words.escaped_markdown
    body = environment.get_template("card.md.j2").render(
        what=what,
        edit=edit,
        modules=sorted({neuron.module for neuron in edit.neurons}),
        origin=origin,
        base=origin.hub_id or "the base model",
        called=origin.hub_id or "The base model",
        tasks=tasks,
        results=results,
        statement=None if results is None else statement(results),
        doubt=doubt,
        divergence=None if results is None else results.get("divergence"),
        licenses=sorted({(task.dataset.title, task.dataset.license) for task in tasks}),
        version=__version__,
    )
    data = _metadata(what, origin, tasks, results, is_encoder_decoder)
    return str(ModelCard(f"{_block(data)}\n{body}"))


def _metadata(
    what: Shared, origin: ModelOrigin, tasks: list[MeasuredTask], results: Mapping[str, Any] | None, seq2seq: bool
) -> ModelCardData:
    name = f"{(origin.hub_id or 'model').rpartition('/')[2]}-crispr"
    known: dict[str, Any] = {
        "base_model": origin.hub_id,
        "base_model_relation": None if origin.hub_id is None else "adapter" if what == "lora" else "finetune",
        "license": origin.license,
        "license_name": origin.license_name,
        "license_link": origin.license_link,
        "language": list(origin.languages) or None,
        "library_name": {"lora": "peft", "edit": "crispr-lm"}.get(what, "transformers"),
        "pipeline_tag": None if what == "edit" else "text2text-generation" if seq2seq else "text-generation",
        "tags": list(dict.fromkeys([*origin.tags, "crispr-lm", "debiasing", "bias-neurons", PAPER])),
    }
    given = {key: value for key, value in known.items() if value is not None}
    found = [] if results is None else list(_eval_results(tasks, results["tasks"], "after"))
    if found:
        return ModelCardData(model_name=name, eval_results=found, **given)
    return ModelCardData(**given)


def model_index(name: str, results: Mapping[str, Any], when: str) -> str:
    """The metadata block of a model card that holds figures alone.

    Args:
        name: Of the model.
        results: What ``results.json`` holds.
        when: "before": of the model as it was; "after": of the edited one.
    """
    tasks = [_measured_task(task, content, ()) for task, content in results["tasks"].items()]
    data = ModelCardData(model_name=name, eval_results=list(_eval_results(tasks, results["tasks"], when)))
    return _block(data)


def _block(data: ModelCardData) -> str:
    """The metadata between its marks: names of files and what the base model's card says steer no reader's screen."""
    content = all_visible(data.to_dict())  # type: ignore[no-untyped-call]
    return f"---\n{yaml_dump(content, sort_keys=False).strip()}\n---\n"


def _eval_results(tasks: list[MeasuredTask], content: Mapping[str, Any], when: str) -> Iterator[EvalResult]:
    """A model's figures in the hub's evaluation format."""
    for measured, task in zip(tasks, content.values(), strict=True):
        for metric in _shown(task, when):
            value = task[when].get(metric.name)
            if value is not None:
                yield EvalResult(
                    task_type="question-answering" if measured.role != "text" else "text-generation",
                    dataset_type=measured.dataset.identifier,
                    dataset_name=measured.dataset.title,
                    dataset_config=measured.dataset.part,  # the hub's format joins what has the same type and config
                    metric_type=metric.name,
                    metric_name=metric.label.strip(),
                    metric_value=round(value, 6),
                )


def _tasks(results: Mapping[str, Any]) -> Iterator[MeasuredTask]:
    for name, task in results["tasks"].items():
        yield _measured_task(name, task, tuple(_row(task, metric) for metric in _shown(task)))


def _measured_task(name: str, task: Mapping[str, Any], rows: tuple[Row, ...]) -> MeasuredTask:
    return MeasuredTask(
        name=name,
        dataset=dataset_of(name),
        role=task["role"],
        examples=task["examples"],
        templates=task["templates"],
        instructions=task["instructions"],
        rows=rows,
        over_abstention=task.get("over_abstention"),
    )


def _shown(task: Mapping[str, Any], when: str = "after") -> list[Metric]:
    every = [metric for metric in ordered_metrics(task["family"], task["before"]) if metric.name in task[when]]
    if task["family"] != "question_answering":
        return every
    return [metric for metric in every if metric.name in HEADLINE] or every


def _row(task: Mapping[str, Any], metric: Metric) -> Row:
    found = task["statistics"][metric.name]
    low, high = found["low"], found["high"]
    return Row(
        metric.label,
        _over_instructions(task, "before", metric.name),
        _over_instructions(task, "after", metric.name),
        "–" if found["value"] is None else words.signed(found["value"]),
        "–" if low is None or high is None else f"{words.signed(low)} to {words.signed(high)}",
        _figure(found["p_value_holm"]),
    )


def _over_instructions(task: Mapping[str, Any], when: str, metric: str) -> str:
    """Mean ± standard deviation over instructions, (worst); of one instruction the figure alone."""
    value, spread = task[when][metric], task["spread"][when][metric]
    if value is None or task["instructions"] == 1:
        return _figure(value)
    worst = "" if spread["worst"] is None else f" ({_figure(spread['worst'])})"
    return f"{_figure(value)} ± {_figure(spread['std'])}{worst}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _asset(name: str) -> str:
    return resources.files("crispr_lm.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")
