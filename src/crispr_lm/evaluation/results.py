"""What ``results.json`` says: figures before and after, their differences with intervals and tests, and words for them.

Knows measurements and an edit's list of neurons; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crispr_lm.edits.edit import Edit
from crispr_lm.evaluation.evaluation import Evaluation, ScoringMethod
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.suite import Subject, TaskSubject, evaluations
from crispr_lm.metrics.family import Metrics
from crispr_lm.metrics.instructions import differences
from crispr_lm.metrics.statistics import FEWEST_CLUSTERS, Difference, corrected_over_tasks
from crispr_lm.storage.sanitize import without_folders
from crispr_lm.tasks.base import Example

RESULTS_FORMAT = "crispr-lm-results"
RESULTS_VERSION = 2

LEAST = 1e-9
"""Differences of shares below this are rounding."""


@dataclass(frozen=True)
class Edited:
    """What was measured of the edited model.

    Attributes:
        after: Task name to its evaluation.
        divergence: Of the edited model from the reference distribution.
        edit: What was applied.
    """

    after: Mapping[str, Measurement]
    divergence: Measurement | None = None
    edit: Edit | None = None


def results_of(
    model: str,
    subjects: Sequence[Subject],
    scoring: ScoringMethod,
    before: Mapping[str, Measurement],
    edited: Edited | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Model, edit, and every figure by task; without an edit there is no after.

    Args:
        model: Its name.
        subjects: What was measured.
        scoring: How options were compared.
        before: Task name to the unedited model's evaluation.
        edited: The edited model's.
        seed: Of bootstrap and permutations.
    """
    tasks = {subject.name: _described(subject, scoring, before[subject.name], seed) for subject in subjects}
    after = None if edited is None else edited.after
    if after is not None:
        compared = {name: after[name].differences_from(before[name], seed) for name in tasks}
        for name, found in corrected_over_tasks(compared).items():
            tasks[name] |= _compared(before[name], after[name], found)
            tasks[name]["over_abstention"] = over_abstention(before[name].metrics, after[name].metrics, found)
            tasks[name]["per_instruction"]["after"] = list(after[name].per_instruction)
            tasks[name]["spread"]["after"] = after[name].spread
            if "intervals" in tasks[name]:
                tasks[name]["intervals"]["after"] = _intervals(after[name], seed)
    for subject in subjects:
        if isinstance(subject, TaskSubject) and (breakdown := _breakdown(subject, before, after, seed)):
            tasks[subject.name]["breakdown"] = breakdown
    content: dict[str, Any] = {
        "format": RESULTS_FORMAT,
        "version": RESULTS_VERSION,
        "model": model,
        "scoring": scoring,
        "tasks": tasks,
    }
    if edited is not None and (divergence := edited.divergence) is not None:
        low, high = divergence.interval("kl", seed)
        content["divergence"] = {
            "kl": divergence["kl"],
            "low": low,
            "high": high,
            "prompts": len(divergence.clusters),
            "tokens": int(divergence.columns[0]["tokens"].sum()),
        }
    if edited is not None and edited.edit is not None:
        content["edit"] = described_edit(edited.edit)
    return content


def answer_rows(
    subjects: Sequence[Subject], before: Mapping[str, Measurement], after: Mapping[str, Measurement] | None
) -> list[dict[str, Any]]:
    """What was asked and answered, an object per example: option scores before and after under every instruction.

    With `column_rows` all that figures are computed from (`crispr_lm.evaluation.recomputed`).
    """
    rows = []
    asked = {"before": evaluations(before)} | ({} if after is None else {"after": evaluations(after)})
    for subject in subjects:
        if not isinstance(subject, TaskSubject):
            continue
        name = subject.name
        for index, example in enumerate(subject.examples):
            counted = slice(len(example.options))
            rows.append(
                {
                    "task": name,
                    "source": without_folders(example.source),
                    **question_row(example),
                    "polarity": example.polarity,
                    "facets": dict(example.facets),
                    "scores": {
                        when: [_finite(table[index, counted].tolist()) for table in found[name].option_scores]
                        for when, found in asked.items()
                    },
                }
            )
    return rows


def question_row(example: Example) -> dict[str, Any]:
    """A question as rows of answers hold it: what is asked, and what it is judged by."""
    return {
        "template": example.template,
        "category": example.category,
        "condition": example.condition,
        "context": example.context,
        "question": example.question,
        "options": list(example.options),
        "answer": example.answer,
        "unknown": example.unknown,
        "stereotyped": example.stereotyped,
        "language": example.language,
    }


def column_rows(
    before: Mapping[str, Measurement], after: Mapping[str, Measurement] | None, divergence: Measurement | None
) -> dict[str, Any]:
    """What the figures are computed from that are of no questions (perplexity, free answers, divergence)."""
    given = {"before": before} | ({} if after is None else {"after": after})
    answered = evaluations(before)
    return {
        "measurements": {
            name: {when: _columns(measured[name]) for when, measured in given.items()}
            for name in before
            if name not in answered
        },
        "divergence": None if divergence is None else _columns(divergence),
    }


def _columns(measured: Measurement) -> dict[str, Any]:
    columns = [{name: values.tolist() for name, values in of.items()} for of in measured.columns]
    return {"family": measured.family.name, "clusters": list(measured.clusters), "columns": columns}


