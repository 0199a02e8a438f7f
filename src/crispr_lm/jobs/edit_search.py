"""The search step of a job: from scores to the edit that is recommended, with everything tried on record in a folder.

Where settings and the folder of a run meet the search; the searches themselves are in `crispr_lm.search`:
`search_edit`, and the plain ones over the number of neurons in `neuron_count`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution
from crispr_lm.jobs.obstacles import nearest_edit
from crispr_lm.jobs.preparation import limits_of, options_of, paper_options
from crispr_lm.jobs.search_settings import procedure_of
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.runtime.distributed import is_first, on_first
from crispr_lm.runtime.progress import Progress
from crispr_lm.search.loop import LoopState
from crispr_lm.search.neuron_count import Candidate, Measured, choose, counts_up_to, sweep, validation_part
from crispr_lm.search.paper import Log, choose_by_accuracy
from crispr_lm.search.rankings import PUBLISHED
from crispr_lm.search.result import Found, Searched, edit_origin
from crispr_lm.search.search import Checkpoint, search_edit
from crispr_lm.search.side_effects import AskedAside
from crispr_lm.search.trial import Limits, Trial
from crispr_lm.settings import RunSettings
from crispr_lm.storage.files import append_line, write_lines
from crispr_lm.storage.records import read_lines, read_rows
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks.base import Task
from crispr_lm.tasks.parts import Parts

Tried = TypeVar("Tried", Trial, Candidate)


@dataclass(frozen=True, eq=False)
class Start:
    """What the search step of a job starts from.

    Attributes:
        scores: The published ranking.
        reference: The unedited model on neutral prompts.
        folder: Where it is put on record.
        resumed: Whether the folder holds trials of an interrupted run of the same settings.
        aside: The questions on side effects.
        minutes: That the search may take; None for any.
    """

    scores: NeuronScores
    reference: ReferenceDistribution
    folder: RunFolder
    resumed: bool
    aside: AskedAside
    minutes: float | None = None


def find_edit(
    lm: LanguageModel, parts: Sequence[Parts], start: Start, settings: RunSettings, progress: Progress
) -> Searched:
    """Find the edit as ``--search`` says; everything tried is appended to ``search.jsonl`` as it finishes.

    Args:
        lm: The model; left as it was.
        parts: What of each task is used for what.
        start: What was measured before, and the folder.
        settings: All options.
        progress: Shows how far it is.

    Raises:
        InputError: the trial to pick is not on the front.
    """
    search = _tuned if settings.search == "tuned" else _by_number
    found = search(lm, parts, start, settings, progress)
    progress.say(found.reason[0].upper() + found.reason[1:])
    return found


def _known(path: Path, parse: Callable[[dict[str, Any]], Tried], resumed: bool) -> list[Tried]:
    """What an interrupted search has tried already."""

    def read() -> list[dict[str, Any]]:
        if not resumed:
            return []
        rows = read_lines(path)
        read_rows(path, parse)  # refuses what is malformed
        # A killed run may have left a torn last line, which must not be appended to.
        write_lines(path, rows)
        return rows

    return [parse(row) for row in on_first(read)]


def _by_number(
    lm: LanguageModel, parts: Sequence[Parts], start: Start, settings: RunSettings, progress: Progress
) -> Searched:
    """How many neurons of the published ranking."""
    scores, folder = start.scores, start.folder
    known = _known(folder.search, Candidate.from_dict, start.resumed)

    def finished(candidate: Candidate) -> None:
        if is_first():
            append_line(folder.search, candidate.to_dict())

    if settings.search == "golden-section":
        by = choose_by_accuracy(lm, scores, parts, paper_options(settings), Log(known, finished), progress)
        rows = [candidate.to_dict() for candidate in by.candidates]
        return Searched(tuple(scores.top(by.neurons)), 0.0, by.reason, "as asked", PUBLISHED, rows)
    on = [validation_part(lm, part.task.name, part.validation, part.task.instructions, settings.seed) for part in parts]
    most = min(settings.max_neurons, len(scores))
    prompts = sum(len(part.prompts) for part in on)
    with progress.step("Choosing how many", len(counts_up_to(most)) * prompts) as advance:
        measured = Measured(known, finished, advance)
        candidates = sweep(lm, scores, on, most, settings.batch_size, measured)
    choice = choose(candidates, settings.max_accuracy_loss)
    neurons = tuple(scores.top(choice.candidate.neurons))
    verdict = "untested" if neurons else "none"  # chosen by these questions alone
    return Searched(neurons, 0.0, choice.reason, verdict, PUBLISHED, [one.to_dict() for one in candidates])


def _tuned(
    lm: LanguageModel, parts: Sequence[Parts], start: Start, settings: RunSettings, progress: Progress
) -> Searched:
    """`search_edit` with the folder as its checkpoint, and the user's pick."""
    folder = start.folder
    checkpoint = Checkpoint(
        trials=_known(folder.search, Trial.from_dict, start.resumed),
        on_trial=lambda trial: append_line(folder.search, trial.to_dict()),
        on_interrupt=lambda trials: write_lines(folder.search, [trial.to_dict() for trial in trials]),
        scores=start.scores,
        original=start.reference,
        loop=_saved_loop(folder, start.resumed),
        on_round=lambda state: state.save(folder.loop),
        aside=start.aside,
    )
    tasks = [part.task for part in parts]
    options = replace(options_of(settings), time_budget=start.minutes)
    found = search_edit(lm, tasks, limits_of(settings), options, checkpoint, progress)
    if settings.pick == "ask":
        front, recommended = [trial.summary() for trial in found.front], found.decision.trial.number
        answer = on_first(lambda: progress.ask_for_trial(front, recommended, found.reason))
        found = found if answer == recommended else found.picked(lm, answer)
    elif settings.pick is not None:
        found = found.picked(lm, settings.pick)
    on_first(lambda: folder.loop.unlink(missing_ok=True))
    return _searched(found, limits_of(settings))


