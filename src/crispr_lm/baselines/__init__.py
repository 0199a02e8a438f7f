"""What else a user could do, and what an edit must be better than: one file each, one interface (`method`)."""

from __future__ import annotations

from crispr_lm.baselines.errors import NotRunError
from crispr_lm.baselines.method import Method, Treatment, measure
from crispr_lm.baselines.registry import METHODS, register_baseline

__all__ = ["METHODS", "Method", "NotRunError", "Treatment", "measure", "register_baseline"]
