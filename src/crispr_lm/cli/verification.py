"""The command that checks an evidence bundle, or whether a runtime serves the edited model: verify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.output import FAILURE, fail, is_quiet, quiet_libraries, show


def verify(
    checked: Annotated[Path, Parameter(help="What `crispr-lm evidence` wrote; or `apply` or `run`, with --runtime.")],
    /,
    *,
    known: tuple[str, ...] = (),
    runtime: str | None = None,
    # llama.cpp on SmolLM2 in Q4_1, the coarsest format measured: 0.22 (benchmarks/runtimes.py).
    tolerance: float = 0.3,
) -> None:
    """Check an evidence bundle: name what has changed, and compute every figure again from the answers.

    With --runtime, check that a runtime serves the edited model: it must give the scores that were exported with the
    model. Exits with status 1 where anything differs, and says what.

    Parameters
    ----------
    known
        A hash that you were given: of the seal, of the edit's seal, or of the bundle. May be given several times.
    runtime
        gguf-runtime:FILE, gguf-runtime:FILE#ADAPTER (llama.cpp), vllm:MODEL, or openai:URL, openai:URL#MODEL (an
        endpoint).
    tolerance
        Largest mean difference of an option's score, in nats, that counts as the number format's.
    """
    quiet_libraries()
    if runtime is None:
        _verify_bundle(checked, known)
    else:
        _verify_runtime(checked, runtime, tolerance)


def _verify_bundle(bundle: Path, known: tuple[str, ...]) -> None:
    from crispr_lm.jobs.evidence import verify as verify_job
    from crispr_lm.report.evidence import line_of, print_verified

    found = verify_job(bundle, known)
    show(found, lambda: print_verified(found), lambda: line_of(found))
    if not found["verified"]:
        sys.exit(FAILURE)


def _verify_runtime(exported: Path, runtime: str, tolerance: float) -> None:
    from crispr_lm.jobs.runtimes import verify_runtime
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.report.runtimes import print_runtime, runtime_line

    with terminal_progress(silent=is_quiet()) as progress:
        found = verify_runtime(exported, runtime, tolerance, progress)
    show(found, lambda: print_runtime(found), lambda: runtime_line(found))
    if found["fault"] is not None:
        fail(f"{found['runtime']} does not serve the edited model: {found['fault']}", FAILURE)
