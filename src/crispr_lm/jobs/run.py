"""The main job: from model and task to an edit whose effect is measured.

Everything that can be wrong with the input is checked before weights are read, and nothing is written before that. The
results are on disk before the model is saved, checked and described: nothing that comes after the work may discard it.
Several processes may run it together (`crispr_lm.runtime.distributed`); the first alone writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.edits.canaries import canaries_file, make_canaries
from crispr_lm.edits.edit import Edit
from crispr_lm.edits.export import export_folder
from crispr_lm.edits.logit_lens import promoted_tokens
from crispr_lm.edits.stored_weights import check_bytes
from crispr_lm.edits.verification import VERIFIED_EXAMPLES, Saved, verify_saved
from crispr_lm.edits.whole_weights import weights_can_change
from crispr_lm.evaluation.kl_divergence import divergence
from crispr_lm.evaluation.results import Edited, answer_rows, column_rows, results_of
from crispr_lm.evaluation.sealed_rules import matched
from crispr_lm.evaluation.suite import Subject, TaskSubject, further_subjects, measure_all, measure_reference
from crispr_lm.jobs import seal
from crispr_lm.jobs.advice import lacks_of, say_lacks, say_sizes, used_up
from crispr_lm.jobs.attempts import attempt, reason_of
from crispr_lm.jobs.attribution import attribute
from crispr_lm.jobs.edit_search import Start, find_edit, origin_of
from crispr_lm.jobs.estimate import Estimate, estimate
from crispr_lm.jobs.preparation import (
    Needs,
    Timings,
    check_held_out,
    file_hash,
    fits,
    load,
    load_tasks,
    made_on,
    searched_aside,
    take_parts,
    without_searched,
)
from crispr_lm.jobs.record import dated, record_of
from crispr_lm.jobs.search_settings import check_search, recorded_limits
from crispr_lm.jobs.sharing import check_hub, with_upload, write_card
from crispr_lm.jobs.shown_prompts import ShownPrompt, answers_to, prompts_fit, read_prompts, shown_rows
from crispr_lm.jobs.transfer import Unedited, check_transfer, measure_transfer
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.other_settings import HubSettings
from crispr_lm.report.page import write_report
from crispr_lm.report.statement import outcome
from crispr_lm.runtime.distributed import is_first, on_first, ranks
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.side_effects import AskedAside
from crispr_lm.settings import RunSettings
from crispr_lm.storage.files import whole_folder, write_errors, write_json, write_lines
from crispr_lm.storage.records import read_object
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks.parts import Parts
from crispr_lm.tasks.registry import load_task


def run(
    model: str, settings: RunSettings, progress: Progress | None = None, hub: HubSettings | None = None
) -> dict[str, Any]:
    """The main job: find the bias neurons, eliminate the few that matter, measure what changed, save it all.

    Args:
        model: Hub id, local folder, PEFT adapter, ``.gguf`` file, ``ollama:NAME`` or ``builtin:smollm2``.
        settings: All options.
        progress: Shows how far it is.
        hub: Where to upload the edited model, if anywhere.

    Returns:
        What ``results.json`` holds; with ``upload`` where something was (or would be) uploaded. All of it, with answers
        and report, is on disk before the model is saved, checked and uploaded: ``saved_model`` says whether it is
        ``verified`` and, where it is not, the ``reason``; ``failed`` holds what else has failed after the work.

    Raises:
        InputError: the input can't be used; nothing is written then.
    """
    hub = hub or HubSettings()
    on_first(lambda: check_hub(hub))
    work = _prepared(model, settings, progress or SilentProgress())
    folder, lm, parts, subjects, settings, progress = (
        work.folder, work.lm, work.parts, work.subjects, work.settings, work.progress
    )  # fmt: skip
    record = record_of(lm, settings, parts, subjects)
    with folder.held() if is_first() else nullcontext():
        begun = on_first(lambda: _without_the_end(folder, record, settings))
        if begun is None:
            sealed = on_first(lambda: seal.content_of("run", record, parts, subjects, work.rules))
            resumed = on_first(lambda: folder.start(record, overwrite=settings.overwrite))
            progress.say(
                f"Sealed before the test split is read: {on_first(lambda: seal.begin(folder, sealed, work.rules))}"
            )
            estimated = None if resumed and settings.time_budget is None else _estimated(work)
            if estimated is not None:
                progress.say(estimated.within(settings.time_budget))
            edit, results = _measured(work, resumed, estimated)
        else:
            progress.say("The results are there: resuming with saving the edited model")
            edit, results = begun
        results = _with_the_end(work, edit, results)
        return on_first(lambda: _uploaded(work, results, hub))


def dry_run(model: str, settings: RunSettings, progress: Progress | None = None) -> Estimate:
    """Check the input as `run` does and say how long it would take; nothing is written.

    Raises:
        InputError: as `run`.
    """
    return _estimated(_prepared(model, settings, progress or SilentProgress()))


def _estimated(work: _Work) -> Estimate:
    with work.progress.step("Timing a few prompts"):
        return estimate(work.lm, work.parts, work.subjects, work.settings, work.aside)


def _prepared(model: str, settings: RunSettings, progress: Progress) -> _Work:
    """All that a run checks and reads before anything is written."""
    timings, begun = Timings(), time.monotonic()
    check_search(settings, progress)
    check_transfer(settings)
    folder = RunFolder(settings.output)
    on_first(lambda: folder.check(resume=settings.resume, overwrite=settings.overwrite))
    settings = on_first(lambda: dated(settings, folder))
    prompts = read_prompts(settings.prompts)
    rules = seal.read_rules(settings.rules)
    tasks = load_tasks(settings)
    say_lacks(tasks, progress)
    parts = [take_parts(task, settings) for task in tasks]
    say_sizes(parts, settings, progress)
    subjects: list[Subject] = [TaskSubject(part.task, part.test) for part in parts]
    aside = searched_aside(tasks, settings)
    subjects = [*subjects, *without_searched(further_subjects(settings, tasks), aside.templates, progress)]
    held_out = subjects[len(parts) :] if settings.split_by == "random" else subjects
    check_held_out(held_out, made_on(parts, aside), "measure other ones, or leave the task away")
    if rules is not None:
        matched(rules.source, subjects, settings.scoring)
    checks = [fits(part.task, part.searched_on) for part in parts]
    checks += [fits(task, task.examples) for task in aside.tasks.values()]
    checks += [*(subject.check for subject in subjects), prompts_fit(prompts)]
    needs = Needs(checks, probe=(parts[0].task, parts[0].validation), twice=True)
    lm = load(model, settings, needs, timings, progress)
    return _Work(folder, lm, parts, subjects, settings, timings, progress, aside, prompts, rules, begun)


def _without_the_end(
    folder: RunFolder, record: dict[str, Any], settings: RunSettings
) -> tuple[Edit, dict[str, Any]] | None:
    """Edit and results of a run after whose work something has failed, or was interrupted.

    None where there is no such run, or one that has measured something else: another trial picked, no transfer, no
    prompts.

    Raises:
        InputError: the run there has other settings, model or data.
    """
    if settings.resume or settings.overwrite or not folder.results.exists():
        return None
    folder.check_same(record)
    results = read_object(folder.results)
    if results.get("pick") != settings.pick or ("transfer" in results) != settings.transfer:
        return None
    if ("prompts" in results) != (settings.prompts is not None):
        return None
    with write_errors(folder.path):
        folder.remove_parts()
    return Edit.load(folder.edit), results


@dataclass(frozen=True)
class _Work:
    """One run: what it works on, and where it writes."""

    folder: RunFolder
    lm: LanguageModel
    parts: Sequence[Parts]
    subjects: Sequence[Subject]
    settings: RunSettings
    timings: Timings
    progress: Progress
    aside: AskedAside
    prompts: tuple[ShownPrompt, ...] = ()
    rules: seal.Rules | None = None
    begun: float = 0.0


def _measured(work: _Work, resumed: bool, estimated: Estimate | None) -> tuple[Edit, dict[str, Any]]:
    """Search and measurements. Answers, results and report are on disk when this ends."""
    folder, lm, settings, timings, progress = work.folder, work.lm, work.settings, work.timings, work.progress
    parts, subjects = work.parts, work.subjects
    scores = _scores(work, resumed)
    reference = measure_reference(lm, settings, progress)
    start = Start(scores, reference, folder, resumed, work.aside, _minutes_to_search(work, estimated))
    with timings.of("search"):
        found = find_edit(lm, parts, start, settings, progress)
    tasks = [part.task for part in parts]
    origin = origin_of(found, scores, on_first(lambda: file_hash(folder.scores)), settings, tasks)
    edit = Edit.from_neurons(lm, found.neurons, found.scale, origin, made_on(parts, work.aside))
    on_first(lambda: edit.save(folder.edit))
    on_first(lambda: seal.add_edit(folder))

    with timings.of("report_before"):
        before = measure_all(lm, subjects, settings, progress, "Measuring before")
        shown_before = answers_to(lm, work.prompts, settings)
    with edit.in_place(lm), timings.of("report_after"):
        after = measure_all(lm, subjects, settings, progress, "Measuring after") if edit.neurons else before
        shown_after = answers_to(lm, work.prompts, settings) if edit.neurons else shown_before
        diverged = divergence(lm, reference, settings.batch_size)
    with timings.of("statistics"), progress.step("Drawing intervals"):
        edited = Edited(after, diverged, edit)
        measured = results_of(lm.name, subjects, settings.scoring, before, edited, settings.seed)
    failed: dict[str, str] = {}
    results = {
        **measured,
        **shown_rows(work.prompts, shown_before, shown_after),
        "made_for": [task.name for task in tasks],
        "lacks": {part.task.name: sentences for part in parts if (sentences := lacks_of(part.task))},
        "limits": recorded_limits(settings),
        "pick": settings.pick,
        "neurons": _described(lm, scores, edit.neurons, failed),
        "strongest": _described(lm, scores, _strongest(scores), failed),
        "procedure": origin["made_by"],
        "preset": settings.preset,
        "split_by": settings.split_by,
        "used_up": used_up(parts, settings),
        "verdict": found.verdict,
        "reason": found.reason,
        "search": found.rows,
        **found.entries,
        "saved_model": {"verified": False, "reason": "it has not been saved yet; give the same command again for that"},
        "timings": timings.seconds,
    }
    results |= outcome(results)
    on_first(lambda: write_lines(folder.answers, answer_rows(subjects, before, after)))
    on_first(lambda: write_json(folder.columns, column_rows(before, after, diverged)))
    on_first(lambda: write_json(folder.results, results))
    attempt(lambda: write_report(folder.path, results))  # written again once the model is saved
    if settings.transfer:
        with timings.of("transfer"):
            results |= _transfer(work, Unedited(subjects, before, reference), failed)
        on_first(lambda: write_json(folder.results, results))
    return edit, results | ({"failed": failed} if failed else {})


def _minutes_to_search(work: _Work, estimated: Estimate | None) -> float | None:
    """What a time budget leaves to the search: measuring follows, and the saved model is loaded once more."""
    budget = work.settings.time_budget
    if budget is None or estimated is None:
        return None
    passed = (time.monotonic() - work.begun + work.timings.seconds["load"]) / 60
    return max(budget - passed - estimated.minutes["measuring"], 0.0)


def _transfer(work: _Work, unedited: Unedited, failed: dict[str, str]) -> dict[str, Any]:
    """What ``--transfer`` adds to the results; nothing, and the reason in `failed`, where it can't be measured."""
    try:
        found = measure_transfer(work.lm, work.parts, unedited, work.settings, work.folder, work.progress)
        return {"transfer": found}
    except Exception as error:
        if ranks() > 1:  # the others wait for this one
            raise
        failed["transfer"] = reason_of(error)
        return {}


