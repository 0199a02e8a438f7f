"""The final heat: the few edits that may be recommended are asked further questions before one of them is.

Dozens of edits, each made in the light of what the one before has cost, fit the questions they are tried on: the best
of them is so by chance in part, and costs more elsewhere. Questions of the same part that none was made or taken for
tell what is left of it. Knows trials and a bench; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crispr_lm.search.evaluator import Bench, Proposal
from crispr_lm.search.trial import Limits, Trial, best_within, merit
from crispr_lm.search.tuning import Tally

FINALISTS = 8
"""Edits that are heard out; more, up to twice as many, while those that are left have gained more than the best that
keeps the limits has then."""


def hear_finalists(bench: Bench, tally: Tally, limits: Limits) -> list[Trial]:
    """Hear out the edits that promise to keep the limits, by falling gain; each is a trial of its own in the tally.

    Those are the best trades that keep the limits without a margin for doubt (`Limits.caution`), which the further
    questions make smaller. What Ctrl-C has cut short before is not made longer.

    Args:
        bench: Where edits are asked.
        tally: The trials, to which these are added.
        limits: On the cost of an edit.

    Returns:
        The original, then the finalists; nothing where there is no further question, or no edit was heard.
    """
    waiting = entrants(tally.complete, limits)
    if not (bench.further_prompts and waiting) or tally.went_on_from("final"):
        return []
    original = _heard(bench, tally, tally.trials[0], None)
    finals: list[Trial] = []
    for trial in waiting:
        best = best_within(finals, limits)
        enough = len(finals) >= FINALISTS and best is not None and best.figures.gain >= trial.figures.gain
        if enough or tally.went_on_from("final"):
            break
        finals.append(_heard(bench, tally, trial, original))
    return [original, *finals] if finals else []


def as_tried(trial: Trial, tally: Tally) -> Trial:
    """The trial of the search that a finalist is; any other trial itself."""
    return tally.trials[trial.recipe["of"]] if trial.stage == "final" else trial


def entrants(trials: Sequence[Trial], limits: Limits) -> list[Trial]:
    """Edits that may be heard out, by falling gain: so many of the best trades within the limits that there are enough.

    The best trades gain the more the more they are expected to lose; without these there are the next best, ...
    """
    certain = replace(limits, caution=0.0)
    edits = {
        trial.edit: trial  # no edit twice, whatever it came of
        for trial in reversed(trials)
        if trial.neurons and trial.figures.gain > 0 and trial.figures.within(certain)
    }
    left = sorted(edits.values(), key=merit, reverse=True)
    enough: list[Trial] = []
    while left and len(enough) < FINALISTS:
        best: list[Trial] = []
        others: list[Trial] = []
        for trial in left:
            cheaper = not best or trial.figures.expected_loss < best[-1].figures.expected_loss
            (best if cheaper else others).append(trial)
        enough, left = enough + best, others
    return sorted(enough, key=merit, reverse=True)[: 2 * FINALISTS]


def _heard(bench: Bench, tally: Tally, trial: Trial, original: Trial | None) -> Trial:
    return tally.run(
        lambda: Proposal("final", {"of": trial.number}, trial.neurons, trial.scale),
        lambda number, proposal: bench.hear_out(number, proposal, trial, original),
    )
