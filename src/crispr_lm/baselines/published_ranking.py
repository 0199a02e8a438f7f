"""The unedited model, the edit of the crispr-lm search, and edits by the ranking of CRISPR (paper) alone."""

from __future__ import annotations

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment, neurons_stored
from crispr_lm.edits.edit import Edit
from crispr_lm.search.paper import PaperOptions, choose_by_accuracy, crispr


def unedited(_fit: Fit, _draw: int) -> Treatment:
    """Nothing is done."""
    return Treatment()


def searched_edit(fit: Fit, _draw: int) -> Treatment:
    """The edit that ``crispr-lm run`` would make for this task; none where it recommends none."""
    chosen = fit.chosen
    if chosen.recommended:
        return Treatment(edit=fit.edit(chosen.neurons), details={"reason": chosen.reason})
    return Treatment(details={"reason": chosen.reason, "stand_in": neurons_stored(chosen.neurons)}, recommended=False)


def highest_bias_influence(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B, as many and with the same scale as in the search's edit."""
    return Treatment(edit=fit.edit(fit.highest(lambda kind: fit.scores(kind).values)))


def golden_section_on_accuracy(fit: Fit, _draw: int) -> Treatment:
    """The neurons of highest bias influence B; their number by a golden-section search on plain accuracy.

    The accuracy is that on the validation examples under all instructions, and the number at most the largest of the
    settings. The paper's published code chooses the number by the same rule; kind of neurons, examples, scoring and
    range are here those of the settings.
    """
    settings, scores = fit.settings, fit.scores()
    how = PaperOptions(max_neurons=settings.max_neurons, scoring=settings.scoring, batch_size=settings.batch_size)
    by = choose_by_accuracy(fit.lm, scores, [fit.parts], how, progress=fit.progress)
    edit = Edit.from_neurons(fit.lm, scores.top(by.neurons), origin={"task": fit.parts.task.name})
    return Treatment(edit=edit, details={"reason": by.reason}, recommended=by.neurons > 0)


def paper(fit: Fit, _draw: int) -> Treatment:
    """The whole procedure of the paper's authors, whatever the comparison's settings are; of these only the seed."""
    options = PaperOptions(seed=fit.settings.seed, batch_size=fit.settings.batch_size)
    found = crispr(fit.lm, fit.parts.task, options, fit.progress)
    return Treatment(edit=found.edit, details={"reason": found.reason}, recommended=bool(found.edit.neurons))
