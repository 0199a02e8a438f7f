"""Models that run elsewhere, measured and checked: tasks on a runtime, and whether it serves what was exported."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from crispr_lm.edits.canaries import FILE, Canaries, canaries_file, judged
from crispr_lm.errors import InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.results import Edited, results_of
from crispr_lm.evaluation.served import evaluate_served
from crispr_lm.evaluation.suite import Subject, TaskSubject, further_subjects, measure_all
from crispr_lm.inference.reader import Reader
from crispr_lm.inference.runtimes import Runtime, open_runtime
from crispr_lm.jobs.advice import say_lacks
from crispr_lm.jobs.preparation import Needs, Timings, load, load_tasks
from crispr_lm.jobs.sharing import edits_within
from crispr_lm.jobs.steps import check_not_made_on, kept_in_error, measured_examples, note_seen
from crispr_lm.model.load import open_model
from crispr_lm.model.locate import ENDPOINT, LLAMA_CPP, VLLM, is_runtime, shared_name
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime.distributed import ranks
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.runtime.threads import set_threads
from crispr_lm.storage.files import write_json
from crispr_lm.storage.output_path import check_output_file

REPEATED = 2
"""Canaries that are asked for a second time, after all others: what a cache has kept shows in them."""


def evaluate_runtime(
    target: str, output: Path, original: str | None, settings: EvaluateSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Measure a model that runs elsewhere, as `crispr_lm.jobs.steps.evaluate` does one here.

    Args:
        target: ``gguf-runtime:FILE``, ``vllm:MODEL`` or ``openai:URL``.
        output: File for the results.
        original: A model, or another runtime, that is measured before and compared with. The tokenizer of an endpoint's
            model is taken from it.
        settings: What is measured.
        progress: Shows the steps.

    Raises:
        InputError: the input can't be used; nothing is written then.
        CrisprError: the runtime does not answer.
        WriteError: the file can't be written after all; its ``result`` holds the results.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    check_output_file(output)
    if ranks() > 1:
        raise InputError("a runtime is measured by one process; leave torchrun away")
    tasks = load_tasks(settings)
    say_lacks(tasks, progress)
    subjects = _only_tasks(
        [*(TaskSubject(task, measured_examples(task, settings)) for task in tasks), *further_subjects(settings)]
    )
    edits = edits_within(target.partition(":")[2].split("#"))  # of a folder, and of an adapter that is applied to it
    check_not_made_on(subjects, edits, settings)
    reader = _reader(target, original, settings)
    for subject in subjects:
        subject.check(reader)
    progress.say(set_threads(settings.threads, None, fixed=settings.deterministic))
    runtime = open_runtime(target, torch.get_num_threads(), settings.dtype)
    before = None
    if original is not None:
        with timings.of("report_before"):
            before = _measured_original(original, subjects, settings, timings, progress)
    with timings.of("report_after"):
        found = _measured(runtime, reader, subjects, settings, progress)
    edited = None if before is None else Edited(found)
    name = runtime.name if original is None else shared_name(_file_of(original))
    results = results_of(name, subjects, settings.scoring, before or found, edited, settings.seed)
    note_seen(results, subjects, edits)
    results |= {"runtime": runtime.name, "split": settings.split, "timings": timings.seconds}
    with kept_in_error(results):
        write_json(output, results)
    return results


def verify_runtime(exported: Path, target: str, tolerance: float, progress: Progress | None = None) -> dict[str, Any]:
    """Repeat a model's canary prompts on a runtime.

    Args:
        exported: Folder or GGUF file with canaries, or their file.
        target: The runtime.
        tolerance: Largest mean difference in nats that is the number format's.
        progress: Shows the step.

    Returns:
        As `crispr_lm.edits.canaries.judged`, with the runtime's name and the tolerance.

    Raises:
        InputError: no canaries there, or no such runtime.
        CrisprError: the runtime does not answer.
    """
    progress = progress or SilentProgress()
    file = exported if exported.suffix == ".json" else canaries_file(exported)
    if not file.is_file():
        raise InputError(
            f"{file} is missing, with the scores to compare with; export the model with crispr-lm apply (without "
            f"--no-load), which writes {FILE}"
        )
    canaries = Canaries.load(file)
    runtime = open_runtime(target, torch.get_num_threads())
    with progress.step(f"Asking {runtime.name}", len(canaries.prompts) + REPEATED) as advance:
        served = []
        for prompt in (*canaries.prompts, *canaries.prompts[:REPEATED]):
            served += runtime.scores([prompt])
            advance(1)
    asked = len(canaries.prompts)
    return {
        "runtime": runtime.name,
        "model": canaries.model,
        "tolerance": tolerance,
        **judged(canaries, served[:asked], served[asked:], tolerance),
    }


def _only_tasks(subjects: list[Subject]) -> list[TaskSubject]:
    found = [subject for subject in subjects if isinstance(subject, TaskSubject)]
    if others := [subject.name for subject in subjects if not isinstance(subject, TaskSubject)]:
        raise InputError(
            f"{', '.join(others)} can't be measured in a runtime, which gives scores of options alone; leave it away"
        )
    return found


def _reader(target: str, original: str | None, settings: EvaluateSettings) -> Reader:
    """Tokenizer and chat template of what a runtime serves."""
    if not target.startswith(ENDPOINT):
        name = _file_of(target)
    elif original is None or original.startswith(ENDPOINT):
        raise InputError(
            f"{target} needs --original MODEL: an endpoint takes tokens, and the tokenizer is read from that model"
        )
    else:
        name = _file_of(original)
    return open_model(
        name,
        trust_remote_code=settings.trust_remote_code,
        prompt_format=settings.prompt_format,
        moment=settings.prompt_date or datetime.now(),
    )


def _file_of(target: str) -> str:
    """A model's own file or folder, without the adapter that a runtime applies to it; any other model as it is."""
    here = next((scheme for scheme in (LLAMA_CPP, VLLM) if target.startswith(scheme)), None)
    return target if here is None else target.removeprefix(here).split("#")[0]


def _measured_original(
    original: str, subjects: list[TaskSubject], settings: EvaluateSettings, timings: Timings, progress: Progress
) -> Mapping[str, Measurement]:
    if is_runtime(original):
        reader = _reader(original, None, settings)
        runtime = open_runtime(original, torch.get_num_threads(), settings.dtype)
        return _measured(runtime, reader, subjects, settings, progress)
    first = subjects[0]
    needs = Needs([subject.check for subject in subjects], (first.task, first.examples))
    lm = load(original, settings, needs, timings, progress)
    return measure_all(lm, subjects, settings, progress, "Measuring the original")


def _measured(
    runtime: Runtime, reader: Reader, subjects: list[TaskSubject], settings: EvaluateSettings, progress: Progress
) -> dict[str, Measurement]:
    with progress.step(f"Asking {runtime.name}", sum(subject.steps for subject in subjects)) as advance:
        return {
            subject.name: evaluate_served(runtime, reader, subject, settings.scoring, advance) for subject in subjects
        }
