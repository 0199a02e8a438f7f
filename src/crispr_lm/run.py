"""The jobs behind the commands. `run` is the main one: the way of the data from model and task to a proven edit.

Everything that can be wrong with the input is checked before weights are read, and nothing is written before that.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from crispr_lm.attribution import score_neurons
from crispr_lm.edit import Edit, weights_fingerprint
from crispr_lm.edit_sets import intersection, overlap, union
from crispr_lm.errors import CrisprError, InputError
from crispr_lm.evaluation import Evaluation
from crispr_lm.evaluation import evaluate as evaluate_model
from crispr_lm.export import export_folder, export_lora, export_slim
from crispr_lm.files import append_line, write_json
from crispr_lm.folder import RunFolder, check_writable, read_lines
from crispr_lm.metrics.instructions import differences
from crispr_lm.model.load import LanguageModel, ModelSource, check_device, check_quantize, count_parameters, open_model
from crispr_lm.model.neurons import NEURON_KINDS, find_sites
from crispr_lm.neuron_scores import NeuronScores
from crispr_lm.progress import Progress, SilentProgress
from crispr_lm.prompts import check_prompts
from crispr_lm.search import Candidate, Choice, choose, choose_part, counts_up_to, sweep
from crispr_lm.settings import (
    ApplySettings,
    EvaluateSettings,
    ModelSettings,
    RunSettings,
    ScoreSettings,
    TaskSettings,
)
from crispr_lm.tasks import Example, Task, load_task, sample
from crispr_lm.verification import verify_saved
from crispr_lm.version import __version__

logger = logging.getLogger(__name__)

RESULTS_FORMAT = "crispr-lm-results"
VERIFIED_EXAMPLES = 4


@dataclass(frozen=True)
class Parts:
    """What of a task is used for what."""

    task: Task
    fit: tuple[Example, ...]
    choose: tuple[Example, ...]
    report: tuple[Example, ...]


class Timings:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add the time spent in the block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.perf_counter() - start, 3)


def run(model: str, settings: RunSettings, progress: Progress | None = None) -> dict[str, Any]:
    """The main job: find the bias neurons, eliminate the few that matter, prove what changed, save it all.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``.
        settings: All options.
        progress: Shows how far it is.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: the input can't be used; nothing is written then.
        VerificationError: the saved model does not do what the model in memory does.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    folder = RunFolder(settings.output)
    folder.check(resume=settings.resume, overwrite=settings.overwrite)
    parts = [take_parts(task, settings) for task in load_tasks(settings)]
    lm = _load(
        model, settings, [(part.task, part.fit + part.choose + part.report) for part in parts], timings, progress
    )
    resumed = folder.start(_record(lm, settings, parts), resume=settings.resume)

    scores = _scores(lm, parts, settings, folder, resumed, timings, progress)
    choice, candidates = _search(lm, scores, parts, settings, folder, resumed, timings, progress)
    edit = Edit.from_neurons(
        lm,
        scores.top(choice.candidate.neurons),
        origin={**scores.origin, "scores": _file_hash(folder.scores), "reason": choice.reason},
    )
    edit.save(folder.edit)

    pairs = sum(len(part.report) * len(part.task.instructions) for part in parts)
    with timings.of("report_before"), progress.step("Measuring before", pairs) as advance:
        before = {part.task.name: _measure(lm, part, settings, advance) for part in parts}
    edit.bake(lm)
    try:
        with timings.of("report_after"), progress.step("Measuring after", pairs) as advance:
            after = {part.task.name: _measure(lm, part, settings, advance) for part in parts}
        with timings.of("save"), progress.step("Saving the edited model"):
            lm.save(folder.model)
        with timings.of("verify"), progress.step("Loading it again in a fresh process"):
            verified = verify_saved(
                lm,
                folder.model,
                parts[0].report[:VERIFIED_EXAMPLES],
                parts[0].task.instructions[0],
                trust_remote_code=settings.trust_remote_code,
            )
    finally:
        edit.undo(lm)

    results = {
        **_results(lm, edit, before, after, parts),
        "verdict": "recommended" if edit.neurons else "none",
        "reason": choice.reason,
        "search": [candidate.to_dict() for candidate in candidates],
        "saved_model": verified,
        "timings": timings.seconds,
    }
    write_json(folder.results, results)
    return results


def score(model: str, output: Path, settings: ScoreSettings, progress: Progress | None = None) -> NeuronScores:
    """Attribution alone: write the score of every neuron.

    Raises:
        InputError: the input can't be used; nothing is written then.
    """
    progress = progress or SilentProgress()
    _check_output_file(output)
    fits = [(task, _fit_sample(task, settings)) for task in load_tasks(settings)]
    lm = _load(model, settings, fits, Timings(), progress)
    scores = _attribute(lm, fits, settings, progress)
    scores.save(output)
    return scores


