"""Refinement: an edit checked neuron by neuron. Attribution is first-order, so what it says is verified causally.

Halving: leave a half of the neurons out, then a quarter, ... down to single ones; what can be left out without harm is
left out. Additions: the effects are measured anew with the edit in place, and the neurons that then rank first are
added. Knows trials and a bench; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

from crispr_lm.bench import Bench, Proposal
from crispr_lm.model.neurons import Neuron
from crispr_lm.trials import Limits, Trial
from crispr_lm.tuning import Tally

SecondPass = Callable[[Trial, int], Sequence[Neuron]]
"""The neurons, so many at most, that rank first once a trial's edit is in place."""

ADDITIONS = (0.5, 0.25, 0.1)
"""How many neurons are added, as shares of the edit's."""


def refine(
    bench: Bench, start: Trial, limits: Limits, tally: Tally, attempts: int, second_pass: SecondPass | None = None
) -> Trial:
    """Improve an edit by leaving neurons out and adding others; every attempt is a trial of its own.

    An attempt is kept if it stays within the limits and gains at least as much at no higher loss (fewer neurons), or
    gains more (additional neurons). So the result is never worse than the start on the examples of the bench.

    Args:
        bench: Where edits are tried.
        start: A complete trial within the limits.
        limits: On the cost of an edit.
        tally: Where trials go.
        attempts: Trials that refinement may take, a third of them for additions.
        second_pass: Ranks neurons anew with an edit in place, called at most once; None adds nothing.
    """
    best, left = start, attempts
    room = limits.neurons - len(start.neurons)
    if second_pass is not None and room > 0:

        @cache
        def order() -> Sequence[Neuron]:
            return second_pass(start, room)

        counts = sorted({min(room, max(1, round(share * len(start.neurons)))) for share in ADDITIONS}, reverse=True)
        for count in counts[: attempts // 3]:
            trial = _attempt(bench, tally, start, f"{count} added", partial(_with_more, start, count, order))
            left -= 1
            if trial is not None and trial.complete and trial.figures.within(limits) and _gains_more(trial, start):
                best = trial
                break
    return _halve(bench, best, limits, tally, left)


def _halve(bench: Bench, best: Trial, limits: Limits, tally: Tally, left: int) -> Trial:
    """Leave out what can be left out: halves, quarters, ... single neurons, the lowest ranks first."""
    size = len(best.neurons) // 2
    while size >= 1 and left > 0:
        dropped_one = False
        for chunk in _chunks_from_behind(best.neurons, size):
            if left == 0:
                return best
            if len(chunk) == len(best.neurons):
                continue
            kept = tuple(neuron for neuron in best.neurons if neuron not in set(chunk))
            trial = _attempt(bench, tally, best, f"{len(chunk)} left out", partial(tuple, kept))
            left -= 1
            if trial is not None and _no_worse(trial, best, limits):
                best, dropped_one = trial, True
        if not dropped_one or size == 1:
            size = size // 2
    return best


def _attempt(
    bench: Bench, tally: Tally, base: Trial, what: str, neurons: Callable[[], Sequence[Neuron]]
) -> Trial | None:
    """Try a changed edit; None where there is no time left for it."""
    if tally.is_over("refine"):
        return None
    recipe = {"from": base.number, "change": what}
    return tally.run(
        lambda: Proposal("refine", recipe, tuple(neurons()), base.scale),
        lambda number, proposal: bench.attempt(number, proposal, [tally.trials[0], base], race=True),
    )


def _with_more(trial: Trial, count: int, order: Callable[[], Sequence[Neuron]]) -> tuple[Neuron, ...]:
    there = set(trial.neurons)
    return (*trial.neurons, *[neuron for neuron in order() if neuron not in there][:count])


def _gains_more(trial: Trial, best: Trial) -> bool:
    return trial.figures.gain > best.figures.gain


def _no_worse(trial: Trial, best: Trial, limits: Limits) -> bool:
    figures = trial.figures
    return (
        trial.complete
        and figures.within(limits)
        and figures.gain >= best.figures.gain
        and (figures.loss <= max(best.figures.loss, 0.0))
    )


def _chunks_from_behind(neurons: Sequence[Neuron], size: int) -> Iterator[Sequence[Neuron]]:
    for end in range(len(neurons), 0, -size):
        yield neurons[max(0, end - size) : end]
