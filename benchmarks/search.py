"""What the search finds on a real model, category by category, beside the authors' choice and random neurons.

    python benchmarks/search.py run builtin:smollm2 ../shared/data/bbq/Age.jsonl --output out/Age.json
    python benchmarks/search.py methods out/Age.json
    python benchmarks/search.py table out/*.json --output docs/results/search.md

`run` searches on one category as `crispr-lm run` does (`crispr_lm.search_edit`), once for each limit on the loss of
disambiguated accuracy, with the command's defaults except for the options that are given. The edits are measured on the
whole test split; on a sample of it all rows of a file and all that was tried. Trials are kept in
`out/Age.LOSS.trials.jsonl` as they finish; the same command resumes. With `--device cuda` a search takes minutes in
place of an hour. `methods` adds controls and what else one could do, at the size of the edit of the smaller limit.
`table` writes the page.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata

from crispr_lm import Checkpoint, Edit, Found, Limits, SearchOptions, Trial, load_model, load_task, search_edit
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.task_scores import score_tasks
from crispr_lm.baselines import METHODS, NotRunError, Treatment, measure
from crispr_lm.baselines.fit import Chosen, Fit
from crispr_lm.evaluation.evaluation import Evaluation, evaluation_of
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, divergence, reference_distribution
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.suite import TaskSubject
from crispr_lm.metrics import FAMILIES
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.search.evaluator import random_neurons
from crispr_lm.search.neuron_count import golden_section, validation_part
from crispr_lm.search.options import search_parts
from crispr_lm.settings import CompareSettings
from crispr_lm.storage.files import append_line, write_bytes, write_json, write_lines
from crispr_lm.storage.records import read_lines
from crispr_lm.tasks import Task, neutral_prompts, sample
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.parts import Parts
from search_page import FIGURES, GOLDEN_SECTION, LOSSES, RANDOM, of_limit, page

AUTHORS_EXAMPLES = 20
"""Development examples that the authors choose the number of neurons on."""

ROWS_OF_RUN = ("original", "search", "golden-section", "random")
"""Methods that `run` has rows of."""

SIZES = tuple(field.name for field in fields(SearchOptions) if isinstance(field.default, int))
"""Options of the search that `run` takes, by the names that `crispr-lm run` has for them; the seed is one."""


def run(arguments: argparse.Namespace) -> None:
    """Search on one category and measure what is found on its test split."""
    start = time.perf_counter()
    lm, task, parts = loaded(arguments)
    report = Report.of(lm, parts, arguments)
    options = _options(arguments)
    scores = score_tasks(lm, [(task, parts.attribution)], options, SilentProgress())
    split = task.split(arguments.seed)
    content: dict[str, Any] = {
        "category": Path(arguments.data).stem,
        "command": {key: str(value) for key, value in vars(arguments).items() if key != "job"},
        "templates": {name: len({x.template for x in getattr(split, name)}) for name in split._fields},
        "machine": _machine(lm),
        "decisions": {},
        "trials": {},
    }
    edits: dict[str, Edit] = {}
    tried: list[Trial] = []
    for loss in LOSSES:
        found = _searched(report, scores, loss, arguments, start)
        edits[of_limit(loss)] = found.edit
        tried += found.trials
        content["decisions"][of_limit(loss)] = {"verdict": found.verdict, "reason": found.reason}
        content["trials"][of_limit(loss)] = [trial.to_dict() for trial in found.trials]
        _say(start, f"{of_limit(loss)}: {found.verdict}, {found.reason}")
    like = next((edit for edit in edits.values() if edit.neurons), Edit(()))
    edits[RANDOM] = Edit.from_neurons(lm, random_neurons(lm, like.neurons, arguments.seed + 1), like.scale)
    few = sample(parts.validation, AUTHORS_EXAMPLES, arguments.seed)
    development = validation_part(lm, task.name, few, task.instructions, arguments.seed)
    choice, candidates = golden_section(lm, scores, [development], arguments.max_neurons)
    _say(start, choice.reason)
    content["golden"] = [candidate.to_dict() for candidate in candidates]
    content["edits"] = {
        name: {"neurons": [[of.module, of.index, of.kind] for of in edit.neurons], "scale": edit.scale}
        for name, edit in edits.items()
    }
    treatments = {name: Treatment(edit=edit) for name, edit in edits.items()}
    content["whole"] = {"questions": len(report.whole), "rows": report.of_whole().rows(treatments, start)}
    golden = Treatment(edit=Edit.from_neurons(lm, scores.top(choice.candidate.neurons)))
    content["rows"] = report.rows({**treatments, GOLDEN_SECTION: golden}, start)
    write_json(arguments.output, {**content, "seconds": round(time.perf_counter() - start)})
    content["in_hindsight"] = _in_hindsight(report, tried)
    _say(start, "every trial measured on the test split")
    write_json(arguments.output, {**content, "seconds": round(time.perf_counter() - start)})


def _searched(report: Report, scores: NeuronScores, loss: float, arguments: argparse.Namespace, start: float) -> Found:
    """The search of the command within a limit; its trials are kept in a file of their own, and resumed from it."""
    limits = Limits(accuracy_loss=loss, neurons=arguments.max_neurons)
    record = arguments.output.with_suffix(f".{loss:g}.trials.jsonl")
    known = _known(record, {key: str(value) for key, value in vars(arguments).items() if key != "job"})

    def on_trial(trial: Trial) -> None:
        append_line(record, trial.to_dict())
        _say(start, f"trial {trial.number} {trial.stage} {dict(trial.recipe)} {trial.figures} {trial.complete}")

    checkpoint = Checkpoint(trials=known, on_trial=on_trial, scores=scores, original=report.original)
    return search_edit(report.lm, report.task, limits, _options(arguments), checkpoint)


def _options(arguments: argparse.Namespace) -> SearchOptions:
    return SearchOptions(**{name: getattr(arguments, name) for name in SIZES})


def loaded(arguments: argparse.Namespace) -> tuple[LanguageModel, Task, Parts]:
    """Model, category and its parts, from the arguments of `run`."""
    task = load_task(f"bbq:{arguments.data}", str(arguments.instructions))
    lm = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    return lm, task, search_parts(task, _options(arguments))


def _machine(lm: LanguageModel) -> str:
    """What a model is on, for people."""
    if lm.device.type == "cuda":
        return f"one {torch.cuda.get_device_name(lm.device)}"
    return f"one core, {platform.machine()}" if torch.get_num_threads() == 1 else platform.machine()


class Answered(NamedTuple):
    """What a model has answered, so that another's answers can be compared with it in pairs."""

    task: Evaluation
    knowledge: Measurement


