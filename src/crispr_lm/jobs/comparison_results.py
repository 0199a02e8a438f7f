"""What ``comparison.json`` says: from cells to figures, differences with intervals and tests, transfer and curves.

Knows cells and subjects; knows no model. Everything here can be computed again from ``cells.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crispr_lm.baselines.fit import Chosen
from crispr_lm.baselines.method import Method, Treatment, neurons_read, neurons_stored
from crispr_lm.baselines.registry import ABLATION
from crispr_lm.edits.edit import Edit
from crispr_lm.edits.set_operations import overlap
from crispr_lm.evaluation.evaluation import Evaluation, evaluation_of
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.results import over_abstention
from crispr_lm.evaluation.suite import Subject, TaskSubject
from crispr_lm.metrics.family import with_unmatched
from crispr_lm.metrics.language import DIVERGENCE
from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.metrics.statistics import FEWEST_CLUSTERS, corrected_over_tasks
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.report.shared import shared_record
from crispr_lm.settings import CompareSettings

COMPARISON_FORMAT = "crispr-lm-comparison"
COMPARISON_VERSION = 4

Cell = dict[str, Any]


@dataclass(frozen=True)
class CellKey:
    """Which measurement a cell is.

    Attributes:
        part: "methods", "transfer", "neurons" or "examples".
        what: The method; in the transfer matrix the task that the edit was made for.
        task: What is measured.
        number: The draw, or the point of a curve.
    """

    part: str
    what: str
    task: str
    number: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @staticmethod
    def of_cell(cell: Mapping[str, Any]) -> CellKey:
        """The key of a stored cell."""
        return CellKey(cell["part"], cell["what"], cell["task"], cell["number"])


def stored(treatment: Treatment, measured: Mapping[str, Any], diverged: Mapping[str, Any] | None) -> Cell:
    """A measured cell as JSON types, with what all figures can be computed from again.

    Args:
        treatment: What was measured.
        measured: Subject's name to `measurement_stored`.
        diverged: Columns of the divergence from the unedited model, as lists; None where there is none.
    """
    edit = treatment.edit
    return {
        "status": "done",
        "recommended": treatment.recommended,
        "neurons": neurons_stored(edit.neurons) if edit else [],
        "scale": edit.scale if edit else None,
        "changes_model": treatment.changes_model,
        "same": same_measurements(treatment),
        "details": dict(treatment.details),
        "measured": dict(measured),
        "divergence": diverged,
    }


def same_measurements(treatment: Treatment) -> str | None:
    """A hash of neurons and scale, in any order: treatments with the same one need not be measured twice.

    None for a treatment that is more than an edit: it is never taken as equal to another.
    """
    more = (treatment.steering, treatment.adapter, treatment.rephrase, treatment.rewrite, treatment.correct)
    if any(change is not None for change in more):
        return None
    edit = treatment.edit
    neurons = sorted((neuron.kind, neuron.module, neuron.index) for neuron in edit.neurons) if edit else []
    content = json.dumps([neurons, edit.scale] if edit and neurons else [])
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def neurons_of(cell: Cell) -> list[Neuron]:
    """The neurons that a cell's treatment removes."""
    return neurons_read(cell["neurons"])


def chosen_in(cell: Cell) -> Chosen:
    """The edit in the cell of the search, or what stands in for it."""
    neurons = neurons_read(cell["details"].get("stand_in", cell["neurons"]))
    return Chosen(neurons, cell["scale"] or 0.0, cell["details"]["reason"], cell["recommended"])


def comparison_of(
    record: Mapping[str, Any],
    settings: CompareSettings,
    methods: Sequence[Method],
    subjects: Mapping[str, Subject],
    further: Sequence[Subject],
    cells: Mapping[CellKey, Cell],
) -> dict[str, Any]:
    """All figures of a comparison.

    Args:
        record: Settings, versions and hashes.
        settings: All options.
        methods: Rows of the tables.
        subjects: Task name to what is measured of it.
        further: What else is measured.
        cells: Every measurement.
    """
    tables = _Figures(settings, cells)
    return {
        "format": COMPARISON_FORMAT,
        "version": COMPARISON_VERSION,
        "record": shared_record(record),
        "methods": {
            method.name: {name: getattr(method, name) for name in ("label", "kind", "summary", "source", "random")}
            for method in methods
        },
        "tasks": tables.tasks(methods, subjects, further),
        "ablation": list(ABLATION) if {*ABLATION} <= {method.name for method in methods} else None,
        "transfer": tables.transfer(subjects) if settings.transfer and len(subjects) > 1 else None,
        "curves": tables.curves(subjects) if settings.curves else None,
    }


