"""The smaller jobs: attribution alone, measurement alone, and saving an edited model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch

from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.edits.canaries import FILE as CANARIES_FILE
from crispr_lm.edits.canaries import canaries_file, make_canaries
from crispr_lm.edits.edit import Edit
from crispr_lm.edits.export import export_folder, export_lora, export_slim
from crispr_lm.edits.verification import VERIFIED_EXAMPLES, Saved, verify_saved
from crispr_lm.errors import InputError, WriteError
from crispr_lm.evaluation.kl_divergence import divergence
from crispr_lm.evaluation.results import Edited, results_of
from crispr_lm.evaluation.suite import Subject, TaskSubject, further_subjects, measure_all, measure_reference
from crispr_lm.jobs.advice import say_lacks
from crispr_lm.jobs.attempts import attempt
from crispr_lm.jobs.attribution import attribute
from crispr_lm.jobs.evidence_folder import Evidence
from crispr_lm.jobs.preparation import (
    Needs,
    Timings,
    attribution_sample,
    check_held_out,
    fits,
    load,
    load_tasks,
    seen,
    test_sample,
    without_searched,
)
from crispr_lm.jobs.sharing import check_hub, edit_with_results, edits_within, with_upload, write_card
from crispr_lm.model.devices import OFFLOAD
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.other_settings import ApplySettings, EvaluateSettings, ScoreSettings
from crispr_lm.runtime.distributed import on_first
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.storage.files import whole_folder, write_json
from crispr_lm.storage.hub import local_edit
from crispr_lm.storage.output_path import check_new, check_output_file, held_new
from crispr_lm.tasks.base import Example, Task, sample
from crispr_lm.tasks.other_kinds import OTHER_KINDS
from crispr_lm.tasks.registry import load_task


def score(model: str, output: Path, settings: ScoreSettings, progress: Progress | None = None) -> NeuronScores:
    """Attribution alone: write the score of every neuron.

    Raises:
        InputError: the input can't be used; nothing is written then.
        WriteError: the file can't be written after all; its ``result`` holds the scores.
    """
    progress = progress or SilentProgress()
    check_output_file(output)
    tasks = load_tasks(settings)
    say_lacks(tasks, progress)
    parts = [(task, attribution_sample(task, settings)) for task in tasks]
    needs = Needs([fits(task, examples) for task, examples in parts])
    lm = load(model, settings, needs, Timings(), progress)
    scores = attribute(lm, parts, settings, progress)
    with kept_in_error(scores):
        on_first(lambda: scores.save(output))
    return scores


def evaluate(
    model: str, output: Path, edit_file: Path | None, settings: EvaluateSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Measurement alone: metrics on the test split, before and after an edit if one is given.

    Examples of templates that an edit was fitted or chosen on are not held out: of the edit given, and of the one in a
    saved model's folder. With ``split="all"`` results say of each task how many they are (``seen_examples``).

    Raises:
        InputError: the input can't be used, or such an example is in the test split; nothing is written then.
        WriteError: the file can't be written after all; its ``result`` holds the results.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    check_output_file(output)
    kept = Evidence.checked(settings)
    edit = Edit.load(local_edit(edit_file)) if edit_file is not None else None
    tasks = load_tasks(settings)
    say_lacks(tasks, progress)
    subjects: list[Subject] = [TaskSubject(task, measured_examples(task, settings)) for task in tasks]
    further = further_subjects(settings, tasks)
    edits = [*([] if edit is None else [edit]), *edits_within([model])]
    searched = [digest for one in edits for digest in one.made_on]
    for subject in further:
        # By default, so that no one has asked for these very questions.
        subjects += without_searched([subject], searched if subject.name == OTHER_KINDS else (), progress)
    check_not_made_on(subjects, edits, settings)
    kept.check(subjects)
    probe = (subjects[0].task, subjects[0].examples) if isinstance(subjects[0], TaskSubject) else None
    needs = Needs([subject.check for subject in subjects], probe)
    lm = load(model, settings, needs, timings, progress)
    if edit is not None:
        edit.check(lm)
    kept.begin(lm, subjects, edit, progress)
    after = diverged = None
    with timings.of("report_before"):
        before = measure_all(lm, subjects, settings, progress, "Measuring before" if edit is not None else "Measuring")
    if edit is not None:
        with timings.of("report_after"):
            reference = measure_reference(lm, settings, progress)
            with edit.applied(lm):
                after = measure_all(lm, subjects, settings, progress, "Measuring after")
                diverged = divergence(lm, reference, settings.batch_size)
    edited = None if after is None else Edited(after, diverged, edit)
    results = results_of(lm.name, subjects, settings.scoring, before, edited, settings.seed)
    note_seen(results, subjects, edits)
    results |= {"split": settings.split, "timings": timings.seconds}
    with kept_in_error(results):
        on_first(lambda: kept.end(subjects, before, edited, results))
        on_first(lambda: write_json(output, results))
    return results


@contextmanager
def kept_in_error(result: object) -> Iterator[None]:
    """Attach to the error what the block can't write: it is a job's whole work."""
    try:
        yield
    except WriteError as error:
        error.result = result
        raise


def apply(
    model: str, edit_file: Path, output: Path, settings: ApplySettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Save an edited model in one of the formats of `crispr_lm.edits.export`, and compare it with the model in memory.

    Returns:
        What was saved and where (``format``, ``output``), whether it was found to be the edited model and what was
        compared, or the reason why not (``saved_model``; not for the format "edit"), the file of ``canaries``, for the
        slim format the parameters saved, what was uploaded (``upload``), and what has failed after that (``failed``).

    Raises:
        InputError: the input can't be used, the format can't hold this edit exactly, the output folder is not empty,
            or another process is writing into it; nothing is written then.
        EditMismatchError: the edit was made for another model.
    """
    progress = progress or SilentProgress()
    if settings.quantize != "none" or settings.device == OFFLOAD:
        raise InputError(
            "an edited model is written from whole weights in memory; leave --quantize and --device offload away, or "
            "give --no-load, which edits the files without loading them"
        )
    check_new(output)
    check_hub(settings)
    edit, results = edit_with_results(edit_file, settings.results)
    lm = load(model, settings, Needs(twice=settings.format != "edit"), Timings(), progress)
    with held_new(output), whole_folder(output) as part:
        saved = {"format": settings.format, "output": str(output), **_export(lm, edit, part, settings, progress)}
        doubt = saved.get("saved_model", {}).get("reason")
        if results is not None and "saved_model" in saved:
            results = {**results, "saved_model": saved["saved_model"]}
        if (reason := attempt(lambda: write_card(lm, edit, settings.format, part, results, doubt))) is not None:
            saved["failed"] = {**saved.get("failed", {}), "card": reason}
    return with_upload(saved, output, settings, progress)