@dataclass(frozen=True)
class Report:
    """The whole test split, a sample of it, each example asked under one instruction, and what must not be harmed."""

    lm: LanguageModel
    task: Task
    whole: Sequence[Example]
    examples: Sequence[Example]
    instructions: Sequence[str]
    original: ReferenceDistribution
    knowledge: Task
    seed: int

    @staticmethod
    def of(lm: LanguageModel, parts: Parts, arguments: argparse.Namespace) -> Report:
        """What the arguments of `run` ask for: a sample."""
        drawn, knowledge = sample(parts.test, arguments.report, arguments.seed), load_task("builtin:knowledge")
        return Report(
            lm,
            parts.task,
            parts.test,
            drawn,
            asked_under(parts.task, len(drawn), arguments.seed),
            reference_distribution(lm, neutral_prompts()[: arguments.neutral_prompts]),
            replace(
                knowledge,
                examples=sample(knowledge.examples, arguments.knowledge, arguments.seed),
                instructions=knowledge.instructions[: arguments.instructions],
            ),
            arguments.seed,
        )

    def of_whole(self) -> Report:
        """Of the whole test split, and every question of knowledge under every instruction."""
        asked = asked_under(self.task, len(self.whole), self.seed)
        return replace(self, examples=self.whole, instructions=asked, knowledge=load_task("builtin:knowledge"))

    def answered(self, treatment: Treatment) -> Evaluation:
        """The treated model's answers to the test split."""
        scores = torch.zeros(len(self.examples), max(len(example.options) for example in self.examples))
        for instruction in dict.fromkeys(self.instructions):
            chosen = [index for index, one in enumerate(self.instructions) if one == instruction]
            asked = TaskSubject(
                replace(self.task, instructions=(instruction,)), tuple(self.examples[index] for index in chosen)
            )
            answered = measure(self.lm, treatment, asked)
            assert isinstance(answered, Evaluation)
            scores[chosen] = answered.option_scores[0]
        return evaluation_of(self.examples, [scores], FAMILIES["question_answering"])

    def described(self, treatment: Treatment, before: Answered | None = None) -> tuple[Answered, dict[str, Any]]:
        """Figures of the treated model, and what they differ by from those of the untreated."""
        found = self.answered(treatment)
        with treatment.applied(self.lm):
            kl = divergence(self.lm, self.original)["kl"]
        known = measure(self.lm, treatment, TaskSubject(self.knowledge, self.knowledge.examples))
        neurons = treatment.edit.neurons if treatment.edit is not None else ()
        row: dict[str, Any] = {
            "neurons": len(neurons),
            "kl": kl,
            "knowledge": known["accuracy"],
            "parts_conditions": _margins(self.examples, found.option_scores[0].numpy()),
            "metrics": dict(found.metrics),
            "shifted": _shifted(self.examples, found if before is None else before.task, found),
        }
        if before is not None:
            row["differences"] = {key: value.to_dict() for key, value in found.differences_from(before.task).items()}
            row["differences"]["knowledge"] = known.differences_from(before.knowledge)["accuracy"].to_dict()
        return Answered(found, known), row

    def rows(self, treatments: Mapping[str, Treatment], start: float) -> dict[str, Any]:
        """The original and treated models, each compared with the original."""
        before, row = self.described(Treatment())
        rows: dict[str, Any] = {"original": row}
        for name, treatment in treatments.items():
            rows[name] = self.described(treatment, before)[1]
            figures = [round(rows[name]["metrics"][figure] or 0, 3) for figure in FIGURES]
            _say(start, f"{name}, {len(self.examples)} questions: {figures}")
        return rows


