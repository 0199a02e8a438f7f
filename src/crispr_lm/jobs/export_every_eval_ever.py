"""Every Eval Ever: the shared schema of evaluation results of the EvalEval Coalition (schema 0.3.0), as JSON.

A file for each model with every figure that has a direction, and one with its answers. Written without the package,
which needs Python 3.12; where it is installed it validates both.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crispr_lm.errors import CrisprError
from crispr_lm.evaluation.evaluation import Evaluation
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.jobs.finished import EDITED_SUFFIX, Finished
from crispr_lm.metrics.family import Metric, chosen_options
from crispr_lm.metrics.statistics import CONFIDENCE
from crispr_lm.other_settings import ExportSettings
from crispr_lm.storage.files import make_folder, write_json, write_lines
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.registry import dataset_of
from crispr_lm.version import __version__

SCHEMA = "0.3.0"
COLLECTION = "crispr-lm"
UNKNOWN = "unknown"

DISTANCE = "distance_from_target"
"""Of a figure whose best value lies between others (a bias score: 0) the distance is given, where lower is better. The
schema knows higher and lower alone; "higher is better" for a bias score would reward stereotypes."""


def write(finished: Finished, folder: Path, settings: ExportSettings) -> list[str]:
    """Write the files as the datastore lays them out, and validate them where the package is installed.

    Raises:
        CrisprError: the package finds a file invalid.
    """
    aggregates = [
        _write_model(finished, model, measured, folder, settings) for model, measured in finished.models.items()
    ]
    notes = [f"Organisation: {settings.organization}; relationship to the model's maker: {settings.relationship}."]
    if any(UNKNOWN in path.parts for path in aggregates):
        notes.append("The model's owner is not known, which the datastore asks for: give --model-name OWNER/NAME.")
    return [*notes, _validated(folder, aggregates)]


def _write_model(
    finished: Finished, model: str, measured: Mapping[str, Measurement], folder: Path, settings: ExportSettings
) -> Path:
    identifier, content = str(uuid.uuid4()), finished.sealed["content"]
    suffix = EDITED_SUFFIX if finished.when(model) == "after" else ""
    given = model if settings.model_name is None else settings.model_name + suffix
    name = re.sub(r"[^A-Za-z0-9._/-]+", "-", given).strip("/-.")
    model_id = name if "/" in name else f"{UNKNOWN}/{name}"
    below = Path("data") / COLLECTION / model_id.partition("/")[0] / model_id.partition("/")[2].replace("/", "_")
    make_folder(folder / below)
    now = int(time.time())
    evaluation_id = f"{COLLECTION}/{model_id}/{now}"
    samples = list(_samples(measured, evaluation_id, model_id))
    path = below / f"{identifier}_samples.jsonl"
    write_lines(folder / path, samples)
    log = {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation_id,
        "evaluation_timestamp": content["time"],
        "retrieved_timestamp": str(now),
        "source_metadata": {
            "source_name": "crispr-lm",
            "source_type": "evaluation_run",
            "source_organization_name": settings.organization,
            "evaluator_relationship": settings.relationship,
        },
        "eval_library": {
            "name": "crispr-lm",
            "version": __version__,
            "additional_details": {"code": content["code"], "seal": finished.sealed["seal"]},
        },
        "model_info": _model_info(finished, model, model_id),
        "evaluation_results": [
            _result(finished, task, of_task, metric) for task, of_task, metric in _directed(measured)
        ],
    }
    if samples:
        data = (folder / path).read_bytes()
        log["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": path.as_posix(),
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(data).hexdigest(),
            "total_rows": len(samples),
        }
    write_json(folder / below / f"{identifier}.json", log)
    return below / f"{identifier}.json"


def _model_info(finished: Finished, model: str, model_id: str) -> dict[str, Any]:
    record = finished.sealed["content"]["record"]
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights" if record["revision"] is not None else UNKNOWN,
        "fingerprint": record["identity"]["model_fingerprint"],
    }
    if record["revision"] is not None:
        details["revision"] = str(record["revision"])
    if finished.when(model) == "after":
        details |= {"base_model": str(finished.results["model"]), "edit": finished.sealed["edits"][-1]["edit"]}
    return {
        "name": model,
        "id": model_id,
        "inference_engine": {"name": "transformers", "version": record["versions"]["transformers"]},
        "additional_details": details,
    }


def _directed(measured: Mapping[str, Measurement]) -> Iterator[tuple[str, Measurement, Metric]]:
    """Every figure of which one way is better."""
    for task, of_task in measured.items():
        for metric in of_task.family.metrics:
            if metric.better != "neither" and of_task.metrics.get(metric.name) is not None:
                yield task, of_task, metric


def _result(finished: Finished, task: str, of_task: Measurement, metric: Metric) -> dict[str, Any]:
    value, (low, high) = of_task[metric.name], of_task.interval(metric.name, finished.written.seed)
    assert value is not None
    of_target, dataset, label = metric.better == "target", dataset_of(task), metric.label.strip()
    details = {"scoring": finished.results["tasks"][task]["scoring"], "instructions": str(len(of_task.columns))}
    if of_target:
        details |= {"value": str(value), "target": str(metric.target)}
        value, low, high = _distances(value, low, high, metric.target)
    uncertainty: dict[str, Any] = {"num_samples": len(of_task.clusters)}
    if low is not None and high is not None:
        uncertainty["confidence_interval"] = {
            "lower": low,
            "upper": high,
            "confidence_level": CONFIDENCE,
            "method": f"expanded percentile bootstrap over {len(set(of_task.clusters))} templates",
        }
    return {
        "evaluation_result_id": _result_id(task, metric.name),
        "evaluation_name": task,
        "source_data": {
            "dataset_name": dataset.title,
            "source_type": "other",
            "additional_details": {"licence": dataset.license, "questions": str(len(of_task.clusters))},
        },
        "metric_config": {
            "metric_id": f"crispr_lm.{metric.name}.{DISTANCE}" if of_target else f"crispr_lm.{metric.name}",
            "metric_name": f"{label}: distance from {metric.target:g}" if of_target else label,
            "lower_is_better": of_target or metric.better == "lower",
        },
        "score_details": {"score": value, "details": details, "uncertainty": uncertainty},
    }


def _distances(
    value: float, low: float | None, high: float | None, target: float
) -> tuple[float, float | None, float | None]:
    """Distance from the target of a value and of its interval's ends; 0 where the interval holds the target."""
    if low is None or high is None:
        return abs(value - target), None, None
    ends = [abs(low - target), abs(high - target)]
    return abs(value - target), 0.0 if low <= target <= high else min(ends), max(ends)


