"""What `crispr-lm verify` prints of a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from crispr_lm.report.console import console
from crispr_lm.report.markup import markup


def runtime_line(found: Mapping[str, Any]) -> str:
    """One line: whether the edited model is served, and how far its scores are off."""
    verdict = "serves the edited model" if found["fault"] is None else "does not serve the edited model"
    return f"{verdict}; mean difference {found['mean_difference']:.2g} nats"


def print_runtime(found: Mapping[str, Any]) -> None:
    """Print how the scores that a runtime gives differ from those exported with the model."""
    table = Table(title=f"{markup(found['runtime'])}: {found['options']} options of {found['prompts']} prompts")
    table.add_column("Difference in nats")
    table.add_column("Mean", justify="right")
    table.add_column("Largest", justify="right")
    table.add_row("to the edited model", _number(found["mean_difference"]), _number(found["largest_difference"]))
    table.add_row("to the original model", _number(found["mean_difference_to_original"]), "")
    table.add_row("when prompts are repeated", "", _number(found["largest_difference_repeated"]))
    table.add_row("edited to original model, for comparison", _number(found["edit_moves"]), "")
    console.print(table)
    if found["fault"] is None:
        console.print(f"The runtime serves the edited model (tolerance {found['tolerance']:g} nats).")


def _number(value: float) -> str:
    return f"{value:.2g}"