def asked_under(task: Task, count: int, seed: int) -> list[str]:
    """An instruction for each of so many examples, every one for as many as any other."""
    ranks = Random(seed).sample(range(count), count)
    return [task.instructions[rank % len(task.instructions)] for rank in ranks]


def methods(arguments: argparse.Namespace) -> None:
    """Add controls and baselines to the file of a `run`, each as large as the edit of the smaller limit."""
    content = json.loads(arguments.file.read_text(encoding="utf-8"))
    given = arguments_of(content)
    start = time.perf_counter()
    lm, task, parts = loaded(given)
    edit = content["edits"][of_limit(LOSSES[0])]
    neurons = [Neuron(module, index, kind) for module, index, kind in edit["neurons"]]
    settings = CompareSettings(task=(task.name,), output=arguments.file, max_neurons=given.max_neurons, seed=given.seed)
    on = Fit(lm, parts, settings, known=Chosen(neurons, edit["scale"], "the search's", recommended=True))
    report = Report.of(lm, parts, given)
    before, _ = report.described(Treatment())
    for name, method in METHODS.items():
        if name in arguments.without or method.label in content["rows"]:
            continue
        try:
            treatment = method.fit(on, 0)
            content["rows"][method.label] = report.described(treatment, before)[1]
        except NotRunError as error:
            print(f"{method.label} is not run: {error}")
            continue
        _say(start, f"{method.label}: {[round(content['rows'][method.label]['metrics'][x] or 0, 3) for x in FIGURES]}")
        write_json(arguments.file, content)


def arguments_of(content: Mapping[str, Any]) -> argparse.Namespace:
    """The arguments of the `run` that wrote a file."""
    given = content["command"].items()
    return argparse.Namespace(**{key: int(value) if value.isdecimal() else value for key, value in given})


def table(arguments: argparse.Namespace) -> None:
    """Write the page from the files of `run`; what people have written into it stays."""
    before = arguments.output.read_text(encoding="utf-8") if arguments.output.exists() else ""
    text = page([json.loads(Path(file).read_text(encoding="utf-8")) for file in arguments.files], before)
    write_bytes(arguments.output, text.encode("utf-8"))
    print(text)