def _samples(measured: Mapping[str, Measurement], evaluation_id: str, model_id: str) -> Iterator[dict[str, Any]]:
    """An answer each, of every question under every instruction, where a task has an accuracy over all of them."""
    for task, of_task in measured.items():
        if not isinstance(of_task, Evaluation) or of_task.metrics.get("accuracy") is None:
            continue
        for instruction, table in enumerate(of_task.option_scores):
            chosen = chosen_options(table.double().numpy())
            for number, (example, option) in enumerate(zip(of_task.examples, chosen, strict=True)):
                yield {
                    "schema_version": SCHEMA,
                    "evaluation_id": evaluation_id,
                    "model_id": model_id,
                    "evaluation_name": task,
                    "evaluation_result_id": _result_id(task, "accuracy"),
                    "sample_id": f"{task}#{number + 1}/{instruction + 1}",
                    **_sample(example, int(option)),
                    "metadata": {"template": example.template, "instruction": str(instruction + 1)},
                }


def _sample(example: Example, option: int) -> dict[str, Any]:
    raw = "\n".join(filter(None, (example.context, example.question)))
    reference, given = [example.options[example.answer]], example.options[option] if option >= 0 else ""
    right = option == example.answer
    return {
        "sample_hash": hashlib.sha256((raw + json.dumps(reference, ensure_ascii=False)).encode("utf-8")).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": raw, "reference": reference, "choices": list(example.options)},
        "output": {"raw": [given]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": given,
                "extraction_method": "option of highest score",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": float(right), "is_correct": right},
    }


def _result_id(task: str, metric: str) -> str:
    return f"{task}#{metric}"


def _validated(folder: Path, aggregates: list[Path]) -> str:
    """Have the package validate every file; a sentence for the reader."""
    try:
        from every_eval_ever.validator.validation_core import format_error, validate_file
    except ImportError:
        return (
            "Not validated: install every-eval-ever (Python 3.12 or later), then in the output folder: "
            "every_eval_ever validate 'data/*/*/*/*'"
        )
    for path in sorted(folder.rglob("*.json*")):
        report = validate_file(path)
        if not report.valid:
            found = "; ".join(format_error(error) for error in report.errors[:3])
            raise CrisprError(f"every-eval-ever finds {path.name} invalid ({found})")
    return f"Validated by every-eval-ever: {len(aggregates)} models."
