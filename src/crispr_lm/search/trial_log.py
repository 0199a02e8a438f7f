"""The trial log: what a search has tried so far, what an interrupted one tried before, and what is left of the budget.

Knows trials; knows no strategy and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from crispr_lm.runtime.distributed import on_first
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Finished, Trial


class TrialLog:
    """The trials so far, those of an interrupted run among them, and what is left of the budget."""

    def __init__(self, known: Sequence[Trial], seconds: float | None, finished: Finished) -> None:
        self.trials: list[Trial] = []
        self._known = {trial.number: trial for trial in known}
        self._seconds = seconds
        self._finished = finished
        self._start = time.monotonic()
        self._before = sum(trial.seconds for trial in known)

    @property
    def complete(self) -> list[Trial]:
        """Candidates that were asked every example, the original first."""
        return [trial for trial in self.trials if trial.complete and trial.is_candidate]

    @property
    def _next(self) -> Trial | None:
        """What an interrupted run has done next."""
        return self._known.get(len(self.trials))

    def has_time_for(self, seconds: float) -> bool:
        """Whether what takes so long is expected to end within the budget."""
        limit = self._seconds
        if limit is None:
            return True
        # Clocks differ between processes, which must all stop at the same trial.
        return on_first(lambda: self._before + time.monotonic() - self._start + seconds < limit)

    def run(self, propose: Callable[[], Proposal], attempt: Callable[[int, Proposal], Trial]) -> Trial:
        """Take the next trial from the interrupted run, or else propose and try it."""
        known = self._next
        if known is not None:
            self.trials.append(known)
            return known
        start = time.monotonic()
        proposal = propose()
        proposing = time.monotonic() - start
        trial = attempt(len(self.trials), proposal)
        # All that it took: what it was proposed by (effects measured anew) often takes longer than asking it.
        trial = replace(trial, seconds=round(trial.seconds + proposing, 3))
        self.trials.append(trial)
        self._finished(trial)
        return trial

    @property
    def is_behind(self) -> bool:
        """Whether an interrupted run has done more."""
        return self._next is not None

    def take_known(self, stage: str, **recipe: object) -> Trial | None:
        """Take the next trial from the interrupted run, if it is one of this stage and with this in its recipe."""
        known = self._next
        if known is None or known.stage != stage or any(known.recipe.get(name) != of for name, of in recipe.items()):
            return None
        self.trials.append(known)
        return known

    def attempt(self, evaluator: Evaluator, proposal: Proposal) -> Trial:
        """Take the next trial from the interrupted run, or else try this."""
        return self.run(lambda: proposal, lambda number, made: evaluator.attempt(number, made, self.trials[0]))

    @property
    def reevaluated(self) -> list[Trial]:
        """Trials of the re-evaluation, that of the original first; none where only the original was."""
        reevaluated = [trial for trial in self.trials if trial.stage == "final"]
        return reevaluated if len(reevaluated) > 1 else []

    def went_on_from(self, stage: str) -> bool:
        """Whether an interrupted run has done nothing further of a stage, and something of another."""
        return self._next is not None and self._next.stage != stage

    def cut_short(self, *, reevaluating: bool = False) -> list[Trial]:
        """Take what is left of the interrupted run's edits, or of its re-evaluations, and try none further.

        Returns:
            Every trial that there is, which is what the record must then hold.
        """
        while self._next is not None and (self._next.stage == "final" if reevaluating else self._next.is_candidate):
            self.trials.append(self._next)
        return [*self.trials, *(trial for trial in self._known.values() if trial.number >= len(self.trials))]
