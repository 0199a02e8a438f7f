"""What the search finds on a real model, category by category, beside the authors' choice and random neurons.

    python benchmarks/search.py run builtin:smollm2 ../shared/data/bbq/Age.jsonl --output out/Age.json
    python benchmarks/search.py decide out/Age.json
    python benchmarks/search.py methods out/Age.json
    python benchmarks/search.py table out/*.json --output docs/results/search.md

`run` fits on one category's attribution split, chooses on its validation split, and tells results on its test split:
three sets of templates of which none is in two. One search serves both limits: one chain of passes, refined for each.
What it recommends is told on the whole test split; on a sample of it all rows of a file and all that was tried. Trials
are kept in `out/Age.trials.jsonl` as they finish, and the same command goes on with them; with `--device cuda` a search
takes minutes in place of an hour. `decide` decides anew between the trials of a file, and tells what it had not told.
`methods` adds controls and what else one could do, at the size of the recommended edit. `table` writes the page.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata

from crispr_lm import Edit, NeuronScores, load_model, load_task, score_neurons
from crispr_lm.attribution.relevance import TokenAggregation
from crispr_lm.baselines import METHODS, NotRunError, Treatment, measure
from crispr_lm.baselines.fit import Chosen, Fit
from crispr_lm.evaluation.evaluation import Evaluation, evaluation_of
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, divergence, reference_distribution
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.suite import TaskSubject
from crispr_lm.jobs.preparation import further
from crispr_lm.metrics import FAMILIES
from crispr_lm.model.load import LanguageModel
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.evaluator import Bench, Proposal
from crispr_lm.search.evidence import Asked, evidence_anew, ordinary_answers, search_effects
from crispr_lm.search.neuron_count import golden_section, validation_part
from crispr_lm.search.rankings import RANKINGS, Evidence, Recipe, ranked
from crispr_lm.search.reevaluation import hear_finalists
from crispr_lm.search.refinement import refine
from crispr_lm.search.rounds import chains, follow
from crispr_lm.search.selection import decide
from crispr_lm.search.trial import Limits, Trial, best_within
from crispr_lm.search.tuning import Budget, Space, Tally, begin, tune
from crispr_lm.settings import CompareSettings
from crispr_lm.storage.files import append_line, write_bytes, write_json, write_lines
from crispr_lm.storage.run_folder import read_lines
from crispr_lm.tasks import Task, neutral_prompts, of_condition, sample
from crispr_lm.tasks.base import AttributeOn, Example, Split
from crispr_lm.tasks.parts import Parts
from search_page import FIGURES, GOLDEN_SECTION, LOSSES, RANDOM, of_limit, page

AUTHORS_EXAMPLES = 20
"""Development examples that the authors choose the number of neurons on."""

ROWS_OF_RUN = ("original", "search", "golden-section", "random")
"""Methods that `run` has rows of."""


def run(arguments: argparse.Namespace) -> None:
    """Search on one category and tell the results on its test split."""
    start = time.perf_counter()
    lm, task, split = _loaded(arguments)
    seed, instructions = arguments.seed, task.instructions
    report = Report.of(lm, task, split.test, arguments)
    limits = _within(max(LOSSES), arguments)
    bench = _bench(lm, task, split, report, arguments)

    @cache
    def published(attribute_on: AttributeOn, token_aggregation: TokenAggregation) -> NeuronScores:
        examples = sample(of_condition(split.attribution, attribute_on), arguments.published, seed)
        few = instructions[: arguments.instructions]
        return score_neurons(lm, examples, few, token_aggregation=token_aggregation)

    scores = published("ambiguous", "max")
    asked = Asked(split.attribution, arguments.effects, instructions)
    effects = search_effects(lm, asked, ("ffn",), seed)
    ordinary = ordinary_answers(lm, arguments.neutral, ("ffn",), seed)
    _say(start, "effects measured")

    @cache
    def evidence() -> Evidence:
        return Evidence(published, effects, ordinary.unedited(), ordinary.kept)

    anew = lru_cache(arguments.rounds)(partial(evidence_anew, lm, published, [asked], seed, "auto"))

    def following(recipe: Recipe) -> Sequence[Neuron]:
        if not recipe.eliminated:
            return ranked("pursuit", evidence(), recipe)
        return ranked("pursuit", anew(ordinary, recipe.kind, recipe.eliminated, recipe.scale), recipe)

    content: dict[str, Any] = {
        "category": Path(arguments.data).stem,
        "command": {key: str(value) for key, value in vars(arguments).items() if key != "job"},
        "templates": {name: len({x.template for x in getattr(split, name)}) for name in split._fields},
        "machine": _machine(lm),
    }
    record = arguments.output.with_suffix(".trials.jsonl")
    known = _known(record, content["command"])

    def finished(trial: Trial) -> None:
        append_line(record, trial.to_dict())
        _say(start, f"trial {trial.number} {trial.stage} {dict(trial.recipe)} {trial.figures} {trial.complete}")

    for trial in known:
        bench.remember(trial)
    tally = Tally(known, Budget(arguments.trials), finished)
    begin(bench, tally)
    for chain in chains(("ffn",), limits.neurons, arguments.rounds):
        follow(bench, chain, following, replace(limits, accuracy_loss=min(LOSSES)), tally)
    space = Space(tuple(RANKINGS), ("ffn",), limits.neurons)
    tune(bench, evidence, space, limits, Budget(arguments.trials), tally, seed)
    for loss in LOSSES:
        within = _within(loss, arguments)
        best = best_within(tally.complete, within) or tally.trials[0]
        refine(bench, best, within, tally, arguments.refinements, following)
    few = sample(sample(split.validation, arguments.choose, seed), AUTHORS_EXAMPLES, seed)
    development = validation_part(lm, task.name, few, instructions, seed)
    choice, candidates = golden_section(lm, scores, [development], arguments.neurons)
    _say(start, choice.reason)
    content["golden"] = [candidate.to_dict() for candidate in candidates]
    golden = Treatment(edit=Edit.from_neurons(lm, scores.top(choice.candidate.neurons)))
    _decide(bench, tally, report, content, arguments, golden, start)
    write_json(arguments.output, {**content, "seconds": round(time.perf_counter() - start)})
    before = report.answered(Treatment())
    content["in_hindsight"] = _in_hindsight(report, lm, tally.complete, before, limits)
    _say(start, "every trial told on the test split")
    write_json(arguments.output, {**content, "seconds": round(time.perf_counter() - start)})


def decide_anew(arguments: argparse.Namespace) -> None:
    """Decide between the trials of a file of `run`, and tell on the test split what is decided."""
    content = json.loads(arguments.file.read_text(encoding="utf-8"))
    given = arguments_of(content)
    start = time.perf_counter()
    lm, task, split = _loaded(given)
    report = Report.of(lm, task, split.test, given)
    bench = _bench(lm, task, split, report, given)
    tally = Tally([], Budget(given.trials), lambda trial: None)
    for trial in map(Trial.from_dict, content["trials"]):
        tally.trials += [trial] * trial.is_candidate
        bench.remember(trial)
    _decide(bench, tally, report, content, given, None, start)
    write_json(arguments.file, content)


def _loaded(arguments: argparse.Namespace) -> tuple[LanguageModel, Task, Split]:
    """Model, category and its three parts, from the arguments of `run`."""
    task = load_task(f"bbq:{arguments.data}")
    lm = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    return lm, task, task.split(arguments.seed)


def _bench(lm: LanguageModel, task: Task, split: Split, report: Report, arguments: argparse.Namespace) -> Bench:
    """Tries edits on a sample of the validation split, and hears the last few out on a larger one."""
    seed = arguments.seed
    first = sample(split.validation, arguments.choose, seed)
    last = further(split.validation, first, arguments.final, seed)
    asked, more = (validation_part(lm, task.name, examples, task.instructions, seed) for examples in (first, last))
    return Bench(lm, [asked], report.original, _within(max(LOSSES), arguments), seed=seed, further=[more])


def _machine(lm: LanguageModel) -> str:
    """What a model is on, for people."""
    if lm.device.type == "cuda":
        return f"one {torch.cuda.get_device_name(lm.device)}"
    return f"one core, {platform.machine()}" if torch.get_num_threads() == 1 else platform.machine()


def _within(loss: float, arguments: argparse.Namespace) -> Limits:
    return Limits(accuracy_loss=loss, overabstention=1.0, neurons=arguments.neurons)


def _decide(
    bench: Bench,
    tally: Tally,
    report: Report,
    content: dict[str, Any],
    arguments: argparse.Namespace,
    golden: Treatment | None,
    start: float,
) -> None:
    """Decide at both limits and fill in what is decided, beside the original, random neurons and the authors' choice.

    Args:
        bench: Where random neurons are tried.
        tally: The trials, to which these are added.
        report: The sample of the test split.
        content: Of the file; what is there of other rows stays.
        arguments: Of `run`.
        golden: The authors' choice; None where its row is there.
        start: When the job began.
    """
    lm, decided = report.lm, dict[str, Trial]()
    content["decisions"] = {}
    for loss in LOSSES:
        within = _within(loss, arguments)
        decision = decide(bench, tally, within, arguments.seed, hear_finalists(bench, tally, within))
        decided[of_limit(loss)] = decision.trial
        content["decisions"][of_limit(loss)] = {"verdict": decision.verdict, "reason": decision.reason}
        _say(start, f"{of_limit(loss)}: {decision.verdict}, {decision.reason}")
    like = next((trial for trial in decided.values() if trial.neurons), tally.trials[0])
    edits: dict[str, Trial | Proposal] = {**decided, RANDOM: bench.random_control(like, arguments.seed + 1)}
    content["trials"] = [trial.to_dict() for trial in tally.trials]
    before = content.get("edits", {})
    content["edits"] = {
        name: {"neurons": [[of.module, of.index, of.kind] for of in edit.neurons], "scale": edit.scale}
        for name, edit in edits.items()
    }
    new = {
        name: Treatment(edit=Edit.from_neurons(lm, edit.neurons, edit.scale))
        for name, edit in edits.items()
        if before.get(name) != content["edits"][name]  # else what was told of it stays
    }
    asked = asked_under(report.task, len(report.whole), arguments.seed)
    knowledge = load_task("builtin:knowledge")  # every question under every instruction
    whole = replace(report, examples=report.whole, instructions=asked, knowledge=knowledge)
    content.setdefault("whole", {"questions": len(whole.examples), "rows": {}})
    content.setdefault("rows", {})
    sampled = {**new, **({} if golden is None else {GOLDEN_SECTION: golden})}
    content["whole"]["rows"].update(whole.rows(new, start) if new else {})
    content["rows"].update(report.rows(sampled, start) if sampled else {})


class Told(NamedTuple):
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

    @staticmethod
    def of(lm: LanguageModel, task: Task, examples: Sequence[Example], arguments: argparse.Namespace) -> Report:
        """What the arguments ask for: a sample."""
        drawn, knowledge = sample(examples, arguments.report, arguments.seed), load_task("builtin:knowledge")
        return Report(
            lm,
            task,
            examples,
            drawn,
            asked_under(task, len(drawn), arguments.seed),
            reference_distribution(lm, neutral_prompts()[: arguments.neutral]),
            replace(
                knowledge,
                examples=sample(knowledge.examples, arguments.knowledge, arguments.seed),
                instructions=knowledge.instructions[: arguments.instructions],
            ),
        )

    def answered(self, treatment: Treatment) -> Evaluation:
        """The treated model's answers to the test split."""
        scores = torch.zeros(len(self.examples), max(len(example.options) for example in self.examples))
        for instruction in dict.fromkeys(self.instructions):
            chosen = [index for index, told in enumerate(self.instructions) if told == instruction]
            asked = TaskSubject(
                replace(self.task, instructions=(instruction,)), tuple(self.examples[index] for index in chosen)
            )
            answered = measure(self.lm, treatment, asked)
            assert isinstance(answered, Evaluation)
            scores[chosen] = answered.option_scores[0]
        return evaluation_of(self.examples, [scores], FAMILIES["question_answering"])

    def told(self, treatment: Treatment, before: Told | None = None) -> tuple[Told, dict[str, Any]]:
        """Figures of the treated model, and what they differ by from those of the untreated."""
        found = self.answered(treatment)
        with treatment.applied(self.lm):
            kl = divergence(self.lm, self.original)["kl"]
        known = measure(self.lm, treatment, TaskSubject(self.knowledge, self.knowledge.examples))
        neurons = treatment.edit.neurons if treatment.edit is not None else ()
        told: dict[str, Any] = {
            "neurons": len(neurons),
            "kl": kl,
            "knowledge": known["accuracy"],
            "parts_conditions": _margins(self.examples, found.option_scores[0].numpy()),
            "metrics": dict(found.metrics),
            "shifted": _shifted(self.examples, found if before is None else before.task, found),
        }
        if before is not None:
            told["differences"] = {key: value.to_dict() for key, value in found.differences_from(before.task).items()}
            told["differences"]["knowledge"] = known.differences_from(before.knowledge)["accuracy"].to_dict()
        return Told(found, known), told

    def rows(self, treatments: Mapping[str, Treatment], start: float) -> dict[str, Any]:
        """The original and treated models, each compared with the original."""
        before, described = self.told(Treatment())
        rows: dict[str, Any] = {"original": described}
        for name, treatment in treatments.items():
            rows[name] = self.told(treatment, before)[1]
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
    lm, task, split = _loaded(given)
    few = replace(task, instructions=task.instructions[: given.instructions])
    fit = of_condition(split.attribution, "ambiguous")
    edit = content["edits"][of_limit(LOSSES[0])]
    neurons = [Neuron(module, index, kind) for module, index, kind in edit["neurons"]]
    parts = Parts(
        few, sample(fit, given.published, given.seed), sample(split.validation, given.choose, given.seed), split.test
    )
    settings = CompareSettings(task=(task.name,), output=arguments.file, neurons="ffn", max_neurons=given.neurons)
    on = Fit(lm, parts, settings, known=Chosen(neurons, edit["scale"], "the search's", recommended=True))
    report = Report.of(lm, task, split.test, given)
    before, _ = report.told(Treatment())
    for name, method in METHODS.items():
        if name in arguments.without or method.label in content["rows"]:
            continue
        try:
            treatment = method.fit(on, 0)
            content["rows"][method.label] = report.told(treatment, before)[1]
        except NotRunError as error:
            print(f"{method.label} is not run: {error}")
            continue
        _say(start, f"{method.label}: {[round(content['rows'][method.label]['metrics'][x] or 0, 3) for x in FIGURES]}")
        write_json(arguments.file, content)


