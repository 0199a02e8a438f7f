"""The command line: parse, call the library, print. No logic.

Heavy imports (PyTorch, transformers) are made inside the commands, so that help and usage errors come at once.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter
from cyclopts.config import Env, Toml
from pydantic import ValidationError

from crispr_lm.errors import CrisprError, InputError, WriteError, nearest
from crispr_lm.settings import (
    ENVIRONMENT_PREFIX,
    OUTPUT_GROUP,
    ApplySettings,
    AppSettings,
    ChatSettings,
    CompareSettings,
    EvaluateSettings,
    HubSettings,
    LmEvalSettings,
    RunSettings,
    ScoreSettings,
)
from crispr_lm.storage.sanitize import json_line, printable
from crispr_lm.storage.untrusted import check_regular
from crispr_lm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FAILURE = 1
USAGE_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143

LONGEST_SENTENCE = 2000
"""Characters of a message; what is wrong may be a value of megabytes."""
BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM)
"""Errors of the system that are not ours to mend: full, protected or failing disks, no memory."""

COMMAND_LINE_ONLY = ("config", "quiet", "json", "plugin")
"""Options that no settings file holds: they say how to print, or run code."""

TRUST = ("--trust-remote-code", "--allow-pickle")
"""Options that let a model run code or be read as pickle. A settings file may be a stranger's, and a variable outlives
the command that it was meant for, so that these are taken from the command line alone."""

_form: Literal["tables", "quiet", "json"] = "tables"
"""How results are printed; progress and errors go to standard error."""

_goes_on = False
"""Whether the command that runs leaves behind what the same command goes on with."""
_given: tuple[str, ...] = ()
"""The command line."""
_in_file: tuple[Path, frozenset[str]] | None = None
"""The settings file and the options in it."""

app = App(
    name="crispr-lm",
    help="Find the few neurons that make a language model answer with a stereotype, remove them, prove what that did.",
    version=__version__,
    help_format="markdown",
    suppress_keyboard_interrupt=False,  # `main` says what comes of it
)
app.meta.suppress_keyboard_interrupt = False

ModelArgument = Annotated[
    str, Parameter(help="Hub id, local folder, .gguf file, or builtin:smollm2.", env_var=(), show_env_var=False)
]
OutputFile = Annotated[Path, Parameter(group=OUTPUT_GROUP)]


@app.command
def run(model: ModelArgument, /, *, settings: RunSettings, hub: HubSettings | None = None) -> None:
    """Find the bias neurons, eliminate the few that matter, prove on held-out data what changed, save it all.

    Example: crispr-lm run builtin:smollm2 --task builtin:everyday --output out
    """
    _quiet_libraries()
    from crispr_lm.jobs.run import run as main_job
    from crispr_lm.report.statement import statement
    from crispr_lm.report.terminal import print_results, terminal_progress
    from crispr_lm.runtime.distributed import is_first, joined

    _mark_as_going_on()
    with joined():
        with terminal_progress(silent=_is_quiet() or not is_first()) as progress:
            results = main_job(model, settings, progress, hub)
        if is_first():
            _show(results, lambda: print_results(results, settings.output), lambda: statement(results))
            _fail_after(results)


@app.command
def compare(model: ModelArgument, /, *, settings: CompareSettings) -> None:
    """Compare the edit with controls and with what else could be done, task by task; writes all figures.

    Example: crispr-lm compare builtin:smollm2 --task bbq:Age.jsonl --task bbq:Religion.jsonl --output out
    """
    _quiet_libraries()
    from crispr_lm.jobs.comparison import compare as comparison_job
    from crispr_lm.report.comparison import print_comparison
    from crispr_lm.report.terminal import terminal_progress

    _mark_as_going_on()
    with terminal_progress(silent=_is_quiet()) as progress:
        told = comparison_job(model, settings, progress)
    _show(told, lambda: print_comparison(told, settings.output), lambda: settings.output)
    _fail_after(told)


@app.command
def score(model: ModelArgument, /, *, output: OutputFile, settings: ScoreSettings) -> None:
    """Attribute bias to neurons, nothing else; writes the score of every neuron.

    Parameters
    ----------
    output
        File to write, for example scores.safetensors.
    """
    _quiet_libraries()
    from crispr_lm.jobs.inspection import describe_scores
    from crispr_lm.jobs.steps import score as score_job
    from crispr_lm.report.terminal import print_scores, terminal_progress
    from crispr_lm.runtime.distributed import is_first, joined

    with joined():
        with terminal_progress(silent=_is_quiet() or not is_first()) as progress:
            scores, failed = _with_what_could_not_be_written(lambda: score_job(model, output, settings, progress))
        if is_first():
            where = None if failed else output
            _show(describe_scores(scores), lambda: print_scores(scores, where), lambda: where or "")
        _fail_with(failed)


@app.command
def evaluate(
    model: ModelArgument, /, *, output: OutputFile, edit: Path | None = None, settings: EvaluateSettings
) -> None:
    """Measure a model on a task, before and after an edit if one is given; writes results as JSON.

    Parameters
    ----------
    output
        File to write, for example results.json.
    edit
        An edit.json; measured beside the unedited model.
    """
    _quiet_libraries()
    from crispr_lm.jobs.steps import evaluate as evaluate_job
    from crispr_lm.report.terminal import print_results, terminal_progress
    from crispr_lm.runtime.distributed import is_first, joined

    with joined():
        with terminal_progress(silent=_is_quiet() or not is_first()) as progress:
            results, failed = _with_what_could_not_be_written(
                lambda: evaluate_job(model, output, edit, settings, progress)
            )
        if is_first():
            where = None if failed else output
            _show(results, lambda: print_results(results, where), lambda: where or "")
        _fail_with(failed)


@app.command
def apply(model: ModelArgument, edit: Path, /, *, output: OutputFile, settings: ApplySettings | None = None) -> None:
    """Save an edited model: as a plain Hugging Face folder, a LoRA adapter, a slimmer model, or the edit with a card.

    Parameters
    ----------
    edit
        An edit.json made for this model, or hf:OWNER/NAME for one on the hub.
    output
        Folder to write; must not exist, or be empty.
    """
    _quiet_libraries()
    from crispr_lm.jobs.steps import apply as apply_job
    from crispr_lm.report.terminal import print_saved, terminal_progress

    with terminal_progress(silent=_is_quiet()) as progress:
        told = apply_job(model, edit, output, settings or ApplySettings(), progress)
    _show(told, lambda: print_saved(told, output), lambda: output)
    _fail_after(told)


@app.command
def chat(
    model: ModelArgument,
    /,
    *,
    edit: Annotated[Path, Parameter(help="An edit.json made for this model, or hf:OWNER/NAME for one on the hub.")],
    settings: ChatSettings | None = None,
) -> None:
    """Talk with the original and the edited model side by side. Questions may also come from a pipe, one per line.

    Example: crispr-lm chat builtin:smollm2 --edit out/edit.json
    """
    _quiet_libraries()
    from crispr_lm.app.chat import chat as chat_job
    from crispr_lm.report.terminal import terminal_progress

    with terminal_progress(silent=_is_quiet()) as progress:
        talk = chat_job(model, edit, settings or ChatSettings(), progress)
    talk(_form == "json")


@app.command(name="app")
def page(run: Path, /, *, settings: AppSettings | None = None) -> None:
    """Open a local page to try what a run has found: ask both models, remove neuron after neuron, see which fire.

    Example: crispr-lm app out

    Parameters
    ----------
    run
        Folder of a finished run.
    """
    _quiet_libraries()
    from crispr_lm.app import check_installed

    check_installed()
    from crispr_lm.app.server import prepare
    from crispr_lm.report.terminal import terminal_progress

    with terminal_progress(silent=_is_quiet()) as progress:
        ready = prepare(run, settings or AppSettings(), progress)
    _show({"address": ready.address}, lambda: print(f"Open {ready.address} (Ctrl-C ends it)"), lambda: ready.address)
    sys.stdout.flush()
    ready.serve()


@app.command
def lm_eval_task(model: ModelArgument, /, *, output: OutputFile, settings: LmEvalSettings) -> None:
    """Write tasks for EleutherAI's lm-eval: the prompts and options that crispr-lm scores with this model.

    Parameters
    ----------
    output
        Folder to write; must not exist, or be empty.
    """
    _quiet_libraries()
    from crispr_lm.jobs.lm_eval_tasks import lm_eval_tasks

    names = lm_eval_tasks(model, output, settings)
    _show({"tasks": names}, lambda: print(*map(printable, names), sep="\n"), lambda: output)


@app.command
def inspect(
    source: Annotated[str, Parameter(help="A model, a scores file or an edit.json.")],
    /,
    *,
    top: int = 10,
    prompt: str | None = None,
    prompt_format: Literal["chat", "plain"] = "chat",
) -> None:
    """Show what is in a model, a scores file or an edit: neurons per module, top neurons, fingerprint.

    Parameters
    ----------
    top
        How many neurons to list.
    prompt
        A task, such as builtin:everyday: show its first question as the model sees it, token by token, instead.
    prompt_format
        With --prompt: chat, through the model's chat template, if it has one; plain, as it is.
    """
    _quiet_libraries()
    from crispr_lm.jobs.inspection import inspect as inspect_job
    from crispr_lm.jobs.inspection import inspect_prompt
    from crispr_lm.report.terminal import print_inspection, print_prompt

    if prompt is not None:
        seen = inspect_prompt(source, prompt, prompt_format)
        _show(seen, lambda: print_prompt(seen), lambda: seen["place"])
        return
    if top < 0:
        raise InputError(f"option --top: input should be greater than or equal to 0, not {top}")
    content = inspect_job(source, top)
    _show(content, lambda: print_inspection(content), lambda: content["type"])


@app.command
def reproduce(
    source: Path,
    /,
    *,
    output: OutputFile,
    tolerance: Annotated[float, Parameter(group=OUTPUT_GROUP)] = 0.02,
    model: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> None:
    """Run the record of a run again and compare; exits with status 1 where a figure, the edit or the verdict differs.

    Parameters
    ----------
    source
        The folder of a finished run.
    output
        Folder for the new run; must not exist, or be empty.
    tolerance
        Largest difference of a figure that counts as the same.
    model
        Where the model is now, if it is not where the record says.
    device
        To run on: auto, cpu, cuda, ...
    trust_remote_code
        Run Python code that comes with the model, if the record says so. Only for code you have read.
    allow_pickle
        Also read weights stored as pickle (.bin), if the record says so.
    """
    _quiet_libraries()
    from crispr_lm.jobs.reproduce import reproduce as reproduce_job
    from crispr_lm.report.terminal import print_reproduced, terminal_progress

    _mark_as_going_on()
    with terminal_progress(silent=_is_quiet()) as progress:
        told = reproduce_job(
            source,
            output,
            tolerance,
            model,
            device,
            progress,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    _show(told, lambda: print_reproduced(told, output), lambda: "reproduced" if told["same"] else "not reproduced")
    _fail_after(told)
    if not told["same"]:
        sys.exit(FAILURE)


@app.command
def doctor(
    model: ModelArgument | None = None,
    /,
    *,
    self_check: bool = False,
    prompt_format: Literal["chat", "plain"] = "chat",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> None:
    """Show what this machine has, what is installed, and what fits; of a model, how prompts are put to it.

    Exits with status 1 where a model was checked and a check failed.

    Parameters
    ----------
    self_check
        Load the model's weights and check on them what every edit rests on: neurons are found, scores equal the
        definition, hooks equal edited weights, undo is exact, the saved folder computes the same.
    prompt_format
        chat: prompts go through the model's chat template, if it has one; plain: they are read as they are.
    trust_remote_code
        Run Python code that comes with the model. Only for code you have read.
    allow_pickle
        Also read weights stored as pickle (.bin), which can run code hidden in the file.
    """
    _quiet_libraries()
    from crispr_lm.jobs.doctor import examine_machine
    from crispr_lm.report.terminal import machine_line, print_machine

    told = examine_machine(
        model,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        prompt_format=prompt_format,
        self_checked=self_check,
    )
    _show(told, lambda: print_machine(told), lambda: machine_line(told))
    checked = told.get("model", {}).get("self_check", {}).values()
    if told.get("model", {}).get("prompt", {}).get("refused") or any(not found["passed"] for found in checked):
        sys.exit(FAILURE)


edit_app = App(name="edit", help="Combine and compare edits.")
app.command(edit_app)


@edit_app.command
def union(first: Path, second: Path, /, *others: Path, output: OutputFile) -> None:
    """Make one edit of all neurons that any of the edits names.

    Parameters
    ----------
    first
        An edit.json.
    second
        Another edit.json, made for the same model.
    others
        Any more of them.
    output
        File to write.
    """
    from crispr_lm.jobs.inspection import combine_edits
    from crispr_lm.report.terminal import print_edit_saved

    edit = combine_edits("union", (first, second, *others), output)
    _show({"file": str(output), "neurons": len(edit.neurons)}, lambda: print_edit_saved(edit, output), lambda: output)


@edit_app.command
def intersect(first: Path, second: Path, /, *others: Path, output: OutputFile) -> None:
    """Make one edit of the neurons that all of the edits name.

    Parameters
    ----------
    first
        An edit.json.
    second
        Another edit.json, made for the same model.
    others
        Any more of them.
    output
        File to write.
    """
    from crispr_lm.jobs.inspection import combine_edits
    from crispr_lm.report.terminal import print_edit_saved

    edit = combine_edits("intersection", (first, second, *others), output)
    _show({"file": str(output), "neurons": len(edit.neurons)}, lambda: print_edit_saved(edit, output), lambda: output)


@edit_app.command
def diff(first: Path, second: Path, /) -> None:
    """Show what two edits have in common, per module and in all.

    Parameters
    ----------
    first
        An edit.json.
    second
        Another edit.json, made for the same model.
    """
    from crispr_lm.jobs.inspection import compare_edits
    from crispr_lm.report.terminal import print_overlap

    content = compare_edits(first, second)
    _show(content, lambda: print_overlap(content), lambda: f"{content['total']['jaccard']:.3f}")


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="TOML file with options, one `name = value` per line.")] = None,
    quiet: Annotated[bool, Parameter(help="Print one line: the outcome.", negative="")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", help="Print one JSON document on standard output.", negative="")
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        Parameter(
            help="Python file that registers something of your own; its code is run. May be repeated.", negative=""
        ),
    ] = None,
) -> None:
    global _form, _goes_on, _given, _in_file
    if quiet and as_json:
        raise InputError("--quiet and --json exclude each other; give one of them")
    _form = "json" if as_json else "quiet" if quiet else "tables"
    _goes_on, _given, _in_file = False, tokens, None
    sources: list[Env | Toml] = [Env(ENVIRONMENT_PREFIX, command=False)]
    if config is not None:
        source = _settings_file(config)
        sources.append(source)
        _in_file = (config, frozenset("--" + name.replace("_", "-") for name in source.config))
    app.config = (*sources, _check_trust)
    if plugin:
        _quiet_libraries()
        from crispr_lm.runtime.plugins import load_file

        for file in plugin:
            load_file(file)
    app(tokens, exit_on_error=False, print_error=False)


def _check_trust(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse trust that is given anywhere but on the command line; called by cyclopts after the other sources."""
    for argument in arguments:
        for token in argument.tokens if argument.name in TRUST else ():
            if token.source != "cli":
                is_variable = token.source == "env"
                where = f"environment variable {token.keyword}" if is_variable else f"settings file {token.source}"
                raise InputError(
                    f"{where} gives {argument.name}, which is taken from the command line alone; remove it there, and "
                    "give the option with the command if you trust this model"
                )


