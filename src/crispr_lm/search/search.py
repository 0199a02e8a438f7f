"""`search_edit`: from a model and its tasks to the edit that is recommended, and everything that was tried.

The published ranking, then rounds of gradient steps, then backward elimination; the best few are re-evaluated on
further examples, and one of them is selected and compared with random neurons. Needs no folder and no settings; whoever
wants a search that can be resumed gives it a `Checkpoint`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import cycle

from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.task_scores import score_tasks
from crispr_lm.edits.edit import Edit
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, reference_distribution
from crispr_lm.inference.prompts import open_question
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron, searched_kinds
from crispr_lm.runtime.distributed import is_first, with_model
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.backward_elimination import TO_FEWER, TO_LIMITS, eliminate_backward, keep_within_limits
from crispr_lm.search.cost import AFTER_ROUNDS, search_passes
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.loop import Loop, LoopState, Ordinary
from crispr_lm.search.neuron_count import ChoosePart, validation_part
from crispr_lm.search.options import REFERENCE_PROMPTS, STEPS, SearchOptions, search_parts
from crispr_lm.search.rankings import PUBLISHED, RANKINGS
from crispr_lm.search.reevaluation import REEVALUATED, entrants, reevaluate_best
from crispr_lm.search.result import Found, edit_origin, ranking_of
from crispr_lm.search.selection import decide
from crispr_lm.search.side_effects import FACTS, AskedAside, SideEffects, asked_aside
from crispr_lm.search.trial import Limits, Trial, best_within
from crispr_lm.search.trial_log import TrialLog
from crispr_lm.tasks.base import Example, Task, neutral_prompts, open_instructions, template_hashes
from crispr_lm.tasks.knowledge import ordinary_questions
from crispr_lm.tasks.parts import Parts


@dataclass(frozen=True)
class Checkpoint:
    """What a search starts from, and who is told what it has done. All of it may be left out.

    Attributes:
        trials: Of an interrupted search with the same model, tasks, limits and options: they are not measured again.
        on_trial: Called with each new trial as it finishes; with several processes, in the first alone.
        on_interrupt: Called after Ctrl-C, with all trials so far: one of them may not have reached `on_trial`.
        scores: The published ranking, as `score_neurons` gives it for the options; measured where it is None.
        original: The unedited model on the neutral prompts; measured where it is None.
        loop: Where the loop of an interrupted search stood; its gradients are taken again where it is None.
        on_round: Called with where the loop stands after each round's gradient steps, before their edit is tried.
        aside: The questions on side effects; those of `asked_aside` where it is None.
    """

    trials: Sequence[Trial] = ()
    on_trial: Callable[[Trial], None] = lambda _trial: None
    on_interrupt: Callable[[Sequence[Trial]], None] = lambda _trials: None
    scores: NeuronScores | None = None
    original: ReferenceDistribution | None = None
    loop: LoopState | None = None
    on_round: Callable[[LoopState], None] = lambda _state: None
    aside: AskedAside | None = None


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
        self._gates = Gates(lm, searched_kinds(options.neurons))
        self._limits = replace(limits, neurons=min(limits.neurons, self._gates.count))
        fits = [(part.task, part.attribution) for part in parts]
        scores = checkpoint.scores
        self._scores = score_tasks(lm, fits, options, progress) if scores is None else scores
        original = checkpoint.original
        of_tasks = [part.task for part in parts]
        self._aside = checkpoint.aside or asked_aside(of_tasks, self._limits, options.seed)
        self._evaluator = self._new_evaluator(self._measured_original() if original is None else original)
        self._round_seconds = 0.0
        for trial in checkpoint.trials:
            self._evaluator.remember(trial)

    def run(self) -> Found:
        """Search and select."""
        options, limits, evaluator = self._options, self._limits, self._evaluator
        seconds = None if options.time_budget is None else 60 * options.time_budget
        with self._progress.step("Searching the best edit (trials)", self._left()) as advance:

            def finished(trial: Trial) -> None:
                if is_first():
                    self._checkpoint.on_trial(trial)
                if trial.neurons:  # the original is no edit of a stage
                    advance(1, trial.stage)
                    so_far = f"; {best_so_far(log.complete, limits)}" * trial.is_candidate
                    self._progress.say(f"trial {trial.number}: {_one_line(trial)}{so_far}")

            log = TrialLog(self._checkpoint.trials, seconds, finished)
            with self._until_interrupted(log):
                self._try_edits(log)
            with self._until_interrupted(log, reevaluating=True):
                reevaluate_best(evaluator, log, limits)
            decision = decide(evaluator, log, limits, options.seed, log.reevaluated)
        trial, scores_origin = decision.trial, self._scores.origin
        origin = edit_origin(scores_origin, ranking_of(trial, log.trials), decision.reason)
        searched_on = [part.searched_on for part in self._parts]
        made_on = template_hashes(example for examples in (*searched_on, self._aside.examples) for example in examples)
        edit = Edit.from_neurons(self._lm, trial.neurons, trial.scale, origin, made_on)
        return Found(edit, tuple(log.trials), decision, scores_origin)

    def _try_edits(self, log: TrialLog) -> None:
        """Everything that brings edits into question: rankings, the loop's rounds, and fewer neurons of the best."""
        original = log.run(lambda: Proposal("original", {}, ()), self._evaluator.attempt)
        if self._aside.facts is not None and FACTS not in original.aside:
            self._progress.say(
                "The model answers questions on facts about groups no better than by chance: no limit is on their loss"
            )
        self._try_ranking(PUBLISHED, lambda: self._scores.top(self._limits.neurons), log)
        for name, ranking in RANKINGS.items():
            self._try_ranking(name, partial(ranking.rank, self._lm, self._parts), log)
        self._follow_gradient(log)
        self._keep_within_limits(log)
        best, *_ = [*entrants(log.complete, self._limits), None]
        if best is not None:
            eliminate_backward(self._evaluator, log, best, self._limits)

    def _try_ranking(self, name: str, rank: Callable[[], Sequence[Neuron]], log: TrialLog) -> None:
        """Try the beginning of a ranking: the largest number of neurons, halved until the divergence allows it."""
        order, count = cache(lambda: tuple(with_model(rank))), self._limits.neurons
        while count and not log.went_on_from("rankings"):
            recipe = {"ranking": name}
            trial = log.take_known("rankings", **recipe)
            if trial is None:
                trial = log.attempt(self._evaluator, Proposal("rankings", recipe, order()[:count]))
            if trial.complete:
                return
            count //= 2

    def _keep_within_limits(self, log: TrialLog) -> None:
        """Give back neurons of the round's edit that tells the conditions apart best, if it is beyond the limits."""
        rounds = [trial for trial in log.complete if trial.stage == "rounds"]
        best = max(rounds, key=lambda trial: (trial.figures.abstention_gap, trial.number), default=None)
        if best is not None and not best.figures.within(self._limits.with_doubt):
            keep_within_limits(self._evaluator, log, best, self._limits)

    def _follow_gradient(self, log: TrialLog) -> None:
        """Rounds of gradient steps; the edit that each has come to is tried.

        What an interrupted search has tried needs no gradient, unless further rounds are to come.
        """
        loop = self._checkpoint.loop
        reached = 0 if loop is None else loop.step // STEPS
        for number in range(1, self._options.rounds + 1):
            if log.went_on_from("rounds"):
                return
            if log.take_known("rounds", round=number) is not None or log.is_behind or number < reached:
                continue  # it was tried before, or not clear enough to be
            self._advance(number)
            neurons = self._loop.edit()
            is_last = number == self._options.rounds or not self._has_time_for_another(log)
            if neurons and (self._loop.is_clear or is_last):
                log.attempt(self._evaluator, Proposal("rounds", {"round": number}, neurons))
            if is_last:
                return

    def _advance(self, number: int) -> None:
        """Take the gradient steps up to those of a round, from where the loop stands."""
        loop = self._loop
        while loop.state.step // STEPS < number:
            start = time.monotonic()
            loop.round(self._progress)
            self._round_seconds = time.monotonic() - start
            if is_first():
                self._checkpoint.on_round(loop.state)

    def _has_time_for_another(self, log: TrialLog) -> bool:
        """Whether another round, and what comes after the rounds, is expected to end within the time budget."""
        without_rounds = search_passes(self._parts, replace(self._options, rounds=0), self._aside)
        passes = sum(without_rounds[step].forward for step in AFTER_ROUNDS)
        asked = self._evaluator.prompts + len(self._aside.examples)
        return log.has_time_for(self._round_seconds + passes * log.trials[0].seconds / max(asked, 1))

    @cached_property
    def _loop(self) -> Loop:
        loop = Loop(self._lm, self._parts, self._gates, self._ordinary, self._limits, self._options)
        loop.state = self._checkpoint.loop or loop.state
        return loop

    @cached_property
    def _ordinary(self) -> Ordinary:
        """Neutral prompts that the divergence is not measured on, and short questions without options."""
        texts = neutral_prompts()
        aside = texts[self._options.neutral_prompts :] or texts
        asked = zip(ordinary_questions(), cycle(open_instructions()), strict=False)
        written = [open_question(question.question, instruction) for question, instruction in asked]
        half = REFERENCE_PROMPTS // 2
        mixed = [*aside[:half], *written[:half]]
        with self._progress.step("Continuing reference prompts", len(mixed)) as advance:
            reference = reference_distribution(self._lm, mixed, batch_size=self._options.batch_size, progress=advance)
        with self._progress.step("Measuring what they hang on", len(mixed)) as advance:
            return Ordinary.measured(self._gates, reference, advance)

    def _left(self) -> dict[str, int]:
        """By stage how many trials are to come at most."""
        planned = {
            "rankings": 1 + len(RANKINGS),
            "rounds": self._options.rounds,
            "elimination": TO_LIMITS + TO_FEWER,
            "final": (1 + REEVALUATED) * bool(self._evaluator.further_prompts or self._aside.examples),
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
        evaluator = Evaluator(self._lm, on, original, self._limits, options.batch_size, further)
        evaluator.progress = self._progress
        evaluator.side_effects = SideEffects(self._lm, self._aside, options.seed, options.batch_size)
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


def best_so_far(trials: Sequence[Trial], limits: Limits) -> str:
    """The best edit within the limits, in a few words."""
    best = best_within(trials, limits)
    if best is None or not best.neurons:
        return "none within the limits yet"
    return f"best so far: trial {best.number}, {best.outcome()}"


def _one_line(trial: Trial) -> str:
    recipe = trial.recipe
    name = recipe.get("ranking") or recipe.get("change") or f"trial {recipe.get('of')}, re-evaluated"
    name = f"round {recipe['round']}" if "round" in recipe else name
    count = len(trial.neurons)
    return f"{name}, {count} neuron{'s' * (count != 1)}: {trial.outcome()}"