def over_abstention(
    before: Metrics, after: Metrics, found: Mapping[str, Difference], who: str = "the edited model"
) -> str | None:
    """A warning where more answers "unknown" cost right answers on disambiguated questions, else None.

    That is so where the rate of "unknown" on disambiguated questions rises by more than the error falls that this could
    have cured: other errors there (the rest of the rise were right answers), or errors on ambiguous questions (the
    model then distinguishes the two less than before).
    """
    known = [
        (before.get(name), after.get(name))
        for name in ("unknown_rate_disambiguated", "accuracy_disambiguated", "accuracy_ambiguous")
    ]
    (unknown_before, unknown_after), (right_before, right_after), (fair_before, fair_after) = known
    if unknown_before is None or unknown_after is None or right_before is None or right_after is None:
        return None
    rise, lost = unknown_after - unknown_before, right_before - right_after
    cured = rise if fair_before is None or fair_after is None else fair_after - fair_before
    if rise <= LEAST or (lost <= LEAST and rise - cured <= LEAST):
        return None
    rates = (
        f"{who} answers unknown on {unknown_after:.1%} of the questions whose context gives the answer "
        f"(before: {unknown_before:.1%})"
    )
    if lost <= LEAST:
        moved = "fall by only" if cured >= 0 else "rise by"
        return f"{rates}, while errors on ambiguous questions {moved} {100 * abs(cured):.1f} points."
    interval = found["accuracy_disambiguated"]
    sure = interval.high is not None and interval.high < 0
    doubt = "" if sure else " The 95 % interval of that loss includes zero."
    return f"{rates}, and {100 * lost:.1f} points fewer of them are answered right.{doubt}"


def _described(subject: Subject, scoring: ScoringMethod, before: Measurement, seed: int) -> dict[str, Any]:
    templates = len(set(before.clusters))
    return {
        "role": subject.role,
        "family": before.family.name,
        **subject.described(scoring),
        "examples": len(before.clusters),
        "templates": templates,
        "few_templates": templates < FEWEST_CLUSTERS,
        "instructions": len(before.columns),
        "before": before.metrics,
        "per_instruction": {"before": list(before.per_instruction)},
        "spread": {"before": before.spread},
        # Of questions only differences have an interval; texts and free answers are also measured for their own sake.
        **({} if isinstance(before, Evaluation) else {"intervals": {"before": _intervals(before, seed)}}),
    }


def _intervals(measured: Measurement, seed: int) -> dict[str, list[float | None]]:
    """Metric to the ends of its 95 % interval, clustered by template."""
    return {name: list(measured.interval(name, seed)) for name in measured}


def _compared(before: Measurement, after: Measurement, found: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        "after": after.metrics,
        "difference": differences(before.metrics, after.metrics),
        "statistics": {name: difference.to_dict() for name, difference in found.items()},
    }


def _breakdown(
    subject: TaskSubject, before: Mapping[str, Measurement], after: Mapping[str, Measurement] | None, seed: int
) -> dict[str, Any]:
    """Figures apart for every value of the task's facets, where there is more than one; facet to value to figures."""
    all_before = evaluations(before)[subject.name]
    all_after = None if after is None else evaluations(after)[subject.name]
    breakdowns: dict[str, Any] = {}
    for facet in subject.task.breakdowns:
        members: dict[str, list[int]] = {}
        for index, example in enumerate(subject.examples):
            members.setdefault(example.facet(facet), []).append(index)
        if len(members) < 2:
            continue
        old = {value or "(none)": all_before.part(indices) for value, indices in sorted(members.items())}
        breakdowns[facet] = {
            value: {
                "examples": len(part.clusters),
                "templates": len(set(part.clusters)),
                "before": part.metrics,
                "spread": {"before": part.spread},
            }
            for value, part in old.items()
        }
        if all_after is None:
            continue
        new = {value or "(none)": all_after.part(indices) for value, indices in sorted(members.items())}
        # Values of a facet are to it what tasks are to a run: each metric is corrected over all that have it.
        found = corrected_over_tasks({value: new[value].differences_from(part, seed) for value, part in old.items()})
        for value, figures in breakdowns[facet].items():
            figures |= _compared(old[value], new[value], found[value])
            figures["spread"]["after"] = new[value].spread
    return breakdowns


def described_edit(edit: Edit) -> dict[str, Any]:
    """What ``results.json`` says of an edit: how many neurons, of which kind (or kinds), scale, and their modules."""
    modules: dict[str, int] = {}
    for neuron in edit.neurons:
        modules[neuron.module] = modules.get(neuron.module, 0) + 1
    kinds = sorted({neuron.kind for neuron in edit.neurons})
    return {
        "neurons": len(edit.neurons),
        "kind": kinds[0] if len(kinds) == 1 else (kinds or None),
        "scale": edit.scale,
        "per_module": modules,
    }


def _finite(scores: list[float]) -> list[float | None]:
    """Scores as JSON numbers; None for an option that has none (it was not written).

    Nine digits are a float32 to the last bit, so that the files give the figures exactly.
    """
    return [None if score == -float("inf") else float(f"{score:.9g}") for score in scores]
