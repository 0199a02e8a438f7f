"""The command for pages of finished runs: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.output import show
from crispr_lm.errors import InputError
from crispr_lm.settings import OUTPUT_GROUP


def report(
    first: Path,
    second: Path | None = None,
    /,
    *,
    output: Annotated[Path | None, Parameter(group=OUTPUT_GROUP)] = None,
) -> None:
    """Write the page of a finished run anew, or a page that compares two runs.

    Example: crispr-lm report out other-out --output two-runs.html

    Parameters
    ----------
    first
        Folder of a finished run.
    second
        Folder of another one, to compare with.
    output
        File to write for two runs; by default two-runs.html. The page of one run is report.html in its folder.
    """
    from crispr_lm.report.console import print_path
    from crispr_lm.report.page import write_report
    from crispr_lm.report.two_runs import write_two_runs

    if second is None:
        if output is not None:
            raise InputError("--output is for two runs; the page of one run is report.html in its folder")
        written = write_report(first)
    else:
        written = write_two_runs(first, second, output or Path("two-runs.html"))
    show({"file": str(written)}, lambda: print_path("Report", written), lambda: written)