def arguments_of(content: Mapping[str, Any]) -> argparse.Namespace:
    """What `run` was told when it wrote a file."""
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


def _in_hindsight(
    report: Report,
    lm: LanguageModel,
    trials: Sequence[Trial],
    before: Evaluation,
    limits: Limits,
) -> dict[int, dict[str, float | None]]:
    """What each trial changes on the test split, by its number: what no way of choosing among them could exceed."""
    told: dict[int, dict[str, float | None]] = {}
    for trial in trials:
        if trial.neurons and "same_edit_as" not in trial.recipe and trial.figures.kl <= limits.kl:
            answered = report.answered(Treatment(edit=Edit.from_neurons(lm, trial.neurons, trial.scale)))
            differences = answered.differences_from(before)
            told[trial.number] = {figure: differences[figure].value for figure in FIGURES}
    return told


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
    for name, default in (
        ("effects", 128), ("choose", 96), ("final", 288), ("report", 120), ("rounds", 8), ("trials", 12),
        ("refinements", 6), ("published", 20), ("instructions", 4), ("neutral", 24), ("knowledge", 60),
        ("neurons", 100), ("seed", 0),
    ):  # fmt: skip
        searching.add_argument(f"--{name}", type=int, default=default)
    searching.add_argument("--output", type=Path, required=True)
    deciding = jobs.add_parser("decide")
    deciding.set_defaults(job=decide_anew)
    deciding.add_argument("file", type=Path)
    comparing = jobs.add_parser("methods")
    comparing.set_defaults(job=methods)
    comparing.add_argument("file", type=Path)
    comparing.add_argument("--without", nargs="*", default=list(ROWS_OF_RUN))
    telling = jobs.add_parser("table")
    telling.set_defaults(job=table)
    telling.add_argument("files", nargs="+")
    telling.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.job(arguments)


if __name__ == "__main__":
    main()