def _with_the_end(work: _Work, edit: Edit, results: dict[str, Any]) -> dict[str, Any]:
    """Save the edited model, check and describe it; the results with what came of that, on disk.

    Nothing that fails here takes anything from what is there already.
    """
    folder, lm, timings, progress = work.folder, work.lm, work.timings, work.progress
    verified: dict[str, Any] = {}
    formats: dict[str, Any] = {}

    def save() -> None:
        with timings.of("save"), progress.step("Saving the edited model"), whole_folder(folder.model) as part:
            formats.update(export_folder(lm, edit, part))

    def verify() -> None:
        if not weights_can_change(lm.model):  # so that the saved model can't be compared with the one in memory
            assert lm.source is not None
            with timings.of("verify"), progress.step("Comparing its files with the original's"):
                verified.update(check_bytes(lm.model, edit, lm.source, folder.model))
            verified["measured_with"] = work.settings.quantize
            return
        probed, trusted = work.parts[0], work.settings.trust_remote_code
        asked, instruction = probed.test[:VERIFIED_EXAMPLES], probed.task.instructions[0]
        with timings.of("verify"), progress.step("Loading it again in a fresh process"):
            verified.update(verify_saved(lm, Saved(folder.model), asked, instruction, trust_remote_code=trusted))

    def write_canaries() -> None:
        made = make_canaries(lm, load_task("builtin:everyday"), edit.in_place(lm, formats))
        if is_first():
            made.save(canaries_file(folder.model))

    not_saved = attempt(save)
    with edit.in_place(lm, formats):
        doubt = not_saved or attempt(verify)
    no_canaries = None
    if not_saved is None:
        with timings.of("canaries"), progress.step("Scoring canary prompts"):
            no_canaries = attempt(write_canaries, runs_model=True)
    results = {
        **results,
        "saved_model": {"verified": True, **verified} if doubt is None else {"verified": False, "reason": doubt},
        "timings": {**results["timings"], **timings.seconds},
    }
    # Of earlier failures those stay whose steps are not taken again here.
    again = ("canaries", "card", "report", "upload")
    failed = {step: reason for step, reason in results.pop("failed", {}).items() if step not in again}
    failed |= {} if no_canaries is None else {"canaries": no_canaries}
    if not_saved is None:  # else there is nothing to describe
        reason = attempt(lambda: write_card(lm, edit, "folder", folder.model, results, doubt))
        failed |= {} if reason is None else {"card": reason}
    reason = attempt(lambda: write_report(folder.path, results | ({"failed": failed} if failed else {})))
    failed |= {} if reason is None else {"report": reason}
    results |= {"failed": failed} if failed else {}
    on_first(lambda: write_json(folder.results, results))  # the very last: it says that all is done
    return results


