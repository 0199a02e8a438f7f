"""Logs of Inspect, written by ``inspect_ai``: one for each task and model, with every answer as a sample.

Each instruction is an epoch: the same questions are asked in every one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.evaluation.evaluation import Evaluation
from crispr_lm.jobs.finished import Finished
from crispr_lm.metrics.family import chosen_options
from crispr_lm.other_settings import ExportSettings
from crispr_lm.version import __version__

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""How Inspect names options."""

SCORER = "choice"


def write(finished: Finished, folder: Path, settings: ExportSettings) -> list[str]:
    """Write the logs (``.eval``).

    Raises:
        InputError: ``inspect_ai`` is not installed.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise InputError("Inspect logs need: pip install 'crispr-lm[inspect]'") from error
    for model, measured in finished.models.items():
        for task, found in measured.items():
            if isinstance(found, Evaluation):
                name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{task}_{finished.when(model)}")
                write_eval_log(_log(finished, model, task, found), str(folder / f"{name}.eval"), format="eval")
    left_out = [name for name, how in finished.written.measured.items() if how["examples"] is None]
    notes = ["Each instruction is an epoch. Figures that are no mean of samples are in the log's metrics alone."]
    return notes + ([f"Left out, since they ask no questions: {', '.join(left_out)}."] if left_out else [])


def _log(finished: Finished, model: str, task: str, found: Evaluation) -> Any:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )

    content = finished.sealed["content"]
    samples = list(_samples(finished, model, task, found))
    metrics = {name: EvalMetric(name=name, value=value) for name, value in found.items() if value is not None}
    identifier = hashlib.sha256(f"{finished.sealed['seal']} {model} {task}".encode()).hexdigest()[:22]
    return EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=identifier,
            run_id=identifier,
            created=content["time"],
            task=task,
            task_id=identifier,
            dataset=EvalDataset(name=task, samples=len(found.examples)),
            model=f"hf/{model}",
            config=EvalConfig(epochs=len(found.option_scores)),
            packages={"crispr_lm": __version__},
            metadata={"seal": finished.sealed["seal"], "measured": finished.when(model)},
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[EvalScore(name=SCORER, scorer=SCORER, scored_samples=len(samples), metrics=metrics)],
        ),
        stats=EvalStats(started_at=content["time"], completed_at=content["time"]),
        samples=samples,
    )


def _samples(finished: Finished, model: str, task: str, found: Evaluation) -> Iterator[Any]:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    instructions = finished.written.measured[task]["instructions"]
    for epoch, (instruction, table) in enumerate(zip(instructions, found.option_scores, strict=True), start=1):
        chosen = chosen_options(table.double().numpy())
        for number, (example, option) in enumerate(zip(found.examples, chosen, strict=True), start=1):
            given = LETTERS[option] if option >= 0 else ""
            scores = table[number - 1, : len(example.options)].tolist()
            yield EvalSample(
                id=number,
                epoch=epoch,
                input="\n".join(filter(None, (instruction, example.context, example.question))),
                choices=list(example.options),
                target=LETTERS[example.answer],
                output=ModelOutput.from_content(f"hf/{model}", example.options[option] if option >= 0 else ""),
                scores={SCORER: Score(value="C" if option == example.answer else "I", answer=given)},
                metadata={
                    "template": example.template,
                    "condition": example.condition,
                    "category": example.category,
                    "stereotyped": example.stereotyped,
                    "unknown": example.unknown,
                    "option_scores": [None if score == -float("inf") else score for score in scores],
                },
            )