def _saved_loop(folder: RunFolder, resumed: bool) -> LoopState | None:
    """Where the loop of an interrupted search stood."""
    return on_first(lambda: LoopState.load(folder.loop) if resumed and folder.loop.exists() else None)


def _searched(found: Found, limits: Limits) -> Searched:
    """What a tuned search adds to ``results.json``."""
    decision = found.decision
    choice: dict[str, Any] = {
        "trial": decision.trial.number,
        "front": [trial.number for trial in decision.front],
        "finals": [trial.number for trial in decision.reevaluated],
    }
    if decision.verdict == "none":
        asked_alike = decision.reevaluated or [trial for trial in found.trials if trial.is_candidate]
        choice["nearest"] = nearest_edit(asked_alike, limits)
    if decision.control is not None and decision.over_original is not None and decision.over_control is not None:
        choice["control"] = decision.control.number
        choice["gain_over_original"] = decision.over_original.to_dict()
        choice["gain_over_random"] = decision.over_control.to_dict()
    rows, trial = [trial.summary() for trial in found.trials], decision.trial
    published = _published(found)
    if published is not None:
        choice["published"] = published.number
    return Searched(
        trial.neurons, trial.scale, decision.reason, decision.verdict, found.ranking, rows, {"choice": choice}
    )


def _published(found: Found) -> Trial | None:
    """The largest beginning of the published ranking that the divergence allows; else the nearest to the original."""
    tried = [trial for trial in found.trials if trial.recipe.get("ranking") == PUBLISHED]
    return max(tried, key=lambda trial: (trial.complete, -trial.figures.kl), default=None)


def origin_of(
    found: Searched, scores: NeuronScores, scores_hash: str, settings: RunSettings, tasks: Sequence[Task]
) -> dict[str, Any]:
    """Where an edit comes from, for ``edit.json``: what made it, and of the published ranking how it was computed.

    Args:
        found: By the search.
        scores: The published ranking.
        scores_hash: Of its file.
        settings: All options.
        tasks: That the edit is made for.
    """
    return {
        **edit_origin({**scores.origin, "scores": scores_hash}, found.ranking, found.reason),
        "seed": settings.seed,
        "made_by": procedure_of(settings, tasks),
        "preset": settings.preset,
    }
