"""The command that checks whether a runtime serves the edited model: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.output import FAILURE, fail, is_quiet, quiet_libraries, show


def verify(
    exported: Annotated[Path, Parameter(help="Folder or .gguf file that `crispr-lm apply` or `run` has written.")],
    /,
    *,
    runtime: str,
    # llama.cpp on SmolLM2 in Q4_1, the coarsest format measured: 0.22 (benchmarks/runtimes.py).
    tolerance: float = 0.3,
) -> None:
    """Check that a runtime serves the edited model: it must give the scores that were exported with the model.

    Exits with status 1 where it does not, and says what it serves instead.

    Parameters
    ----------
    runtime
        gguf-runtime:FILE, gguf-runtime:FILE#ADAPTER (llama.cpp), or openai:URL, openai:URL#MODEL (an endpoint such as
        vLLM's).
    tolerance
        Largest mean difference of an option's score, in nats, that counts as the number format's.
    """
    quiet_libraries()
    from crispr_lm.jobs.runtimes import verify_runtime
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.report.runtimes import print_runtime, runtime_line

    with terminal_progress(silent=is_quiet()) as progress:
        found = verify_runtime(exported, runtime, tolerance, progress)
    show(found, lambda: print_runtime(found), lambda: runtime_line(found))
    if found["fault"] is not None:
        fail(f"{found['runtime']} does not serve the edited model: {found['fault']}", FAILURE)
