"""Commands that hand figures to someone else: evidence, verify, export."""

from __future__ import annotations

from pathlib import Path

from crispr_lm.cli.arguments import OutputFile
from crispr_lm.cli.output import quiet_libraries, show
from crispr_lm.other_settings import ExportSettings
from crispr_lm.storage.sanitize import printable


def evidence(source: Path, /, *, output: OutputFile) -> None:
    """Bundle a finished measurement so that others can check it: seal, answers, results, hashes.

    Example: crispr-lm evidence out --output bundle

    Parameters
    ----------
    source
        The folder of a finished run, or of crispr-lm evaluate --evidence.
    output
        Folder to write; must not exist, or be empty.
    """
    quiet_libraries()
    from crispr_lm.jobs.evidence import evidence as evidence_job
    from crispr_lm.report.evidence import print_verified

    found = evidence_job(source, output)
    show(found, lambda: print_verified(found), lambda: found["manifest"])


def export(source: Path, /, *, output: OutputFile, settings: ExportSettings) -> None:
    """Write figures and answers in a form that other tools read.

    Example: crispr-lm export out --format every-eval-ever --output exported

    Parameters
    ----------
    source
        The folder of a finished run, of crispr-lm evaluate --evidence, or an evidence bundle.
    output
        Folder to write; must not exist, or be empty.
    """
    quiet_libraries()
    from crispr_lm.jobs.export import export as export_job

    done = export_job(source, output, settings)
    show(done, lambda: print(*map(printable, (*done["files"], *done["notes"])), sep="\n"), lambda: output)