def _settings_file(path: Path) -> Toml:
    try:
        exists = path.exists()
        check_regular(path)
    except (OSError, ValueError) as error:  # too long a name, a null character; a folder, a device or a pipe
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"settings file {path} can't be read ({reason}); give a TOML file") from error
    if not exists:
        raise InputError(f"settings file {path} does not exist; check the path")
    source = Toml(path, must_exist=True, search_parents=False, use_commands_as_keys=False)
    try:
        content = source.config  # read now: a mistake in the file is told with its name
    except (CycloptsError, ValueError, OSError) as error:
        raise InputError(f"settings file {path} can't be read as TOML: {' '.join(str(error).split())}") from error
    for name, value in content.items():
        if name in COMMAND_LINE_ONLY:  # cyclopts would pass over it without a word
            raise InputError(f"settings file {path} can't set {name!r}; give --{name} on the command line")
        if isinstance(value, dict):  # its options would be passed over without a word
            raise InputError(
                f"settings file {path} has a section [{name}]; write its options at the top level, one `name = value` "
                "per line"
            )
    return source


class _Terminated(BaseException):
    """The process was asked to end (SIGTERM): everything in progress is left as for an error, files are whole."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``crispr-lm``; what goes wrong and is no defect of ours ends in one sentence on standard error.

    The status is then 2 for a mistake of the user, 130 for Ctrl-C, 143 for SIGTERM, else 1.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    app.config = ()  # nothing of an earlier call in this process
    try:
        app.meta(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()  # here, where it can still be told that it fails
    except CrisprError as error:
        is_mistake = isinstance(error, InputError) and not isinstance(error, WriteError)
        _fail(str(error), USAGE_ERROR if is_mistake else FAILURE)
    except ValidationError as error:
        _fail(_settings_sentence(error))
    except CycloptsError as error:
        cause = error.__cause__
        _fail(_settings_sentence(cause) if isinstance(cause, ValidationError) else _usage_sentence(error))
    except BrokenPipeError:
        # Who read the output (head, less) has enough.
        _give_up_output()
        sys.exit(FAILURE)
    except KeyboardInterrupt:
        _fail(f"interrupted; {_what_then()}", INTERRUPTED)
    except _Terminated:
        _fail(f"terminated; {_what_then()}", TERMINATED)
    except (OSError, RuntimeError, MemoryError) as error:
        sentence = _of_the_machine(error)
        if sentence is None:
            _fail_with_traceback()
        else:
            _fail(sentence, FAILURE)
    except Exception:
        _fail_with_traceback()


def _mark_as_going_on() -> None:
    global _goes_on
    _goes_on = True


def _what_then() -> str:
    if _goes_on:
        return "the same command goes on, unless it says --overwrite"
    return "nothing is left half-written, the same command starts anew"


def _of_the_machine(error: Exception) -> str | None:
    """What to tell of a full disk or full memory where no part of the library has told it; None for anything else."""
    if isinstance(error, OSError):
        if error.errno not in BROKEN:
            return None
        _give_up_output()  # it may be what can't be written
        where = error.filename or "the output"
        return f"{where} can't be read or written ({error.strerror}); check the disk, then give the same command again"
    from crispr_lm.model.memory import ADVICE, is_out_of_memory

    return f"memory runs out; {ADVICE}" if is_out_of_memory(error) else None


def _give_up_output() -> None:
    """Have Python not try at exit to write what is left of standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_quiet() -> bool:
    return _form == "quiet"