class _Figures:
    """Figures from cells."""

    def __init__(self, settings: CompareSettings, cells: Mapping[CellKey, Cell]) -> None:
        self.settings = settings
        self.cells = cells

    def tasks(
        self, methods: Sequence[Method], subjects: Mapping[str, Subject], further: Sequence[Subject]
    ) -> dict[str, Any]:
        """Task name to what it is and a row per method."""
        figures = {
            task: {
                **_described(self._measured(CellKey("methods", "original", task), subject)),
                **subject.described(self.settings.scoring),
                "scoring": {one.name: one.described(self.settings.scoring)["scoring"] for one in (subject, *further)},
                "rows": {},
            }
            for task, subject in subjects.items()
        }
        for method in methods:
            rows = {task: self._row(method, subject, further) for task, subject in subjects.items()}
            # Each metric is corrected over all tasks that this method was measured on, further ones with every task.
            found = {
                (task, name): measured.pop("found")
                for task, row in rows.items()
                for name, measured in row.get("measured", {}).items()
            }
            corrected = corrected_over_tasks({_joined(key): differences for key, differences in found.items()})
            for task, name in found:
                differences = corrected[_joined((task, name))]
                measured = rows[task]["measured"][name]
                measured["differences"] = {metric: one.to_dict() for metric, one in differences.items()}
                if name == task:
                    before = self._measured(CellKey("methods", "original", task), subjects[task]).metrics
                    warning = over_abstention(before, measured["metrics"], differences, "the model")
                    rows[task]["over_abstention"] = warning
            for task, row in rows.items():
                figures[task]["rows"][method.name] = row
        return figures

    def transfer(self, subjects: Mapping[str, Subject]) -> dict[str, Any]:
        """Edits of every task measured on every task, and how many neurons they have in common."""
        edits = {task: self.cells[CellKey("methods", "search", task)] for task in subjects}
        matrix: dict[str, dict[str, Any]] = {}
        for fitted in subjects:
            own = CellKey("methods", "search", fitted)
            keys = {task: own if fitted == task else CellKey("transfer", fitted, task) for task in subjects}
            matrix[fitted] = self._changed(keys, subjects)
        overlaps = {first: {second: _overlap(edits[first], edits[second]) for second in subjects} for first in subjects}
        return {"differences": matrix, "overlap": overlaps}

    def curves(self, subjects: Mapping[str, Subject]) -> dict[str, Any]:
        """Task name to the points of both curves."""
        points: dict[str, Any] = {task: {} for task in subjects}
        for part in ("neurons", "examples"):
            keys = [key for key in self.cells if key.part == part]
            for task in subjects:
                points[task][part] = []
            for number in sorted({key.number for key in keys}):
                at_point = {key.task: key for key in keys if key.number == number}
                for task, changed in self._changed(at_point, subjects).items():
                    cell = self.cells[at_point[task]]
                    point = {"point": number, "neurons": len(cell["neurons"]), **changed}
                    points[task][part].append({**point, "divergence": self._divergence([cell])})
        return points

    def _row(self, method: Method, subject: Subject, further: Sequence[Subject]) -> dict[str, Any]:
        """A method on a task: its draws joined, each draw an instruction more to take the mean over."""
        task = subject.name
        keys = [CellKey("methods", method.name, task, draw) for draw in range(self.settings.draws)]
        cells = [self.cells[key] for key in keys if key in self.cells]
        failed = next((cell for cell in cells if cell["status"] != "done"), None)
        if failed is not None:
            return {"status": "not run", "reason": failed["reason"]}
        measured = {}
        for part in (subject, *further):
            unedited = self._measured(CellKey("methods", "original", task), part)
            draws = [measurement_from(cell, part, self.settings) for cell in cells]
            joined = _joined_measurement(draws)
            before = _joined_measurement([unedited] * len(draws))
            measured[part.name] = {
                "metrics": joined.metrics,
                "spread": joined.spread,
                "per_instruction": [list(draw.per_instruction) for draw in draws],
                "range": _range(draws) if len(draws) > 1 else None,
                "found": joined.differences_from(before, self.settings.seed),
            }
        return {
            "status": "done",
            "recommended": all(cell["recommended"] for cell in cells),
            "neurons": len(cells[0]["neurons"]),
            "per_module": [dict(Counter(neuron.module for neuron in neurons_of(cell))) for cell in cells],
            "details": [cell["details"] for cell in cells],
            "measured": measured,
            "divergence": self._divergence(cells),
            "seconds": round(sum(cell["seconds"] for cell in cells), 1),
            "passes": cells[0]["passes"],
            "answer_passes": cells[0]["measured"][task]["passes"] / subject.steps,
        }

    def _measured(self, key: CellKey, subject: Subject) -> Measurement:
        return measurement_from(self.cells[key], subject, self.settings)

    def _changed(self, keys: Mapping[str, CellKey], subjects: Mapping[str, Subject]) -> dict[str, Any]:
        """Figures of a cell per task, differences from the unedited model, and tests corrected over these tasks."""
        after = {task: self._measured(key, subjects[task]) for task, key in keys.items()}
        before = {task: self._measured(CellKey("methods", "original", task), subjects[task]) for task in keys}
        found = corrected_over_tasks(
            {task: after[task].differences_from(before[task], self.settings.seed) for task in keys}
        )
        return {
            task: {
                "metrics": after[task].metrics,
                "spread": after[task].spread,
                "per_instruction": [list(after[task].per_instruction)],
                "differences": {name: difference.to_dict() for name, difference in found[task].items()},
            }
            for task in keys
        }

    def _divergence(self, cells: Sequence[Cell]) -> dict[str, Any] | None:
        """KL from the unedited model, mean over draws; 0 for what leaves the model alone."""
        if not any(cell["changes_model"] for cell in cells):
            return {"kl": 0.0, "low": 0.0, "high": 0.0}
        columns = [
            {name: np.array(values, dtype=np.float64) for name, values in cell["divergence"].items()}
            for cell in cells
            if cell["divergence"] is not None
        ]
        if not columns:
            return None
        measured = Measurement.of(DIVERGENCE, columns, list(range(len(columns[0]["tokens"]))))
        low, high = measured.interval("kl", self.settings.seed)
        return {"kl": measured["kl"], "low": low, "high": high}


