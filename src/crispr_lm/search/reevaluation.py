"""Re-evaluation: the few edits that may be recommended are asked further questions before one of them is.

Dozens of edits, each made in the light of what the one before has cost, fit the questions they are tried on: the best
of them is so by chance in part, and costs more elsewhere. Questions of the same part that none was made or taken for
tell what is left of it, and questions on side effects what else it has changed. Knows trials and an evaluator; knows no
model.
"""

from __future__ import annotations

from collections.abc import Sequence

from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.trial import Limits, Trial, best_within, merit
from crispr_lm.search.trial_log import TrialLog

REEVALUATED = 3
"""Edits that are re-evaluated; more, up to twice as many, while none of them keeps the limits. So how many are tested
for a gain depends on costs alone, which other questions tell."""


def reevaluate_best(evaluator: Evaluator, log: TrialLog, limits: Limits) -> list[Trial]:
    """Re-evaluate the edits that promise to keep the limits, by falling gain; each is a trial of its own in the log.

    Those are the best trades that are not beyond a limit by more than a standard error (`Limits.with_doubt`), which the
    further questions make smaller. What Ctrl-C has cut short before is not made longer.

    Args:
        evaluator: Where edits are asked.
        log: The trials, to which these are added.
        limits: On the cost of an edit.

    Returns:
        The original, then the re-evaluated edits; nothing where there is nothing further to ask, or no such edit.
    """
    waiting = entrants(log.complete, limits)
    if not ((evaluator.further_prompts or log.trials[0].aside) and waiting) or log.went_on_from("final"):
        return []
    original = _reevaluate(evaluator, log, log.trials[0], None)
    reevaluated: list[Trial] = []
    for trial in waiting:
        enough = len(reevaluated) >= REEVALUATED and best_within(reevaluated, limits) is not None
        if enough or log.went_on_from("final"):
            break
        reevaluated.append(_reevaluate(evaluator, log, trial, original))
    return [original, *reevaluated] if reevaluated else []


def as_tried(trial: Trial, log: TrialLog) -> Trial:
    """The trial of the search that a re-evaluated edit is; any other trial itself."""
    return log.trials[trial.recipe["of"]] if trial.stage == "final" else trial


def entrants(trials: Sequence[Trial], limits: Limits) -> list[Trial]:
    """Edits that may be re-evaluated, by falling gain: as many of the best trades within the limits as are enough.

    The best trades gain the more the more they are expected to lose; without these there are the next best, ...
    """
    lenient = limits.with_doubt
    edits = {
        trial.edit: trial  # no edit twice, whatever it came of
        for trial in reversed(trials)
        if trial.neurons and trial.figures.gain > 0 and trial.figures.within(lenient)
    }
    left = sorted(edits.values(), key=merit, reverse=True)
    enough: list[Trial] = []
    while left and len(enough) < REEVALUATED:
        best: list[Trial] = []
        others: list[Trial] = []
        for trial in left:
            cheaper = not best or trial.figures.expected_loss < best[-1].figures.expected_loss
            (best if cheaper else others).append(trial)
        enough, left = enough + best, others
    return sorted(enough, key=merit, reverse=True)[: 2 * REEVALUATED]


def _reevaluate(evaluator: Evaluator, log: TrialLog, trial: Trial, original: Trial | None) -> Trial:
    return log.run(
        lambda: Proposal("final", {"of": trial.number}, trial.neurons, trial.scale),
        lambda number, proposal: evaluator.reevaluate(number, proposal, trial, original),
    )
