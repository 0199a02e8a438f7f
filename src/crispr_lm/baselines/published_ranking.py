"""The unedited model, the edit of the crispr-lm search, and edits by the ranking of CRISPR (paper) alone."""

from __future__ import annotations

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.edits.edit import Edit
from crispr_lm.search.neuron_count import Measured, golden_section, validation_part


def unedited(_fit: Fit, _draw: int) -> Treatment:
    """Nothing is done."""
    return Treatment()


def searched_edit(fit: Fit, _draw: int) -> Treatment:
    """The edit that ``crispr-lm run`` would make for this task."""
    chosen = fit.chosen
    return Treatment(edit=fit.edit(chosen.neurons), details={"reason": chosen.reason}, recommended=chosen.recommended)


def highest_bias_influence(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B, as many and with the same scale as in the search's edit."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind).values)))


def golden_section_on_accuracy(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B; their number by a golden-section search on plain accuracy.

    The accuracy is that on the validation split, and the number at most the largest of the settings. The paper's
    published code chooses the number by the same rule; kind of neurons, examples, scoring and range are here those of
    the settings.
    """
    parts, settings, scores = fit.parts, fit.settings, fit.scores()
    on = validation_part(fit.lm, parts.task.name, parts.validation, fit.instructions, settings.seed)
    most = min(settings.max_neurons, len(scores))
    with fit.progress.step(f"Golden section on {parts.task.name}") as advance:
        choice, _ = golden_section(
            fit.lm, scores, [on], most, settings.batch_size, Measured([fit.unedited], progress=advance)
        )
    edit = Edit.from_neurons(fit.lm, scores.top(choice.candidate.neurons), origin={"task": parts.task.name})
    return Treatment(edit=edit, details={"reason": choice.reason}, recommended=choice.candidate.neurons > 0)
