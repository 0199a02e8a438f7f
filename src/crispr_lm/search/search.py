"""`search_edit`: from a model and its tasks to the edit that is recommended, and everything that was tried.

Rounds, then other rankings, then refinement; the best few are re-evaluated on further examples, and one of them is
selected and compared with random neurons. Needs no folder and no settings; whoever wants a search that can be resumed
gives it a `Checkpoint`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

from crispr_lm.attribution.activation_gradients import TOKEN_AGGREGATIONS
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.task_scores import score_tasks
from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, reference_distribution
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NEURON_KINDS, NeuronKind, find_sites
from crispr_lm.runtime.distributed import is_first
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.evaluator import Evaluator
from crispr_lm.search.evidence_source import EvidenceSource, KeepEffects, measured_once
from crispr_lm.search.neuron_count import ChoosePart, validation_part
from crispr_lm.search.options import SearchOptions, search_parts
from crispr_lm.search.rankings import RANKINGS
from crispr_lm.search.reevaluation import REEVALUATED, reevaluate_best
from crispr_lm.search.refinement import refine
from crispr_lm.search.result import Found
from crispr_lm.search.rounds import chains, follow
from crispr_lm.search.selection import decide
from crispr_lm.search.trial import Limits, Trial, best_within
from crispr_lm.search.trial_log import Budget, TrialLog
from crispr_lm.search.tuning import Space, begin, best_so_far, tune
from crispr_lm.tasks.base import AttributeOn, Example, Task, neutral_prompts, of_condition, template_hashes
from crispr_lm.tasks.parts import Parts

logger = logging.getLogger(__name__)

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class Checkpoint:
    """What a search starts from, and who is told what it has done. All of it may be left out.

    Attributes:
        trials: Of an interrupted search with the same model, tasks, limits and options: they are not measured again.
        on_trial: Called with each new trial as it finishes; with several processes, in the first alone.
        on_interrupt: Called after Ctrl-C, with all trials so far: one of them may not have reached `on_trial`.
        scores: The published ranking, as `score_neurons` gives it for the options; measured where it is None.
        original: The unedited model on the neutral prompts; measured where it is None.
        keep_effects: Keeps effects of all neurons between searches; they are large.
    """

    trials: Sequence[Trial] = ()
    on_trial: Callable[[Trial], None] = lambda _trial: None
    on_interrupt: Callable[[Sequence[Trial]], None] = lambda _trials: None
    scores: NeuronScores | None = None
    original: ReferenceDistribution | None = None
    keep_effects: KeepEffects = measured_once


def search_edit(
    lm: LanguageModel,
    task: Task | Sequence[Task],
    limits: Limits | None = None,
    options: SearchOptions | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Found:
    """Search the edit of at most so many neurons that takes the most bias within the limits, as ``crispr-lm run`` does.

    Uses the attribution and validation splits of each task; ``task.split(seed).test`` is left to measure the edit on.
    The same arguments give the same trials and the same edit, also where a search is resumed.

    Args:
        lm: The model, unedited; left as it was.
        task: One task, or several that one edit is to serve.
        limits: What the edit may cost; by default as the command.
        options: Sizes of samples, how much is tried, and the seed; by default as the command.
        checkpoint: Trials of an interrupted search, and callbacks for new ones.
        progress: Shows how far it is.

    Returns:
        The edit with verdict and reason, all trials, and their Pareto front. Ctrl-C ends the search with the best edit
        so far.

    Raises:
        InputError: too few templates or examples.
    """
    options, checkpoint = options or SearchOptions(), checkpoint or Checkpoint()
    tasks = [task] if isinstance(task, Task) else list(task)
    parts = [search_parts(one, options) for one in tasks]
    search = _Search(lm, parts, limits or Limits(), options, checkpoint, progress or SilentProgress())
    return search.run()


class _Search:
    """One search, and what it has measured."""

    def __init__(
        self,
        lm: LanguageModel,
        parts: Sequence[Parts],
        limits: Limits,
        options: SearchOptions,
        checkpoint: Checkpoint,
        progress: Progress,
    ) -> None:
        self._lm, self._parts, self._options = lm, parts, options
        self._checkpoint, self._progress = checkpoint, progress
        fits = [(part.task, part.attribution) for part in parts]
        self._scores = score_tasks(lm, fits, options, progress) if checkpoint.scores is None else checkpoint.scores
        self._limits = replace(limits, neurons=min(limits.neurons, len(self._scores)))
        self._kinds = _kinds(lm, self._scores)
        self._source = EvidenceSource(lm, parts, self._scores, self._kinds, options, progress)
        self._source.keep = checkpoint.keep_effects
        original = self._measured_original() if checkpoint.original is None else checkpoint.original
        self._evaluator = self._new_evaluator(original)
        for trial in checkpoint.trials:
            self._evaluator.remember(trial)

    def run(self) -> Found:
        """Search and select."""
        options, limits, evaluator = self._options, self._limits, self._evaluator
        on_trial, progress = self._checkpoint.on_trial, self._progress
        seconds = None if options.time_budget is None else 60 * options.time_budget
        with progress.step("Searching the best edit (trials)", self._left()) as advance:
            # The log refers to this, and this to the log: not to `self`, so that the effects, which are large, are
            # freed as soon as the search is over.
            def finished(trial: Trial) -> None:
                if is_first():
                    on_trial(trial)
                if trial.neurons:  # the original is no edit of a stage
                    advance(1, trial.stage)
                    so_far = f"; {best_so_far(log.complete, limits)}" * trial.is_candidate
                    progress.say(f"trial {trial.number}: {_one_line(trial)}{so_far}")

            budget = Budget(options.trials, seconds)
            log = TrialLog(self._checkpoint.trials, budget, finished)
            with self._until_interrupted(log):
                self._try_edits(log, budget)
            with self._until_interrupted(log, reevaluating=True):
                reevaluate_best(evaluator, log, limits)
            decision = decide(evaluator, log, limits, options.seed, log.reevaluated)
        trial, origin = decision.trial, {**self._scores.origin, "reason": decision.reason}
        made_on = template_hashes(example for part in self._parts for example in part.searched_on)
        edit = Edit.from_neurons(self._lm, trial.neurons, trial.scale, origin, made_on)
        return Found(edit, tuple(log.trials), decision)

    def _try_edits(self, log: TrialLog, budget: Budget) -> None:
        """Everything that brings edits into question."""
        options, limits, evaluator, source = self._options, self._limits, self._evaluator, self._source
        space = Space(
            tuple(RANKINGS),
            self._kinds,
            limits.neurons,
            len(self._parts),
            _conditions(self._parts, options.attribute_on),
            _first(options.token_aggregation, TOKEN_AGGREGATIONS),
        )
        begin(evaluator, log)
        for chain in chains(self._kinds, limits.neurons, options.rounds):
            follow(evaluator, chain, source.following, limits, log)
        tune(evaluator, lambda: source.evidence, space, limits, budget, log, options.seed)
        best = best_within(log.complete, limits) or log.trials[0]
        refine(evaluator, best, limits, log, options.refinements, source.following)

    def _left(self) -> dict[str, int]:
        """By stage how many trials are to come at most."""
        options = self._options
        planned = {
            "rounds": options.rounds * len(self._kinds),
            "search": options.trials,
            "refine": options.refinements,
            "final": (1 + REEVALUATED) * bool(self._evaluator.further_prompts),
            "control": 1,
        }
        known = [trial.stage for trial in self._checkpoint.trials]
        return {stage: max(0, count - known.count(stage)) for stage, count in planned.items()}

    def _new_evaluator(self, original: ReferenceDistribution) -> Evaluator:
        options = self._options

        def encoded(part: Parts, examples: Sequence[Example]) -> ChoosePart:
            return validation_part(self._lm, part.task.name, examples, part.task.instructions, options.seed)

        on = [encoded(part, part.validation) for part in self._parts]
        further = [encoded(part, part.reevaluation) for part in self._parts]
        evaluator = Evaluator(self._lm, on, original, self._limits, options.batch_size, options.seed, further)
        evaluator.progress = self._progress
        return evaluator

    def _measured_original(self) -> ReferenceDistribution:
        texts = neutral_prompts()[: self._options.neutral_prompts]
        with self._progress.step("Continuing neutral prompts", len(texts)) as advance:
            return reference_distribution(self._lm, texts, batch_size=self._options.batch_size, progress=advance)

    @contextmanager
    def _until_interrupted(self, log: TrialLog, *, reevaluating: bool = False) -> Iterator[None]:
        """Ctrl-C ends what is inside; the search goes on with the trials until then."""
        try:
            yield
        except KeyboardInterrupt:
            if not log.trials:
                raise
            what = "edits re-evaluated" if reevaluating else "best edit"
            self._progress.say(f"Interrupted: going on with the {what} so far")
            trials = log.cut_short(reevaluating=reevaluating)
            if is_first():
                self._checkpoint.on_interrupt(trials)


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
    conditioned = any(example.condition for part in parts for example in part.effects)
    there = all(of_condition(part.effects, attribute_on) for part in parts for attribute_on in choices)
    return _first(own, choices) if conditioned and there else (own,)


def _first(own: Choice, choices: Iterable[Choice]) -> tuple[Choice, ...]:
    """The choices, one of them before the others."""
    return tuple(sorted(choices, key=lambda choice: choice != own))


def _one_line(trial: Trial) -> str:
    name = trial.recipe.get("ranking") or trial.recipe.get("change") or f"trial {trial.recipe['of']}, re-evaluated"
    count = len(trial.neurons)
    return f"{name}, {count} neuron{'s' * (count != 1)}: {trial.outcome()}"
