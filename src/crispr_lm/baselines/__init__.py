"""Other methods and controls that an edit is compared with: one file each, one interface (`method`)."""

from __future__ import annotations

from crispr_lm.baselines.errors import NotRunError
from crispr_lm.baselines.method import Method, Treatment, measure
from crispr_lm.baselines.registry import METHODS, register_baseline

__all__ = ["METHODS", "Method", "NotRunError", "Treatment", "measure", "register_baseline"]
