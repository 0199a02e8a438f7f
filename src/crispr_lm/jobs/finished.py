"""A finished measurement, read back from its folder with the seal, and measured again from its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.recomputed import Measured, Recorded, measurements_of
from crispr_lm.jobs.evidence import NEEDED, recorded_in
from crispr_lm.jobs.seal import read_seal
from crispr_lm.storage.records import read_object

EDITED_SUFFIX = "-crispr"
"""Ends the name of an edited model, as on its card."""


@dataclass(frozen=True)
class Finished:
    """A finished measurement.

    Attributes:
        sealed: The seal.
        results: What ``results.json`` holds.
        written: Answers and columns.
        measured: The measurements, made again from these.
    """

    sealed: Mapping[str, Any]
    results: Mapping[str, Any]
    written: Recorded
    measured: Measured

    @property
    def models(self) -> Mapping[str, Mapping[str, Measurement]]:
        """Model's name to what was measured of it: the base model, and the edited one where there is one."""
        name = str(self.results["model"])
        edited = {f"{name}{EDITED_SUFFIX}": self.measured.after} if self.measured.after else {}
        return {name: self.measured.before, **edited}

    def when(self, model: str) -> str:
        """Whether a model is the one "before" or "after" the edit."""
        return "before" if model == self.results["model"] else "after"

    def rows(self, task: str) -> Sequence[Mapping[str, Any]]:
        """The answers of a task."""
        return [row for row in self.written.rows if row["task"] == task]


def read_finished(folder: Path) -> Finished:
    """Read a run's folder, that of ``evaluate --evidence``, or a bundle.

    Raises:
        InputError: it holds no finished measurement that was sealed.
    """
    sealed = read_seal(folder / "sealed.json")
    if missing := next((name for name in NEEDED if not (folder / name).is_file()), None):
        raise InputError(f"{folder} has no {missing}; give the folder of a finished run or an evidence bundle")
    written = recorded_in(folder, sealed)
    return Finished(sealed, read_object(folder / "results.json"), written, measurements_of(written))