def _show(content: Any, tables: Callable[[], None], line: Callable[[], object]) -> None:
    """Print a result in the form that was asked for."""
    if _form == "json":
        print(json_line(content, default=str))
    elif _form == "quiet":
        if text := printable(str(line())):
            print(text)
    else:
        tables()


def _with_what_could_not_be_written(work: Callable[[], Any]) -> tuple[Any, WriteError | None]:
    """What a job gives; where its file can't be written also that error, so that what it found is shown before."""
    try:
        return work(), None
    except WriteError as error:
        if error.result is None:
            raise
        return error.result, error


def _fail_with(error: WriteError | None) -> None:
    if error is not None:
        raise error


def _fail_after(results: Mapping[str, Any]) -> None:
    """End with status 1 where something after the work has failed."""
    from crispr_lm.storage.run_folder import failures

    if told := failures(results):
        _fail("; ".join(told), FAILURE)


def _terminate(_signal: int, _frame: object) -> None:
    raise _Terminated


def _fail(sentence: str, status: int = USAGE_ERROR) -> None:
    told = printable(" ".join(sentence.split()))
    print(f"crispr-lm: {told if len(told) <= LONGEST_SENTENCE else told[:LONGEST_SENTENCE] + '…'}", file=sys.stderr)
    sys.exit(status)