def measurement_stored(measurement: Measurement) -> dict[str, Any]:
    """Option scores of questions; of anything else the columns that its metrics are computed from."""
    if isinstance(measurement, Evaluation):
        return {"scores": [[_finite(row) for row in table.tolist()] for table in measurement.option_scores]}
    columns = [{name: values.tolist() for name, values in one.items()} for one in measurement.columns]
    return {"family": measurement.family.name, "columns": columns, "clusters": list(measurement.clusters)}


def measurement_from(cell: Cell, subject: Subject, settings: CompareSettings) -> Measurement:
    """The measurement that a cell holds of a subject."""
    content = cell["measured"][subject.name]
    if not isinstance(subject, TaskSubject):
        columns = [{name: np.array(values) for name, values in one.items()} for one in content["columns"]]
        return Measurement.of(FAMILIES[content["family"]], columns, content["clusters"])
    family = FAMILIES[subject.task.family]
    if subject.scoring(settings.scoring) == "generate":
        family = with_unmatched(family)
    return evaluation_of(subject.examples, [_table(rows) for rows in content["scores"]], family)


def _table(rows: Sequence[Sequence[float | None]]) -> Tensor:
    return torch.tensor([[-torch.inf if score is None else score for score in row] for row in rows])


def _finite(row: Sequence[float]) -> list[float | None]:
    """Scores as JSON numbers; None for an option that has none."""
    return [None if score == -float("inf") else score for score in row]


def _joined_measurement(draws: Sequence[Measurement]) -> Measurement:
    """All instructions of all draws as one measurement."""
    columns = [of_instruction for draw in draws for of_instruction in draw.columns]
    return Measurement.of(draws[0].family, columns, draws[0].clusters)


def _range(draws: Sequence[Measurement]) -> dict[str, list[float] | None]:
    """Smallest and largest mean over draws, per metric."""
    ranges: dict[str, list[float] | None] = {}
    for name in draws[0]:
        values = [value for draw in draws if (value := draw[name]) is not None]
        ranges[name] = [min(values), max(values)] if values else None
    return ranges


def _joined(key: tuple[str, str]) -> str:
    return "\n".join(key)


def _overlap(first: Cell, second: Cell) -> dict[str, Any]:
    edits = [Edit(neurons=tuple(neurons_of(cell))) for cell in (first, second)]
    total, _ = overlap(*edits)
    return {**asdict(total), "jaccard": total.jaccard}


def _described(unedited: Measurement) -> dict[str, Any]:
    templates = len(set(unedited.clusters))
    return {
        "family": unedited.family.name,
        "examples": len(unedited.clusters),
        "templates": templates,
        "few_templates": templates < FEWEST_CLUSTERS,
        "instructions": len(unedited.columns),
    }
