"""The main job: the way of the data from model and task to a proven edit.

Everything that can be wrong with the input is checked before weights are read, and nothing is written before that.
Several processes may run it together (`crispr_lm.distributed`); the first alone writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from crispr_lm.distributed import is_first, on_first
from crispr_lm.divergence import divergence
from crispr_lm.edit import Edit
from crispr_lm.edit_search import search_edit
from crispr_lm.errors import InputError
from crispr_lm.files import whole_folder, write_json, write_lines
from crispr_lm.folder import RunFolder
from crispr_lm.measuring import Subject, TaskSubject, further_subjects, measure_all, take_original
from crispr_lm.model.load import LanguageModel
from crispr_lm.model.neurons import Neuron
from crispr_lm.model.promoted import promoted_tokens
from crispr_lm.neuron_scores import NeuronScores
from crispr_lm.preparation import Parts, Timings, file_hash, fits, load, load_tasks, take_parts
from crispr_lm.progress import Progress, SilentProgress
from crispr_lm.record import dated, record_of
from crispr_lm.report.page import write_report
from crispr_lm.results import answer_rows, results_of
from crispr_lm.settings import HubSettings, RunSettings
from crispr_lm.sharing import check_hub, uploaded, write_card
from crispr_lm.task_scores import score_tasks
from crispr_lm.transfer import check_transfer, measure_transfer
from crispr_lm.verification import VERIFIED_EXAMPLES, verify_saved


def run(
    model: str, settings: RunSettings, progress: Progress | None = None, hub: HubSettings | None = None
) -> dict[str, Any]:
    """The main job: find the bias neurons, eliminate the few that matter, prove what changed, save it all.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``.
        settings: All options.
        progress: Shows how far it is.
        hub: Where to upload the edited model, if anywhere.

    Returns:
        What ``results.json`` holds; with ``upload`` where something was (or would be) uploaded.

    Raises:
        InputError: the input can't be used; nothing is written then.
        VerificationError: the saved model does not do what the model in memory does.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    hub = hub or HubSettings()
    _check_pick(settings, progress)
    check_transfer(settings)
    on_first(lambda: check_hub(hub))
    folder = RunFolder(settings.output)
    on_first(lambda: folder.check(resume=settings.resume, overwrite=settings.overwrite))
    settings = on_first(lambda: dated(settings, folder))
    parts = [take_parts(task, settings) for task in load_tasks(settings)]
    subjects: list[Subject] = [TaskSubject(part.task, part.report) for part in parts]
    subjects += further_subjects(settings)
    checks = [fits(part.task, part.searched_on) for part in parts]
    checks += [subject.check for subject in subjects]
    lm = load(model, settings, checks, timings, progress, probe=(parts[0].task, parts[0].choose), twice=True)
    with folder.held() if is_first() else nullcontext():
        results = _run_in(folder, lm, parts, subjects, settings, timings, progress)
    return results | on_first(lambda: uploaded(folder.model, hub, progress))


def _run_in(
    folder: RunFolder,
    lm: LanguageModel,
    parts: Sequence[Parts],
    subjects: Sequence[Subject],
    settings: RunSettings,
    timings: Timings,
    progress: Progress,
) -> dict[str, Any]:
    """Everything that is written, step by step; returns what ``results.json`` holds."""
    resumed = on_first(lambda: folder.start(record_of(lm, settings, parts, subjects), overwrite=settings.overwrite))
    scores = _scores(lm, parts, settings, folder, resumed, timings, progress)
    original = take_original(lm, settings, progress)
    with timings.of("search"):
        found = search_edit(lm, scores, parts, original, settings, folder, resumed, progress)
    edit = Edit.from_neurons(
        lm,
        found.neurons,
        found.scale,
        origin={**scores.origin, "scores": on_first(lambda: file_hash(folder.scores)), "reason": found.reason},
    )
    on_first(lambda: edit.save(folder.edit))

    with timings.of("report_before"):
        before = measure_all(lm, subjects, settings, progress, "Measuring before")
    edit.bake(lm)
    try:
        with timings.of("report_after"):
            after = measure_all(lm, subjects, settings, progress, "Measuring after")
            diverged = divergence(lm, original, settings.batch_size)
        with timings.of("save"), progress.step("Saving the edited model"):
            on_first(lambda: _save(lm, folder))
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
    more = {}
    if settings.transfer:
        with timings.of("transfer"):
            more["transfer"] = measure_transfer(lm, parts, subjects, before, original, settings, folder, progress)

    with timings.of("statistics"), progress.step("Drawing intervals"):
        told = results_of(lm.name, subjects, settings.scoring, before, after, diverged, edit, settings.seed)
    results = {
        **told,
        "made_for": [part.task.name for part in parts],
        "neurons": _described(lm, scores, edit.neurons),
        "strongest": _described(lm, scores, _strongest(scores)),
        "verdict": found.verdict,
        "reason": found.reason,
        "search": found.rows,
        **found.told,
        **more,
        "saved_model": verified,
        "timings": timings.seconds,
    }
    on_first(lambda: write_lines(folder.answers, answer_rows(subjects, before, after)))
    on_first(lambda: write_card(lm, edit, "folder", folder.model, results))
    on_first(lambda: write_report(folder.path, results))
    on_first(lambda: write_json(folder.results, results))  # the very last: it marks the run as finished
    return results


def _save(lm: LanguageModel, folder: RunFolder) -> None:
    with whole_folder(folder.model) as part:
        lm.save(part)


def _check_pick(settings: RunSettings, progress: Progress) -> None:
    """Refuse, before anything is done, to pick where there is no front or no one to ask."""
    if settings.pick is not None and settings.search != "tuned":
        raise InputError(f"--pick takes a trial of the tuned search; leave it away with --search {settings.search}")
    if settings.pick == "ask" and is_first() and not progress.can_ask:
        raise InputError("--pick ask needs a terminal to ask in; leave it away, or give the number of a trial")


def _described(lm: LanguageModel, scores: NeuronScores, neurons: Sequence[Neuron]) -> list[dict[str, Any]]:
    """Neurons with what is known of them."""
    return [
        {**asdict(neuron), "score": scores.score_of(neuron) if neuron.kind == scores.kind else None, "promotes": tokens}
        for neuron, tokens in zip(neurons, promoted_tokens(lm, neurons), strict=True)
    ]


def _strongest(scores: NeuronScores) -> list[Neuron]:
    """The neuron of highest score in each module."""
    return [Neuron(module, int(values.argmax()), scores.kind) for module, values in scores.values.items()]


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