def _fail_with_traceback() -> NoReturn:
    """A defect of ours: all that Python tells of it, but for secrets and what steers a terminal."""
    print(printable(traceback.format_exc(), keep_lines=True), end="", file=sys.stderr)
    sys.exit(FAILURE)


def _usage_sentence(error: CycloptsError) -> str:
    """What cyclopts says of a command line or settings file, in the words of ours."""
    told = " ".join(str(error).split())
    if found := re.fullmatch(r'Unknown option: "\[(.+)\]" from (.+?)\.(?: Did you mean (.+)\?)?', told):
        option, file, near = found.groups()
        hint = f" (did you mean {near.removeprefix('--')!r}?)" if near else ""
        return f"settings file {file}: there is no option {option!r}{hint}; the command's --help lists them"
    if found := re.fullmatch(r"Invalid value for \[(.+)\] from (.+?): (.+)", told):
        return f"settings file {found[2]}: option --{found[1].replace('_', '-')}: {found[3]}"
    if found := re.fullmatch(r'Command "(.+)" parameter (\S+) requires an argument\.', told):
        return f"crispr-lm {found[1]} needs {found[2]}; crispr-lm {found[1]} --help tells what it is"
    if found := re.fullmatch(r"Unused Tokens: \[(.+)\]\.", told):
        return f"{found[1]} is one argument too many; options begin with --, and a value with spaces stands in quotes"
    return told