def _export(lm: LanguageModel, edit: Edit, folder: Path, settings: ApplySettings, progress: Progress) -> dict[str, Any]:
    """Save the edited model in the format that was asked for, check it, and return what is reported of it.

    What can't be checked, or is found to be wrong, stays and is reported.
    """
    report: dict[str, Any] = {}
    hashes = None
    formats: Mapping[str, torch.dtype] = {}
    if settings.format == "edit":
        edit.check(lm)
        return report
    with progress.step("Saving the edited model"):
        if settings.format == "lora":
            export_lora(lm, edit, folder)
        elif settings.format == "slim":
            report["parameters_saved"], hashes = export_slim(lm, edit, folder)
        else:
            formats = export_folder(lm, edit, folder)
    probes = load_task("builtin:everyday")
    verified: dict[str, Any] = {"verified": True}

    def verify() -> None:
        found = verify_saved(
            lm,
            Saved(folder, adapter=settings.format == "lora", hashes=hashes),
            sample(probes.examples, VERIFIED_EXAMPLES, 0),
            probes.instructions[0],
            trust_remote_code=settings.trust_remote_code,
        )
        verified.update(found)

    def edited() -> AbstractContextManager[Any]:
        # A damped weight is rounded where it is saved, but not where the edit is applied.
        return edit.baked(lm, formats) if settings.format == "folder" else edit.applied(lm)

    with progress.step("Loading it again in a fresh process"), edited():
        reason = attempt(verify)
    report["saved_model"] = verified if reason is None else {"verified": False, "reason": reason}
    with progress.step("Scoring canary prompts"):
        reason = attempt(lambda: make_canaries(lm, probes, edited()).save(canaries_file(folder)))
    return report | ({"canaries": CANARIES_FILE} if reason is None else {"failed": {"canaries": reason}})


def check_not_made_on(subjects: Sequence[Subject], edits: Sequence[Edit], settings: EvaluateSettings) -> None:
    """Refuse to call questions held out that one of the edits was made on; with ``split="all"`` none is called so.

    Raises:
        InputError: as `check_held_out`.
    """
    if settings.split == "test":
        for edit in edits:
            check_held_out(subjects, edit.made_on, _advice(edit, settings))


def note_seen(results: dict[str, Any], subjects: Sequence[Subject], edits: Sequence[Edit]) -> None:
    """Write into results of edited models how many examples of each task are not held out."""
    made_on = [digest for edit in edits for digest in edit.made_on]
    for subject in subjects:
        if edits and isinstance(subject, TaskSubject):
            results["tasks"][subject.name]["seen_examples"] = seen(subject.examples, made_on)


def _advice(edit: Edit, settings: EvaluateSettings) -> str:
    seed = edit.origin.get("seed")
    own = f"take --seed {seed}, which the edit was made with, or " if seed not in (None, settings.seed) else "take "
    return f"{own}--split all, with which the results say how many these are"


def measured_examples(task: Task, settings: EvaluateSettings) -> tuple[Example, ...]:
    """The examples of a task that are measured: of the test split, or of all."""
    everything = settings.split == "all" or task.measured_only
    return test_sample(task, task.examples if everything else task.split(settings.seed).test, settings)
