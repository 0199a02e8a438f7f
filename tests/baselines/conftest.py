"""What methods are fitted on, made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from crispr_lm.baselines.fit import Chosen, Fit
from crispr_lm.settings import CompareSettings
from crispr_lm.tasks.parts import Parts

from ..helpers import build_model
from .questions import TASK


@pytest.fixture
def make_fit():
    """Make a fit for an architecture, with the search's neurons or a number of them given."""

    def make(architecture: str, neurons=None, **changes) -> Fit:
        given = {"task": ("waiting",), "output": Path("unused"), "neurons": "ffn", "removed": 5, "calibration_texts": 3}
        settings = CompareSettings(**(given | changes))
        parts = Parts(TASK, attribution=TASK.examples[:4], validation=TASK.examples[4:8], test=TASK.examples[8:])
        known = None if neurons is None else Chosen(neurons, 0.0, "given", recommended=True)
        return Fit(build_model(architecture), parts, settings, known=known)

    return make
