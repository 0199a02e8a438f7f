"""Figures and answers of a finished measurement in forms that other tools read. Each form is a file beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crispr_lm.jobs.finished import read_finished
from crispr_lm.other_settings import ExportSettings
from crispr_lm.storage.files import whole_folder
from crispr_lm.storage.output_path import check_new, held_new


def export(source: Path, output: Path, settings: ExportSettings) -> dict[str, Any]:
    """Write a measurement in another tool's form.

    Returns:
        ``format``, the ``files`` written, and ``notes``: what the reader of the files must know.

    Raises:
        InputError: the output is not empty, the source holds no finished measurement, or the form's package is missing.
    """
    check_new(output)
    finished = read_finished(source)
    with held_new(output), whole_folder(output) as part:
        if settings.format == "every-eval-ever":
            from crispr_lm.jobs.export_every_eval_ever import write
        elif settings.format == "inspect":
            from crispr_lm.jobs.export_inspect import write
        else:
            from crispr_lm.jobs.export_hub import write
        notes = write(finished, part, settings)
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    return {"format": settings.format, "output": str(output), "files": files, "notes": notes}
