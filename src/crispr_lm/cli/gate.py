"""Commands that decide about a model, or compare two logs: check, difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.arguments import ModelArgument
from crispr_lm.cli.output import is_quiet, quiet_libraries, show
from crispr_lm.other_settings import CheckSettings
from crispr_lm.settings import OUTPUT_GROUP

Written = Annotated[Path | None, Parameter(group=OUTPUT_GROUP)]


def check(model: ModelArgument, /, *, settings: CheckSettings, output: Written = None, answers: Written = None) -> None:
    """Check a model against rules: limits on its figures, or on what it loses against a baseline.

    Exits with status 0 if every rule holds, 1 if one fails, 3 if there are too few questions to tell, 2 for a mistake.
    Example: crispr-lm check MODEL --rules builtin:bbq --task bbq:BBQ

    Parameters
    ----------
    output
        File to write the result to, as JSON.
    answers
        File to write the model's answers to (.jsonl): a baseline for later checks, and a log for crispr-lm difference.
    """
    quiet_libraries()
    from crispr_lm.jobs.check import Outputs
    from crispr_lm.jobs.check import check as check_job
    from crispr_lm.report.check import print_decisions
    from crispr_lm.report.progress import terminal_progress

    with terminal_progress(silent=is_quiet()) as progress:
        result = check_job(model, settings, Outputs(output, answers), progress)
    show(result, lambda: print_decisions(result), lambda: result["outcome"])
    if result["exit"]:
        sys.stdout.flush()
        sys.exit(result["exit"])


def difference(
    first: str, second: str, /, *, cluster: str | None = None, output: Written = None, seed: int = 0
) -> None:
    """Compare two logs of the same questions: paired differences, second minus first, with intervals and tests.

    Example: crispr-lm difference samples_bbq_2026-01-01.jsonl samples_bbq_2026-02-01.jsonl

    Parameters
    ----------
    first
        A run's folder or its answers.jsonl (with :before behind it, the unedited model), answers of crispr-lm check
        --answers, samples of lm-eval (.jsonl), or an Inspect log (.eval, .json).
    second
        Another log of the same tool.
    cluster
        Field of another tool's documents or metadata that names a question's template: near-copies of each other. By
        default template, group or question_index, else every question counts by itself.
    output
        File to write the result to, as JSON.
    seed
        Seed of resamples and permutations.
    """
    quiet_libraries()
    from crispr_lm.jobs.difference import difference as difference_job
    from crispr_lm.report.difference import line, print_difference
    from crispr_lm.storage.files import write_json
    from crispr_lm.storage.output_path import check_output_file

    if output is not None:
        check_output_file(output)
    found = difference_job(first, second, cluster, seed)
    if output is not None:
        write_json(output, found)
    show(found, lambda: print_difference(found), lambda: line(found))