def _uploaded(work: _Work, results: dict[str, Any], hub: HubSettings) -> dict[str, Any]:
    """Upload the edited model where that is asked for; where that fails, page and results on disk say so as well."""
    done = with_upload(results, work.folder.model, hub, work.progress)
    if done.get("failed") != results.get("failed"):
        model = work.folder.model  # on disk without its folders: others may read it
        kept = {
            **done,
            "failed": {**done["failed"], "upload": done["failed"]["upload"].replace(str(model), model.name)},
        }
        attempt(lambda: write_report(work.folder.path, kept))
        write_json(work.folder.results, kept)
    return done


def _described(
    lm: LanguageModel, scores: NeuronScores, neurons: Sequence[Neuron], failed: dict[str, str]
) -> list[dict[str, Any]]:
    """Neurons with what is known of them; no tokens, and the reason in `failed`, where these can't be found."""
    promoted: list[list[str]] = [[] for _ in neurons]
    try:
        promoted = promoted_tokens(lm, neurons)
    except Exception as error:  # a tokenizer that can't decode what its model has embeddings for, full memory
        failed["tokens that neurons promote"] = reason_of(error)
    return [
        {**asdict(neuron), "score": scores.score_of(neuron) if neuron.kind == scores.kind else None, "promotes": tokens}
        for neuron, tokens in zip(neurons, promoted, strict=True)
    ]


def _strongest(scores: NeuronScores) -> list[Neuron]:
    """The neuron of highest score in each module."""
    return [Neuron(module, int(values.argmax()), scores.kind) for module, values in scores.values.items()]


def _scores(work: _Work, resumed: bool) -> NeuronScores:
    folder = work.folder
    known = on_first(lambda: NeuronScores.load(folder.scores) if resumed and folder.scores.exists() else None)
    if known is not None:
        work.progress.say("Resuming with the scores of the interrupted run")
        return known
    with work.timings.of("attribution"):
        fitted_on = [(part.task, part.attribution) for part in work.parts]
        scores = attribute(work.lm, fitted_on, work.settings, work.progress)
    on_first(lambda: scores.save(folder.scores))
    return scores
