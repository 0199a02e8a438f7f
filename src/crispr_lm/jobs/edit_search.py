"""The search step of a run: from scores to the edit that is recommended, and the record of what was tried.

Where settings, the folder of a run and the search meet; the search itself is in `crispr_lm.search`: `evaluator`,
`tuning`, `refinement` and `selection`, the plain sweep in `neuron_count`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar, get_args

from crispr_lm.attribution.effects import Effects
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.relevance import AGGREGATIONS, TokenAggregation
from crispr_lm.errors import InputError
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution
from crispr_lm.jobs.task_scores import score_tasks
from crispr_lm.model.load import LanguageModel
from crispr_lm.model.neuron_sites import NEURON_KINDS, Neuron, NeuronKind, find_sites
from crispr_lm.runtime.distributed import is_first, on_first
from crispr_lm.runtime.progress import Progress
from crispr_lm.search.evaluator import Bench
from crispr_lm.search.evidence import Asked, Ordinary, evidence_anew, ordinary_answers, search_effects
from crispr_lm.search.neuron_count import Candidate, choose, counts_up_to, golden_section, sweep, validation_part
from crispr_lm.search.rankings import RANKINGS, Evidence, Published, Recipe, ranked
from crispr_lm.search.reevaluation import FINALISTS, hear_finalists
from crispr_lm.search.refinement import refine
from crispr_lm.search.result import Searched
from crispr_lm.search.rounds import chains, follow
from crispr_lm.search.selection import Decision, decide, picked_by_hand
from crispr_lm.search.trial import Limits, Trial, best_within
from crispr_lm.search.tuning import Budget, Space, Tally, begin, best_so_far, tune
from crispr_lm.settings import RunSettings
from crispr_lm.storage.files import append_line, make_folder, write_lines
from crispr_lm.storage.run_folder import RunFolder, read_lines, read_rows
from crispr_lm.tasks.base import AttributeOn, of_condition, sample
from crispr_lm.tasks.parts import Parts

logger = logging.getLogger(__name__)

Tried = TypeVar("Tried", Trial, Candidate)
Choice = TypeVar("Choice", bound=str)


def search_edit(
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[Parts],
    original: ReferenceDistribution,
    settings: RunSettings,
    folder: RunFolder,
    resumed: bool,
    progress: Progress,
) -> Searched:
    """Find the edit as ``--search`` says; everything tried is appended to ``search.jsonl`` as it finishes.

    Args:
        lm: The model; left as it was.
        scores: The published ranking.
        parts: What of each task is used for what.
        original: The unedited model on neutral prompts.
        settings: All options.
        folder: The run's folder.
        resumed: Whether the folder holds trials of an interrupted run of the same settings.
        progress: Shows how far it is.

    Raises:
        InputError: the trial to pick is not on the front.
    """
    if settings.search == "tuned":
        trials = _known(folder.search, Trial.from_dict, resumed)
        found = _tuned(lm, scores, parts, original, settings, folder, trials, progress)
    else:
        candidates = _known(folder.search, Candidate.from_dict, resumed)
        found = _by_number(lm, scores, parts, settings, folder, candidates, progress)
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
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[Parts],
    settings: RunSettings,
    folder: RunFolder,
    known: Sequence[Candidate],
    progress: Progress,
) -> Searched:
    """How many neurons of the published ranking."""
    on = [validation_part(lm, part.task.name, part.validation, part.task.instructions, settings.seed) for part in parts]
    most = min(settings.max_neurons, len(scores))
    prompts = sum(len(part.prompts) for part in on)

    def finished(candidate: Candidate) -> None:
        if is_first():
            append_line(folder.search, candidate.to_dict())

    if settings.search == "golden-section":
        with progress.step("Choosing how many") as advance:
            choice, candidates = golden_section(lm, scores, on, most, settings.batch_size, known, finished, advance)
    else:
        with progress.step("Choosing how many", len(counts_up_to(most)) * prompts) as advance:
            candidates = sweep(lm, scores, on, most, settings.batch_size, known, finished, advance)
        choice = choose(candidates, settings.max_accuracy_loss)
    neurons = tuple(scores.top(choice.candidate.neurons))
    verdict = "untested" if neurons else "none"  # chosen by these questions alone
    return Searched(neurons, 0.0, choice.reason, verdict, [candidate.to_dict() for candidate in candidates])


def _tuned(
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[Parts],
    original: ReferenceDistribution,
    settings: RunSettings,
    folder: RunFolder,
    known: list[Trial],
    progress: Progress,
) -> Searched:
    """Passes, then rankings, numbers, kinds, strengths, layers; refined, and compared with random neurons."""
    limits = Limits(
        settings.max_kl,
        settings.max_accuracy_loss,
        settings.max_overabstention,
        min(settings.max_neurons, len(scores)),
        settings.caution,
    )
    on = [validation_part(lm, part.task.name, part.validation, part.task.instructions, settings.seed) for part in parts]
    further = [
        validation_part(lm, part.task.name, part.reevaluation, part.task.instructions, settings.seed) for part in parts
    ]
    bench = Bench(lm, on, original, limits, settings.batch_size, settings.seed, further)
    bench.progress = progress
    for trial in known:
        bench.remember(trial)
    seconds = None if settings.time_budget is None else 60 * settings.time_budget
    budget = Budget(settings.trials, seconds)
    kinds = _kinds(lm, scores)

    @cache
    def ordinary() -> Ordinary:
        with progress.step("Measuring effects on the unedited model's answers"):
            return on_first(
                lambda: ordinary_answers(lm, settings.neutral_prompts, kinds, settings.seed, settings.batch_size)
            )

    @cache
    def published(attribute_on: AttributeOn, token_aggregation: TokenAggregation) -> NeuronScores:
        wanted = settings.model_copy(update={"attribute_on": attribute_on, "token_aggregation": token_aggregation})
        return scores if wanted == settings else score_again(lm, parts, wanted, progress)

    @cache
    def evidence() -> Evidence:
        return _evidence(lm, published, parts, kinds, ordinary(), settings, folder, progress)

    asked = _asked(parts, settings)
    anew = lru_cache(1)(
        partial(evidence_anew, lm, published, asked, settings.seed, settings.batch_size, progress=progress)
    )

    def following(recipe: Recipe) -> Sequence[Neuron]:
        if not recipe.eliminated:
            return ranked("pursuit", evidence(), recipe)
        original = ordinary()
        return on_first(lambda: ranked("pursuit", anew(original, recipe.kind, recipe.eliminated, recipe.scale), recipe))

    planned = {
        "rounds": settings.rounds * len(kinds),
        "search": settings.trials,
        "refine": settings.refinements,
        "final": (1 + FINALISTS) * bool(bench.further_prompts),
        "control": 1,
    }
    left = {stage: max(0, count - sum(trial.stage == stage for trial in known)) for stage, count in planned.items()}
    with progress.step("Searching the best edit (trials)", left) as advance:

        def finished(trial: Trial) -> None:
            if is_first():
                append_line(folder.search, trial.to_dict())
            if trial.neurons:  # the original is no edit of a stage
                advance(1, trial.stage)
                so_far = f"; {best_so_far(tally.complete, limits)}" * trial.is_candidate
                progress.say(f"trial {trial.number}: {_one_line(trial)}{so_far}")

        tally = Tally(known, budget, finished)
        with _until_interrupted(tally, folder, progress):
            space = Space(
                tuple(RANKINGS),
                kinds,
                limits.neurons,
                len(parts),
                _conditions(parts, settings.attribute_on),
                _first(settings.token_aggregation, AGGREGATIONS),
            )
            begin(bench, tally)
            for chain in chains(kinds, limits.neurons, settings.rounds):
                follow(bench, chain, following, limits, tally)
            tune(bench, evidence, space, limits, budget, tally, settings.seed)
            best = best_within(tally.complete, limits) or tally.trials[0]
            refine(bench, best, limits, tally, settings.refinements, following)
        with _until_interrupted(tally, folder, progress, finals=True):
            hear_finalists(bench, tally, limits)
        decision = decide(bench, tally, limits, settings.seed, tally.finals)
    if settings.pick == "ask":
        front, recommended = [trial.summary() for trial in decision.front], decision.trial.number
        answer = on_first(lambda: progress.ask_for_trial(front, recommended, decision.reason))
        decision = decision if answer == recommended else picked_by_hand(decision, answer)
    elif settings.pick is not None:
        decision = picked_by_hand(decision, settings.pick)
    on_first(folder.forget_effects)
    return _searched(decision, tally)


@contextmanager
def _until_interrupted(tally: Tally, folder: RunFolder, progress: Progress, *, finals: bool = False) -> Iterator[None]:
    """Ctrl-C ends what is inside; what was tried until then, or heard of the finalists, is gone on with."""
    try:
        yield
    except KeyboardInterrupt:
        if not tally.trials:
            raise
        progress.say(f"Interrupted: going on with the {'finalists heard' if finals else 'best edit'} so far")
        trials = tally.cut_short(finals=finals)
        if is_first():  # a trial may have been known, and not yet on record
            write_lines(folder.search, [trial.to_dict() for trial in trials])


def _searched(decision: Decision, tally: Tally) -> Searched:
    rows = [trial.summary() for trial in tally.trials]
    told: dict[str, Any] = {
        "trial": decision.trial.number,
        "front": [trial.number for trial in decision.front],
        "finals": [trial.number for trial in decision.finals],
    }
    if decision.control is not None and decision.over_original is not None and decision.over_control is not None:
        told["control"] = decision.control.number
        told["gain_over_original"] = decision.over_original.to_dict()
        told["gain_over_random"] = decision.over_control.to_dict()
    trial = decision.trial
    return Searched(trial.neurons, trial.scale, decision.reason, decision.verdict, rows, {"choice": told})


def _kinds(lm: LanguageModel, scores: NeuronScores) -> tuple[NeuronKind, ...]:
    """Kinds of neurons to measure effects of: all that the model has."""
    there: list[NeuronKind] = []
    for kind in NEURON_KINDS:
        try:
            find_sites(lm.model, kind)
        except InputError as error:
            logger.info("%s", error)
        else:
            there.append(kind)
    return _first(scores.kind, there)


def _conditions(parts: Sequence[Parts], own: AttributeOn) -> tuple[AttributeOn, ...]:
    """Which examples rankings may be fitted on, those of the published one first: no others where a task has none."""
    choices: tuple[AttributeOn, ...] = get_args(AttributeOn)
    told = any(example.condition for part in parts for example in part.effects)
    there = all(of_condition(part.effects, attribute_on) for part in parts for attribute_on in choices)
    return _first(own, choices) if told and there else (own,)


def _first(own: Choice, choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """The choices, one of them before the others."""
    return tuple(sorted(choices, key=lambda choice: choice != own))


def score_again(lm: LanguageModel, parts: Sequence[Parts], settings: RunSettings, progress: Progress) -> NeuronScores:
    """B on as many examples of the condition that the settings name, of those that effects are measured on."""
    drawn = [
        sample(of_condition(part.effects, settings.attribute_on), settings.examples, settings.seed) for part in parts
    ]
    fits = [(part.task, examples) for part, examples in zip(parts, drawn, strict=True)]
    return score_tasks(lm, fits, settings, progress)


def _evidence(
    lm: LanguageModel,
    published: Published,
    parts: Sequence[Parts],
    kinds: Sequence[NeuronKind],
    original: Ordinary,
    settings: RunSettings,
    folder: RunFolder,
    progress: Progress,
) -> Evidence:
    """What rankings are computed from: taken from the folder where an interrupted run has left it, else measured."""
    files = [{kind: folder.effects(number, kind) for kind in kinds} for number in range(len(parts))]
    on_first(lambda: _save_effects(lm, parts, files, settings, progress))
    of_tasks = [{kind: Effects.load(path) for kind, path in of_task.items()} for of_task in files]
    joined = {kind: Effects.joined([of_task[kind] for of_task in of_tasks]) for kind in kinds}
    return Evidence(published, joined, original.unedited(), original.kept, of_tasks if len(of_tasks) > 1 else ())


def _save_effects(
    lm: LanguageModel,
    parts: Sequence[Parts],
    files: Sequence[Mapping[NeuronKind, Path]],
    settings: RunSettings,
    progress: Progress,
) -> None:
    """Measure effects on every task and keep them, unless an interrupted run has."""
    if all(path.exists() for of_task in files for path in of_task.values()):
        return
    asked = _asked(parts, settings)
    with progress.step("Measuring effects", sum(len(of_task.drawn(settings.seed)) for of_task in asked)) as advance:
        for given, of_task in zip(asked, files, strict=True):
            measured = search_effects(lm, given, tuple(of_task), settings.seed, settings.batch_size, advance)
            for kind, path in of_task.items():
                make_folder(path.parent)
                measured[kind].save(path)


def _asked(parts: Sequence[Parts], settings: RunSettings) -> list[Asked]:
    return [Asked(part.effects, settings.effect_examples, part.task.instructions) for part in parts]


def _one_line(trial: Trial) -> str:
    name = trial.recipe.get("ranking") or trial.recipe.get("change") or f"trial {trial.recipe['of']}, heard out"
    count = len(trial.neurons)
    return f"{name}, {count} neuron{'s' * (count != 1)}: {trial.outcome()}"