def evaluate(
    model: str, output: Path, edit_file: Path | None, settings: EvaluateSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Measurement alone: metrics on the report part, before and after an edit if one is given.

    Raises:
        InputError: the input can't be used; nothing is written then.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    _check_output_file(output)
    edit = Edit.load(edit_file) if edit_file is not None else None
    parts = [
        Parts(
            task,
            (),
            (),
            _report_sample(task.examples if settings.part == "all" else task.split(settings.seed).report, settings),
        )
        for task in load_tasks(settings)
    ]
    lm = _load(model, settings, [(part.task, part.report) for part in parts], timings, progress)
    if edit is not None:
        edit.check(lm)
    pairs = sum(len(part.report) * len(part.task.instructions) for part in parts)
    with timings.of("report_before"), progress.step("Measuring before", pairs) as advance:
        before = {part.task.name: _measure(lm, part, settings, advance) for part in parts}
    after = None
    if edit is not None:
        with edit.applied(lm), timings.of("report_after"), progress.step("Measuring after", pairs) as advance:
            after = {part.task.name: _measure(lm, part, settings, advance) for part in parts}
    results = {**_results(lm, edit, before, after, parts), "timings": timings.seconds}
    write_json(output, results)
    return results


def apply(
    model: str, edit_file: Path, output: Path, settings: ApplySettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Save an edited model in one of the formats of `crispr_lm.export`, and compare it with the model in memory.

    Returns:
        How many option scores were compared, the largest difference, and for the slim format the parameters saved.

    Raises:
        InputError: the input can't be used, the format can't hold this edit exactly, or the output folder is not empty;
            nothing is written then.
        EditMismatchError: the edit was made for another model.
        VerificationError: what was saved does not do what the edited model in memory does.
    """
    progress = progress or SilentProgress()
    check_writable(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output {output} exists and is not an empty folder; give another one")
    edit = Edit.load(edit_file)
    lm = _load(model, settings, [], Timings(), progress)
    told: dict[str, Any] = {}
    with progress.step("Saving the edited model"):
        if settings.format == "lora":
            export_lora(lm, edit, output)
        elif settings.format == "slim":
            told["parameters_saved"] = export_slim(lm, edit, output)
        else:
            export_folder(lm, edit, output)
    probes = load_task("builtin:everyday")
    with progress.step("Loading it again in a fresh process"), edit.applied(lm):
        told |= verify_saved(
            lm,
            output,
            sample(probes.examples, VERIFIED_EXAMPLES, 0),
            probes.instructions[0],
            adapter=settings.format == "lora",
            trust_remote_code=settings.trust_remote_code,
        )
    return told


def combine_edits(how: Literal["union", "intersection"], files: Sequence[Path], output: Path) -> Edit:
    """Write the union or intersection of edits.

    Raises:
        InputError: a file is no edit, the edits are of different scales, or the output can't be written.
        EditMismatchError: the edits are of different models.
    """
    _check_output_file(output)
    edits = [Edit.load(file) for file in files]
    combined = union(edits) if how == "union" else intersection(edits)
    combined.save(output)
    return combined


def compare_edits(first: Path, second: Path) -> dict[str, Any]:
    """Tell what two edits have in common, in all and per module, as JSON types.

    Raises:
        InputError: a file is no edit.
        EditMismatchError: the edits are of different models.
    """
    total, per_module = overlap(Edit.load(first), Edit.load(second))
    return {
        "total": asdict(total) | {"jaccard": total.jaccard},
        "per_module": {module: asdict(part) | {"jaccard": part.jaccard} for module, part in per_module.items()},
    }


def inspect(source: str, top: int = 10) -> dict[str, Any]:
    """Tell what is in a model, a scores file or an edit, as JSON types.

    Raises:
        InputError: it is none of these, or can't be read.
    """
    path = Path(source).expanduser()
    if path.suffix == ".json":
        edit = Edit.load(path)
        per_module: dict[str, int] = {}
        for neuron in edit.neurons:
            per_module[neuron.module] = per_module.get(neuron.module, 0) + 1
        return {
            "type": "edit",
            "base_model": dict(edit.base_model),
            "scale": edit.scale,
            "neurons": len(edit.neurons),
            "per_module": per_module,
            "top": [asdict(neuron) for neuron in edit.neurons[:top]],
            "fingerprint": {module: dict(hashes) for module, hashes in edit.fingerprint.items()},
            "origin": dict(edit.origin),
        }
    if path.suffix == ".safetensors":
        scores = NeuronScores.load(path)
        best = scores.top(min(top, len(scores)))
        return {
            "type": "scores",
            "kind": scores.kind,
            "neurons": len(scores),
            "per_module": {module: len(values) for module, values in scores.values.items()},
            "top": [{**asdict(neuron), "score": scores.score_of(neuron)} for neuron in best],
            "origin": scores.origin,
        }
    if path.is_file() and path.suffix != ".gguf":
        raise InputError(f"{source} is no model, scores file (.safetensors) or edit (.json)")
    lm = open_model(source).load("float32", "cpu")
    per_kind: dict[str, dict[str, int]] = {}
    for kind in NEURON_KINDS:
        try:
            per_kind[kind] = {site.name: site.width for site in find_sites(lm.model, kind)}
        except InputError:
            per_kind[kind] = {}
    return {
        "type": "model",
        "name": lm.name,
        "architecture": type(lm.model).__name__,
        "parameters": count_parameters(lm.model),
        "context_length": lm.context_length,
        "neurons": {kind: sum(modules.values()) for kind, modules in per_kind.items()},
        "per_module": per_kind,
        "fingerprint": weights_fingerprint(lm.model),
    }


def load_tasks(settings: TaskSettings) -> list[Task]:
    """Load every task of the settings.

    Raises:
        InputError: as `load_task`, or a task is named twice.
    """
    for name in settings.task:
        if settings.task.count(name) > 1:
            raise InputError(f"task {name} is named twice; name it once")
    return [load_task(name, settings.instructions) for name in settings.task]


def take_parts(task: Task, settings: RunSettings) -> Parts:
    """Split a task by template and draw what is used of each part.

    Raises:
        InputError: too few templates, or fewer examples to attribute on than asked for.
    """
    split = task.split(settings.seed)
    return Parts(
        task=task,
        fit=_fit_sample(task, settings),
        choose=sample(split.choose, settings.choose_examples, settings.seed),
        report=_report_sample(split.report, settings),
    )


def _fit_sample(task: Task, settings: RunSettings | ScoreSettings) -> tuple[Example, ...]:
    fit = task.split(settings.seed).fit
    if settings.fit_on != "both" and any(example.condition for example in fit):
        fit = tuple(example for example in fit if example.condition == settings.fit_on)
    if len(fit) < settings.examples:
        raise InputError(
            f"{settings.examples} examples to attribute on were asked for, but the fit part of task {task.name} has "
            f"{len(fit)}; lower --examples or add examples"
        )
    return sample(fit, settings.examples, settings.seed)


def _report_sample(examples: Sequence[Example], settings: RunSettings | EvaluateSettings) -> tuple[Example, ...]:
    size = len(examples) if settings.report_examples == "all" else settings.report_examples
    return sample(examples, size, settings.seed)


def _load(
    model: str,
    settings: ModelSettings,
    used: Sequence[tuple[Task, Sequence[Example]]],
    timings: Timings,
    progress: Progress,
) -> LanguageModel:
    """Open the model, check that every prompt that will be used fits, and only then read the weights."""
    check_device(settings.device)
    if isinstance(settings, ScoreSettings):
        check_quantize(settings.quantize)
    with timings.of("load"), progress.step(f"Loading {model}"):
        source: ModelSource = open_model(model, trust_remote_code=settings.trust_remote_code)
        for task, examples in used:
            check_prompts(source, examples, task.instructions)
        quantize = settings.quantize if isinstance(settings, ScoreSettings) else "none"
        return source.load(settings.dtype, settings.device, allow_pickle=settings.allow_pickle, quantize=quantize)


def _scores(
    lm: LanguageModel,
    parts: Sequence[Parts],
    settings: RunSettings,
    folder: RunFolder,
    resumed: bool,
    timings: Timings,
    progress: Progress,
) -> NeuronScores:
    if resumed and folder.scores.exists():
        progress.say("Going on with the scores of the interrupted run")
        return NeuronScores.load(folder.scores)
    with timings.of("attribution"):
        scores = _attribute(lm, [(part.task, part.fit) for part in parts], settings, progress)
    scores.save(folder.scores)
    return scores


def _attribute(
    lm: LanguageModel,
    fits: Sequence[tuple[Task, Sequence[Example]]],
    settings: RunSettings | ScoreSettings,
    progress: Progress,
) -> NeuronScores:
    """Scores averaged over tasks: each task counts the same, whatever its number of examples."""
    pairs = sum(len(examples) * len(task.instructions) for task, examples in fits)
    with progress.step("Finding bias neurons", pairs) as advance:
        of_tasks = [
            score_neurons(
                lm,
                examples,
                task.instructions,
                neurons=settings.neurons,
                skill_weight=settings.skill_weight,
                batch_size=settings.batch_size,
                progress=advance,
            )
            for task, examples in fits
        ]
    values = {
        module: torch.stack([scores.values[module] for scores in of_tasks]).mean(dim=0) for module in of_tasks[0].values
    }
    return NeuronScores(
        values=values,
        kind=settings.neurons,
        origin={
            "model": lm.name,
            "tasks": list(settings.task),
            "examples": settings.examples,
            "instructions": len(fits[0][0].instructions),
            "fit_on": settings.fit_on,
            "skill_weight": settings.skill_weight,
            "seed": settings.seed,
        },
    )


def _search(
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[Parts],
    settings: RunSettings,
    folder: RunFolder,
    resumed: bool,
    timings: Timings,
    progress: Progress,
) -> tuple[Choice, list[Candidate]]:
    known = [Candidate.from_dict(row) for row in read_lines(folder.search)] if resumed else []
    on = [choose_part(lm, part.task.name, part.choose, part.task.instructions, settings.seed) for part in parts]
    total = len(counts_up_to(min(settings.max_neurons, len(scores)))) * sum(len(part.examples) for part in on)
    with timings.of("search"), progress.step("Choosing how many", total) as advance:
        candidates = sweep(
            lm,
            scores,
            on,
            settings.max_neurons,
            batch_size=settings.batch_size,
            known=known,
            finished=lambda candidate: append_line(folder.search, candidate.to_dict()),
            progress=advance,
        )
    choice = choose(candidates, settings.max_accuracy_loss)
    progress.say(choice.reason[0].upper() + choice.reason[1:])
    return choice, candidates


def _measure(lm: LanguageModel, part: Parts, settings: ModelSettings, advance: Any) -> Evaluation:
    return evaluate_model(lm, part.report, part.task.instructions, settings.batch_size, advance)


def _results(
    lm: LanguageModel,
    edit: Edit | None,
    before: dict[str, Evaluation],
    after: dict[str, Evaluation] | None,
    parts: Sequence[Parts],
) -> dict[str, Any]:
    """What ``results.json`` says about model, edit and metrics; without an edit there is no after."""
    tasks = {}
    for part in parts:
        name = part.task.name
        told: dict[str, Any] = {
            "examples": len(part.report),
            "templates": len({example.template for example in part.report}),
            "instructions": len(part.task.instructions),
            "before": before[name].metrics,
            "per_instruction": {"before": list(before[name].per_instruction)},
        }
        if after is not None:
            told["after"] = after[name].metrics
            told["difference"] = differences(before[name].metrics, after[name].metrics)
            told["per_instruction"]["after"] = list(after[name].per_instruction)
        tasks[name] = told
    content: dict[str, Any] = {"format": RESULTS_FORMAT, "version": 1, "model": lm.name, "tasks": tasks}
    if edit is not None:
        modules: dict[str, int] = {}
        for neuron in edit.neurons:
            modules[neuron.module] = modules.get(neuron.module, 0) + 1
        kinds = sorted({neuron.kind for neuron in edit.neurons})
        content["edit"] = {
            "neurons": len(edit.neurons),
            "kind": kinds[0] if len(kinds) == 1 else (kinds or None),
            "scale": edit.scale,
            "per_module": modules,
        }
    return content


def _record(lm: LanguageModel, settings: RunSettings, parts: Sequence[Parts]) -> dict[str, Any]:
    """What ``run.json`` holds; ``identity`` is all that results depend on."""
    described = settings.model_dump(mode="json", exclude={"output", "resume", "overwrite", "batch_size", "device"})
    identity = {
        "model": lm.name,
        "model_fingerprint": weights_fingerprint(lm.model),
        "settings": described,
        "data": {file: _file_hash(Path(file)) for part in parts for file in part.task.origin},
        "instructions": [list(part.task.instructions) for part in parts],
        "crispr_lm": __version__,
    }
    return {
        "identity": identity,
        "revision": lm.revision,
        "device": str(lm.device),
        "batch_size": settings.batch_size,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "platform": platform.platform(),
        },
        "parts": {
            part.task.name: {
                name: [example.source for example in getattr(part, name)] for name in ("fit", "choose", "report")
            }
            for part in parts
        },
    }


def _file_hash(path: Path) -> str:
    try:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CrisprError(f"{path} can't be read ({error.strerror or error})") from error


def _check_output_file(path: Path) -> None:
    """Check that a result file can be written, before any work.

    Raises:
        InputError: it is a folder, its folder is missing, or there is no permission.
    """
    if path.is_dir():
        raise InputError(f"output {path} is a folder; give a file")
    if not path.parent.is_dir():
        raise InputError(f"output {path}: folder {path.parent} does not exist; make it first")
    check_writable(path)