def _margins(examples: Sequence[Example], scores: np.ndarray[Any, Any]) -> float:
    """How well the margin of "unknown" tells ambiguous from disambiguated questions: area under the ROC curve."""
    unknown = np.array([example.unknown for example in examples])
    ambiguous = np.array([example.condition == "ambiguous" for example in examples])
    rows = np.arange(len(unknown))
    others = scores.copy()
    others[rows, unknown] = -np.inf
    ranks = rankdata(scores[rows, unknown] - others.max(axis=1))
    count = int(ambiguous.sum())
    return float((ranks[ambiguous].sum() - count * (count + 1) / 2) / (count * (len(rows) - count)))


def _shifted(examples: Sequence[Example], before: Evaluation, after: Evaluation) -> dict[str, float]:
    """What one constant, added to every score of "unknown", would make of a model: the highest gain at each loss.

    Over the model before, whatever the constant (it is chosen here): an upper bound for what only makes "unknown"
    likelier, or less likely, everywhere. Of the model before itself it says what can be had without parting anything.
    """
    ambiguous = np.array([example.condition == "ambiguous" for example in examples])
    answer = np.array([example.answer for example in examples])

    def accuracies(scores: np.ndarray[Any, Any]) -> tuple[float, float]:
        right = scores.argmax(axis=1) == answer
        return float(right[ambiguous].mean()), float(right[~ambiguous].mean())

    first = accuracies(before.option_scores[0].double().numpy())
    scores = after.option_scores[0].double().numpy()
    rows, unknown = np.arange(len(scores)), np.array([example.unknown for example in examples])
    others = scores.copy()
    others[rows, unknown] = -np.inf
    found = dict.fromkeys((str(loss) for loss in LOSSES), 0.0)
    for constant in [0.0, *(others.max(axis=1) - scores[rows, unknown] + 1e-6)]:
        moved = scores.copy()
        moved[rows, unknown] += constant
        gained = accuracies(moved)
        for loss in LOSSES:
            if first[1] - gained[1] <= loss + 1e-9:
                found[str(loss)] = max(found[str(loss)], gained[0] - first[0])
    return found


def _known(record: Path, command: Mapping[str, str]) -> list[Trial]:
    """Trials of a run of this command that did not come to its end; the record of another command's is begun anew."""
    lines = read_lines(record)
    same = bool(lines) and lines[0] == command
    write_lines(record, lines if same else [dict(command)])  # without a torn last line, which is not to be added to
    return [Trial.from_dict(line) for line in lines[1:]] if same else []


def _in_hindsight(report: Report, trials: Iterable[Trial]) -> list[dict[str, float | None]]:
    """What each edit that was tried changes on the test split: what no way of choosing among them could exceed."""
    complete = [trial for trial in trials if trial.complete and trial.is_candidate and trial.neurons]
    before = report.answered(Treatment())
    changes = []
    for trial in {trial.edit: trial for trial in complete if not trial.figures.too_far(Limits())}.values():
        answered = report.answered(Treatment(edit=Edit.from_neurons(report.lm, trial.neurons, trial.scale)))
        differences = answered.differences_from(before)
        changes.append({figure: differences[figure].value for figure in FIGURES})
    return changes


def _say(start: float, sentence: str) -> None:
    print(f"{time.perf_counter() - start:6.0f} s  {sentence}", flush=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    searching = jobs.add_parser("run")
    searching.set_defaults(job=run)
    searching.add_argument("model")
    searching.add_argument("data")
    searching.add_argument("--dtype", default="float32")
    searching.add_argument("--device", default="cpu")
    for field in fields(SearchOptions):
        if field.name in SIZES:
            searching.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    for name, default in (
        ("max-neurons", Limits().neurons), ("instructions", 10), ("report", 120), ("knowledge", 60),
    ):  # fmt: skip
        searching.add_argument(f"--{name}", type=int, default=default)
    searching.add_argument("--output", type=Path, required=True)
    comparing = jobs.add_parser("methods")
    comparing.set_defaults(job=methods)
    comparing.add_argument("file", type=Path)
    comparing.add_argument("--without", nargs="*", default=list(ROWS_OF_RUN))
    writing = jobs.add_parser("table")
    writing.set_defaults(job=table)
    writing.add_argument("files", nargs="+")
    writing.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.job(arguments)


if __name__ == "__main__":
    main()