def _settings_sentence(error: ValidationError) -> str:
    """The first problem of a settings class as one sentence that names the option."""
    problem, *others = error.errors()
    option = "--" + str(problem["loc"][0]).replace("_", "-") if problem["loc"] else "options"
    if problem["type"] == "missing":
        return f"option {option} is needed; see crispr-lm --help"
    hint = ""
    if problem["type"] == "literal_error":
        hint = nearest(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))
    if problem["type"] == "extra_forbidden":  # what it was given may be a secret meant for another program
        return f"there is no option {option}; see crispr-lm --help"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    for other in others:  # an option of several forms has a problem with each of them
        if other["loc"][:1] == problem["loc"][:1] and ("valid" in other["msg"] or "greater" in other["msg"]):
            message += f" or {other['msg'].removeprefix('Input should be ').split(',')[0]}"
    return f"{_given_in(option)}option {option}: {message}, not {problem['input']!r}{hint}"


def _given_in(option: str) -> str:
    """Where an option's value stands, if not on the command line, which goes before environment and file."""
    if any(token == option or token.startswith(option + "=") for token in _given):
        return ""
    variable = ENVIRONMENT_PREFIX + option.removeprefix("--").replace("-", "_").upper()
    if variable in os.environ:
        return f"environment variable {variable}: "
    return f"settings file {_in_file[0]}: " if _in_file is not None and option in _in_file[1] else ""


def _quiet_libraries() -> None:
    """Our own progress tells more than the libraries' bars; what the user asked for by variable stays."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    main()
