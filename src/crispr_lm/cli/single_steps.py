"""Commands for one step of a run: score, evaluate, apply, lm-eval-task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.arguments import ModelArgument, OutputFile
from crispr_lm.cli.output import (
    fail_after,
    fail_with,
    is_quiet,
    keep_unwritten,
    quiet_libraries,
    show,
)
from crispr_lm.errors import InputError
from crispr_lm.other_settings import ApplySettings, EvaluateSettings, LmEvalSettings, ScoreSettings
from crispr_lm.settings import OUTPUT_GROUP
from crispr_lm.storage.sanitize import printable


def score(model: ModelArgument, /, *, output: OutputFile, settings: ScoreSettings) -> None:
    """Attribute bias to neurons, nothing else; writes the score of every neuron.

    Parameters
    ----------
    output
        File to write, for example scores.safetensors.
    """
    quiet_libraries()
    from crispr_lm.jobs.inspection import describe_scores
    from crispr_lm.jobs.steps import score as score_job
    from crispr_lm.model.devices import TENSOR_PARALLEL
    from crispr_lm.report.inspection import print_scores
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.runtime.distributed import is_first, joined

    with joined(divided=settings.device == TENSOR_PARALLEL):
        with terminal_progress(silent=is_quiet() or not is_first()) as progress:
            scores, failed = keep_unwritten(lambda: score_job(model, output, settings, progress))
        if is_first():
            where = None if failed else output
            show(describe_scores(scores), lambda: print_scores(scores, where), lambda: where or "")
        fail_with(failed)


def evaluate(
    model: Annotated[
        str,
        Parameter(
            help="Hub id, local folder, PEFT adapter, .gguf file, ollama:NAME, or builtin:smollm2; or a runtime that "
            "serves a model: gguf-runtime:FILE (llama.cpp), vllm:MODEL, or openai:URL (an endpoint).",
            env_var=(),
            show_env_var=False,
        ),
    ],
    /,
    *,
    output: OutputFile,
    edit: Path | None = None,
    original: str | None = None,
    settings: EvaluateSettings,
) -> None:
    """Measure a model on a task, before and after an edit if one is given; writes results as JSON.

    Parameters
    ----------
    output
        File to write, for example results.json.
    edit
        An edit.json; measured beside the unedited model.
    original
        Of a runtime: the model (or another runtime) that is measured first and compared with. An endpoint's prompts are
        encoded with its tokenizer.
    """
    quiet_libraries()
    from crispr_lm.jobs.runtimes import evaluate_runtime
    from crispr_lm.jobs.steps import evaluate as evaluate_job
    from crispr_lm.model.devices import TENSOR_PARALLEL
    from crispr_lm.model.locate import is_runtime
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.report.result_tables import print_results
    from crispr_lm.runtime.distributed import is_first, joined

    with joined(divided=settings.device == TENSOR_PARALLEL):
        with terminal_progress(silent=is_quiet() or not is_first()) as progress:
            if is_runtime(model):
                if edit is not None:
                    raise InputError(
                        "--edit can't be applied in a runtime; save the edited model (crispr-lm apply), serve that, "
                        "and give the original with --original"
                    )
                results, failed = keep_unwritten(lambda: evaluate_runtime(model, output, original, settings, progress))
            elif original is not None:
                raise InputError("--original goes with gguf-runtime:, vllm: and openai: alone; leave it away")
            else:
                results, failed = keep_unwritten(lambda: evaluate_job(model, output, edit, settings, progress))
        if is_first():
            where = None if failed else output
            show(results, lambda: print_results(results, where), lambda: where or "")
        fail_with(failed)


def apply(
    model: ModelArgument,
    edit: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(group=OUTPUT_GROUP)] = None,
    in_place: Annotated[bool, Parameter(group=OUTPUT_GROUP, negative="")] = False,
    undo: Annotated[Path | None, Parameter(group=OUTPUT_GROUP)] = None,
    settings: ApplySettings | None = None,
) -> None:
    """Save an edited model: a plain Hugging Face folder, a GGUF file, a LoRA adapter, a slimmer model, or the edit.

    Parameters
    ----------
    edit
        An edit.json made for this model, or hf:OWNER/NAME for one on the hub; with --in-place also the file of an
        earlier --undo, which brings the original back.
    output
        Folder to write; must not exist, or be empty. Of a GGUF file a new FILE.gguf: the same file with the neurons'
        rows set to zero.
    in_place
        Set the rows to zero in the GGUF file itself.
    undo
        With --in-place: new file for what brings the original back.
    """
    quiet_libraries()
    from crispr_lm.jobs.file_edits import GgufTarget, edit_folder, edit_gguf
    from crispr_lm.jobs.steps import apply as apply_job
    from crispr_lm.report.progress import terminal_progress
    from crispr_lm.report.result_tables import print_saved

    settings = settings or ApplySettings()
    with terminal_progress(silent=is_quiet()) as progress:
        if in_place or undo is not None or (output is not None and output.suffix == ".gguf"):
            if in_place == (output is not None) or (undo is not None and not in_place):
                raise InputError("give either --output FILE.gguf, or --in-place with --undo FILE")
            summary = edit_gguf(model, edit, GgufTarget(output, undo, settings.load), settings, progress)
        elif output is None:
            raise InputError("crispr-lm apply needs --output, or --in-place for a GGUF file")
        else:
            summary = (apply_job if settings.load else edit_folder)(model, edit, output, settings, progress)
    where = Path(summary["output"])
    show(summary, lambda: print_saved(summary, where), lambda: where)
    fail_after(summary)


def lm_eval_task(model: ModelArgument, /, *, output: OutputFile, settings: LmEvalSettings) -> None:
    """Write tasks for EleutherAI's lm-eval: the prompts and options that crispr-lm scores with this model.

    Parameters
    ----------
    output
        Folder to write; must not exist, or be empty.
    """
    quiet_libraries()
    from crispr_lm.jobs.lm_eval_tasks import lm_eval_tasks

    names = lm_eval_tasks(model, output, settings)
    show({"tasks": names}, lambda: print(*map(printable, names), sep="\n"), lambda: output)
