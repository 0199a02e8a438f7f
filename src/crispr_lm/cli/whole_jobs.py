"""Commands that make a whole folder of results: run, compare, reproduce."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from crispr_lm.cli.arguments import ModelArgument, OutputFile
from crispr_lm.cli.call import call
from crispr_lm.cli.output import (
    FAILURE,
    fail_after,
    is_quiet,
    mark_as_resumable,
    quiet_libraries,
    show,
)
from crispr_lm.other_settings import HubSettings, ReproduceSettings
from crispr_lm.settings import CompareSettings, RunSettings


def run(model: ModelArgument, /, *, settings: RunSettings, hub: HubSettings | None = None) -> None:
    """Find the bias neurons, eliminate the few that matter, measure on held-out data what changed, save it all.

    Example: crispr-lm run builtin:smollm2 --task builtin:everyday --output out
    """
    quiet_libraries()
    from crispr_lm.jobs.run import dry_run as estimate_job
    from crispr_lm.jobs.run import run as main_job
    from crispr_lm.model.devices import TENSOR_PARALLEL
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.report.result_tables import print_results
    from crispr_lm.report.statement import statement
    from crispr_lm.runtime.distributed import is_first, joined

    mark_as_resumable()
    only_estimate = hub is not None and hub.dry_run and hub.push_to_hub is None
    with joined(divided=settings.device == TENSOR_PARALLEL):
        with terminal_progress(silent=is_quiet() or not is_first()) as progress:
            if only_estimate:
                estimate = estimate_job(model, settings, progress)
            else:
                results = main_job(model, settings, progress, hub)
        if is_first() and only_estimate:
            show(estimate.to_dict(), lambda: print(estimate.text), lambda: estimate.text)
        elif is_first():
            tables = partial(print_results, results, settings.output, verbose=call.verbose)
            show(results, tables, lambda: statement(results))
            fail_after(results)


def compare(model: ModelArgument, /, *, settings: CompareSettings) -> None:
    """Compare the edit with controls and other methods, task by task; writes all figures.

    Example: crispr-lm compare builtin:smollm2 --task bbq:Age.jsonl --task bbq:Religion.jsonl --output out
    """
    quiet_libraries()
    from crispr_lm.jobs.comparison import compare as comparison_job
    from crispr_lm.report.comparison import print_comparison
    from crispr_lm.report.progress import terminal_progress

    mark_as_resumable()
    with terminal_progress(silent=is_quiet()) as progress:
        comparison = comparison_job(model, settings, progress)
    show(comparison, lambda: print_comparison(comparison, settings.output), lambda: settings.output)
    fail_after(comparison)


def reproduce(source: Path, /, *, output: OutputFile, settings: ReproduceSettings | None = None) -> None:
    """Run the record of a run again and compare; exits with status 1 where a figure, the edit or the verdict differs.

    Parameters
    ----------
    source
        The folder of a finished run.
    output
        Folder for the new run; must not exist, or be empty.
    """
    quiet_libraries()
    from crispr_lm.jobs.reproduce import reproduce as reproduce_job
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.report.result_tables import print_reproduced

    mark_as_resumable()
    with terminal_progress(silent=is_quiet()) as progress:
        comparison = reproduce_job(source, output, settings, progress)
    outcome = "reproduced" if comparison["same"] else "not reproduced"
    show(comparison, lambda: print_reproduced(comparison, output), lambda: outcome)
    fail_after(comparison)
    if not comparison["same"]:
        sys.exit(FAILURE)
