"""The main job: the way of the data from model and task to a proven edit.

Everything that can be wrong with the input is checked before weights are read, and nothing is written before that.
Several processes may run it together (`crispr_lm.distributed`); the first alone writes.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from crispr_lm.distributed import is_first, on_first
from crispr_lm.divergence import divergence
from crispr_lm.edit import Edit, weights_fingerprint
from crispr_lm.files import append_line, write_json, write_lines
from crispr_lm.folder import RunFolder, read_lines
from crispr_lm.measuring import Subject, further_subjects, measure_all, take_original
from crispr_lm.model.load import LanguageModel
from crispr_lm.neuron_scores import NeuronScores
from crispr_lm.preparation import Parts, Timings, file_hash, load, load_tasks, take_parts
from crispr_lm.progress import Progress, SilentProgress
from crispr_lm.results import answer_rows, results_of
from crispr_lm.search import Candidate, Choice, choose, choose_part, counts_up_to, sweep
from crispr_lm.settings import RunSettings
from crispr_lm.task_scores import score_tasks
from crispr_lm.verification import VERIFIED_EXAMPLES, verify_saved
from crispr_lm.version import __version__


def run(model: str, settings: RunSettings, progress: Progress | None = None) -> dict[str, Any]:
    """The main job: find the bias neurons, eliminate the few that matter, prove what changed, save it all.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``.
        settings: All options.
        progress: Shows how far it is.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: the input can't be used; nothing is written then.
        VerificationError: the saved model does not do what the model in memory does.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    folder = RunFolder(settings.output)
    on_first(lambda: folder.check(resume=settings.resume, overwrite=settings.overwrite))
    parts = [take_parts(task, settings) for task in load_tasks(settings)]
    subjects = [Subject(part.task, part.report) for part in parts] + further_subjects(settings)
    used = [(part.task, part.fit + part.choose) for part in parts]
    used += [(subject.task, subject.examples) for subject in subjects]
    lm = load(model, settings, used, timings, progress)
    resumed = on_first(lambda: folder.start(_record(lm, settings, parts, subjects), resume=settings.resume))

    scores = _scores(lm, parts, settings, folder, resumed, timings, progress)
    choice, candidates = _search(lm, scores, parts, settings, folder, resumed, timings, progress)
    edit = Edit.from_neurons(
        lm,
        scores.top(choice.candidate.neurons),
        origin={**scores.origin, "scores": on_first(lambda: file_hash(folder.scores)), "reason": choice.reason},
    )
    on_first(lambda: edit.save(folder.edit))

    with timings.of("report_before"):
        original = take_original(lm, settings, progress)
        before = measure_all(lm, subjects, settings, progress, "Measuring before")
    edit.bake(lm)
    try:
        with timings.of("report_after"):
            after = measure_all(lm, subjects, settings, progress, "Measuring after")
            diverged = divergence(lm, original, settings.batch_size)
        with timings.of("save"), progress.step("Saving the edited model"):
            on_first(lambda: lm.save(folder.model))
        with timings.of("verify"), progress.step("Loading it again in a fresh process"):
            verified = on_first(
                lambda: verify_saved(
                    lm,
                    folder.model,
                    parts[0].report[:VERIFIED_EXAMPLES],
                    parts[0].task.instructions[0],
                    trust_remote_code=settings.trust_remote_code,
                )
            )
    finally:
        edit.undo(lm)

    with timings.of("statistics"), progress.step("Drawing intervals"):
        told = results_of(lm.name, subjects, settings.scoring, before, after, diverged, edit, settings.seed)
    results = {
        **told,
        "verdict": "recommended" if edit.neurons else "none",
        "reason": choice.reason,
        "search": [candidate.to_dict() for candidate in candidates],
        "saved_model": verified,
        "timings": timings.seconds,
    }
    on_first(lambda: write_lines(folder.answers, answer_rows(subjects, before, after)))
    on_first(lambda: write_json(folder.results, results))
    return results


def _scores(
    lm: LanguageModel,
    parts: Sequence[Parts],
    settings: RunSettings,
    folder: RunFolder,
    resumed: bool,
    timings: Timings,
    progress: Progress,
) -> NeuronScores:
    known = on_first(lambda: NeuronScores.load(folder.scores) if resumed and folder.scores.exists() else None)
    if known is not None:
        progress.say("Going on with the scores of the interrupted run")
        return known
    with timings.of("attribution"):
        scores = score_tasks(lm, [(part.task, part.fit) for part in parts], settings, progress)
    on_first(lambda: scores.save(folder.scores))
    return scores


def _search(
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[Parts],
    settings: RunSettings,
    folder: RunFolder,
    resumed: bool,
    timings: Timings,
    progress: Progress,
) -> tuple[Choice, list[Candidate]]:
    known = [Candidate.from_dict(row) for row in on_first(lambda: read_lines(folder.search) if resumed else [])]
    on = [choose_part(lm, part.task.name, part.choose, part.task.instructions, settings.seed) for part in parts]
    total = len(counts_up_to(min(settings.max_neurons, len(scores)))) * sum(len(part.examples) for part in on)
    with timings.of("search"), progress.step("Choosing how many", total) as advance:
        candidates = sweep(
            lm,
            scores,
            on,
            settings.max_neurons,
            batch_size=settings.batch_size,
            known=known,
            finished=lambda candidate: append_line(folder.search, candidate.to_dict()) if is_first() else None,
            progress=advance,
        )
    choice = choose(candidates, settings.max_accuracy_loss)
    progress.say(choice.reason[0].upper() + choice.reason[1:])
    return choice, candidates


def _record(
    lm: LanguageModel, settings: RunSettings, parts: Sequence[Parts], subjects: Sequence[Subject]
) -> dict[str, Any]:
    """What ``run.json`` holds; ``identity`` is all that results depend on."""
    described = settings.model_dump(mode="json", exclude={"output", "resume", "overwrite", "batch_size", "device"})
    identity = {
        "model": lm.name,
        "model_fingerprint": weights_fingerprint(lm.model),
        "settings": described,
        "evaluated_in": str(lm.evaluation_dtype or lm.dtype).removeprefix("torch."),
        "data": {file: file_hash(Path(file)) for subject in subjects for file in subject.task.origin},
        "instructions": [list(part.task.instructions) for part in parts],
        "crispr_lm": __version__,
    }
    return {
        "identity": identity,
        "revision": lm.revision,
        "device": str(lm.device),
        "batch_size": settings.batch_size,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "platform": platform.platform(),
        },
        "parts": {
            part.task.name: {
                name: [example.source for example in getattr(part, name)] for name in ("fit", "choose", "report")
            }
            for part in parts
        },
    }
