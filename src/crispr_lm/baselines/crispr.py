"""The original model, this library's method as one row among the others, and the published way."""

from __future__ import annotations

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.edits.edit import Edit
from crispr_lm.search.neuron_count import golden_section, validation_part


def original(_fit: Fit, _draw: int) -> Treatment:
    """Nothing is done."""
    return Treatment()


def published(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B, as many and as strongly as in CRISPR's edit."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind).values)))


def authors_choice(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B, their number chosen as the authors' code does: by accuracy alone.

    A golden-section search on the plain accuracy on the validation split, up to the largest number of the settings.
    """
    parts, settings, scores = fit.parts, fit.settings, fit.scores()
    on = validation_part(fit.lm, parts.task.name, parts.validation, fit.instructions, settings.seed)
    most = min(settings.max_neurons, len(scores))
    with fit.progress.step(f"Golden section on {parts.task.name}") as advance:
        choice, _ = golden_section(fit.lm, scores, [on], most, settings.batch_size, [fit.original], progress=advance)
    edit = Edit.from_neurons(fit.lm, scores.top(choice.candidate.neurons), origin={"task": parts.task.name})
    return Treatment(edit=edit, details={"reason": choice.reason}, recommended=choice.candidate.neurons > 0)


def crispr(fit: Fit, _draw: int) -> Treatment:
    """The edit that ``crispr-lm run`` would make for this task."""
    chosen = fit.chosen
    return Treatment(edit=fit.edit(chosen.neurons), details={"reason": chosen.reason}, recommended=chosen.recommended)
