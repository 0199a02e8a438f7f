"""The job of ``crispr-lm compare``: every method on every task, how edits transfer, and what their size changes.

Each measurement is a cell, written to ``cells.jsonl`` as soon as it is finished; an interrupted comparison resumes at
the first missing cell. `crispr_lm.jobs.comparison_results` computes the figures from the cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from crispr_lm.attribution.bias_influence import score_neurons
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Method, Treatment, measure
from crispr_lm.baselines.published_ranking import searched_edit
from crispr_lm.baselines.registry import ABLATION, METHODS
from crispr_lm.edits.edit import Edit
from crispr_lm.errors import CrisprError, InputError, nearest
from crispr_lm.evaluation.kl_divergence import ReferenceDistribution, divergence
from crispr_lm.evaluation.suite import Subject, TaskSubject, further_subjects, measure_reference
from crispr_lm.inference.generation import takes_left_padding
from crispr_lm.inference.passes import counted_passes
from crispr_lm.jobs.advice import say_lacks, say_sizes
from crispr_lm.jobs.attempts import attempt
from crispr_lm.jobs.comparison_results import (
    COMPARISON_VERSION,
    CellKey,
    chosen_in,
    comparison_of,
    measurement_stored,
    same_measurements,
    stored,
)
from crispr_lm.jobs.edit_search import Start, find_edit
from crispr_lm.jobs.preparation import (
    Needs,
    Timings,
    attribution_candidates,
    check_held_out,
    fits,
    load,
    load_tasks,
    made_on,
    searched_aside,
    take_parts,
    without_searched,
)
from crispr_lm.jobs.record import dated, record_of
from crispr_lm.jobs.search_settings import check_search, procedure_of
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron, find_sites, searched_kinds
from crispr_lm.presets import SEARCHES
from crispr_lm.report.comparison import markdown
from crispr_lm.report.comparison_page import render_comparison
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.result import Searched
from crispr_lm.search.side_effects import AskedAside
from crispr_lm.settings import CompareSettings
from crispr_lm.storage.files import append_line, make_folder, write_bytes, write_json, write_lines
from crispr_lm.storage.records import read_rows
from crispr_lm.storage.run_folder import ComparisonFolder, RunFolder
from crispr_lm.tasks.base import sample
from crispr_lm.tasks.parts import Parts

NEURON_POINTS = (1, 3, 5, 10, 20, 50, 100, 200, 300, 500)
"""Numbers of neurons of the curve (the paper's figure), as far as ``--max-neurons`` goes."""
EXAMPLE_POINTS = (1, 2, 5, 10, 20, 50)
"""Numbers of attribution examples of the curve."""

ALWAYS = ("original", "search")
"""Methods that everything else is compared with."""

NOT_IDENTITY = ("methods", "ablation", "draws", "curves")
"""Settings that say which cells are wanted, not what is in them: a comparison may be resumed with others."""


def compare(model: str, settings: CompareSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Compare the crispr-lm search with controls and with other methods.

    Every method is fitted on each task's attribution and validation splits and measured on its test split, on the
    further tasks and on the neutral prompts.

    Args:
        model: Hub id, local folder, ``.gguf`` file or ``builtin:smollm2``.
        settings: All options.
        progress: Shows how far it is.

    Returns:
        What ``comparison.json`` holds; ``failed`` where the tables or the page could not be written.

    Raises:
        InputError: the input can't be used; nothing is written then.
    """
    progress = progress or SilentProgress()
    timings = Timings()
    chosen_methods(wanted_methods(settings))  # an unknown name is refused before files are read
    check_search(settings, progress)
    if settings.split_by == "random":
        raise InputError("--split-by random is for crispr-lm run: other methods need three parts; leave it away")
    if settings.pick is not None:
        raise InputError("--pick takes a trial of one run; a comparison searches for every task, so leave it away")
    if settings.prompts is not None:
        raise InputError("--prompts shows the answers of one edited model; give it to crispr-lm run")
    if settings.rules is not None:
        raise InputError("--rules are sealed with one measurement; give them to crispr-lm run or evaluate")
    folder = ComparisonFolder(settings.output)
    folder.check(resume=settings.resume, overwrite=settings.overwrite)
    settings = dated(settings, folder)
    tasks = load_tasks(settings)
    of_size = f"Published ranking, {settings.removed} neurons"
    methods = chosen_methods(
        wanted_methods(settings), procedure_of(settings, tasks) if settings.removed == "auto" else of_size
    )
    say_lacks(tasks, progress)
    parts = [take_parts(task, settings) for task in tasks]
    say_sizes(parts, settings, progress)
    subjects: dict[str, Subject] = {part.task.name: TaskSubject(part.task, part.test) for part in parts}
    aside = searched_aside(tasks, settings)
    further = without_searched(further_subjects(settings, tasks), aside.templates, progress)
    measured = [*subjects.values(), *further]
    check_held_out(measured, made_on(parts, aside), "measure other ones, or leave the task away")
    checks = [fits(part.task, part.searched_on) for part in parts]
    checks += [*(fits(task, task.examples) for task in aside.tasks.values()), *(subject.check for subject in measured)]
    needs = Needs(checks, probe=(parts[0].task, parts[0].validation))
    lm = load(model, settings, needs, timings, progress)
    _check_removed(lm, settings)
    record = record_of(lm, settings, parts, measured)
    for name in NOT_IDENTITY:
        del record["identity"]["settings"][name]
    record["identity"]["comparison_version"] = COMPARISON_VERSION  # cells of another one are not read
    takes_left_padding(lm)  # probed now, with all else that is, so that no method pays for it
    with folder.held():
        table = _Table(lm, settings, folder, progress, subjects, further, aside)
        return _compare_in(table, record, parts, methods)


def _check_removed(lm: LanguageModel, settings: CompareSettings) -> None:
    kind = searched_kinds(settings.neurons)[0]
    there = sum(site.width for site in find_sites(lm.model, kind))
    if settings.removed != "auto" and settings.removed > there:
        raise InputError(f"--removed {settings.removed}: {lm.name} has {there} {kind} neurons; give fewer")


def _compare_in(
    table: _Table, record: dict[str, Any], parts: Sequence[Parts], methods: Sequence[Method]
) -> dict[str, Any]:
    """Every cell that is not known yet, and the tables; returns what ``comparison.json`` holds."""
    settings, folder, progress = table.settings, table.folder, table.progress
    resumed = folder.start(record, overwrite=settings.overwrite)
    if resumed:
        table.cells = dict(read_rows(folder.cells, lambda cell: (CellKey.of_cell(cell), cell)))
        # A killed comparison may have left a torn last line, which must not be appended to.
        write_lines(folder.cells, table.cells.values())
    of_tasks = {part.task.name: table.fit(part, folder.search(number)) for number, part in enumerate(parts)}
    for number, method in enumerate(methods, start=1):
        for fit in of_tasks.values():
            progress.say(f"{method.label} on {fit.parts.task.name} (method {number} of {len(methods)})")
            for draw in range(settings.draws if method.random else 1):
                table.method(method, fit, draw)
    if settings.transfer:
        for fit in of_tasks.values():
            for name in of_tasks:
                if name != fit.parts.task.name:
                    table.transfer(fit, name)
    if settings.curves:
        for curve in (table.neuron_curve, table.example_curve):
            for fit in of_tasks.values():
                progress.say(f"Curves of {fit.parts.task.name}")
                curve(fit)

    with progress.step("Drawing intervals"):
        results = comparison_of(record, settings, methods, table.subjects, table.further, table.wanted)
    pages = {
        "tables": lambda: write_bytes(folder.tables, markdown(results).encode("utf-8")),
        "page": lambda: write_bytes(folder.page, render_comparison(results).encode("utf-8")),
    }
    failed = {name: reason for name, write in pages.items() if (reason := attempt(write)) is not None}
    results |= {"failed": failed} if failed else {}
    write_json(folder.results, results)  # the very last: it says that all is done
    return results


def wanted_methods(settings: CompareSettings) -> tuple[str, ...]:
    """What ``--methods`` and ``--ablation`` name: with the latter alone, its rows."""
    if not settings.ablation:
        return settings.methods
    return ABLATION + (settings.methods if "methods" in settings.model_fields_set else ())


def chosen_methods(names: Sequence[str], searched: str = SEARCHES["tuned"]) -> list[Method]:
    """Methods by name, in the order of tables; the unedited model and the search always, whatever is named.

    Args:
        names: As in ``--methods``.
        searched: What the search of the settings is called.

    Raises:
        InputError: there is no such method.
    """
    for name in names:
        if name not in METHODS and name != "all":
            raise InputError(f"no method {name!r}{nearest(name, METHODS)}; there are: all, {', '.join(METHODS)}")
    every = [name for name, method in METHODS.items() if "all" in names and not method.named_only]
    chosen = [method for name, method in METHODS.items() if name in {*every, *names, *ALWAYS}]
    return [replace(method, label=searched) if method.name == "search" else method for method in chosen]


@dataclass(eq=False)
class _Table:
    """The cells, and what is needed to fill in one that is missing.

    Attributes:
        cells: All that are known, also from an earlier run of other methods.
        wanted: Those that this comparison consists of.
        aside: Questions on side effects for the searches; every task is measured, so none of them is another kind.
        resumed: Tasks whose search goes on from trials of an interrupted comparison.
    """

    lm: LanguageModel
    settings: CompareSettings
    folder: ComparisonFolder
    progress: Progress
    subjects: Mapping[str, Subject]
    further: Sequence[Subject]
    aside: AskedAside
    cells: dict[CellKey, dict[str, Any]] = field(default_factory=dict)
    wanted: dict[CellKey, dict[str, Any]] = field(default_factory=dict)
    resumed: set[str] = field(default_factory=set)

    def fit(self, parts: Parts, folder: RunFolder) -> Fit:
        """What methods are fitted on; the search's edit is taken from its cell where that is known."""
        cell = self.cells.get(CellKey("methods", "search", parts.task.name))

        def search(scores: NeuronScores) -> Searched:
            make_folder(folder.path)
            resumes = folder.search.exists()
            self.resumed |= {parts.task.name} if resumes else set()
            start = Start(scores, self._reference[0], folder, resumes, self.aside, self.settings.time_budget)
            return find_edit(self.lm, [parts], start, self.settings, self.progress)

        return Fit(self.lm, parts, self.settings, self.progress, None if cell is None else chosen_in(cell), search)

    def method(self, method: Method, fit: Fit, draw: int) -> None:
        """A method on a task, with what it costs elsewhere."""
        task = fit.parts.task.name
        self._fill(
            CellKey("methods", method.name, task, draw),
            [self.subjects[task], *self.further],
            partial(method.fit, fit, draw),
            may_fail=method.name not in ALWAYS,
        )

    def transfer(self, fit: Fit, task: str) -> None:
        """The edit made for one task, measured on another."""
        key = CellKey("transfer", fit.parts.task.name, task)
        self._fill(key, [self.subjects[task]], partial(searched_edit, fit, 0), diverges=False)

    def neuron_curve(self, fit: Fit) -> None:
        """Growing numbers of neurons of the published ranking, eliminated."""
        task = fit.parts.task.name
        there = sum(site.width for site in find_sites(self.lm.model, searched_kinds(self.settings.neurons)[0]))
        most = min(there, self.settings.max_neurons)
        for count in (point for point in NEURON_POINTS if point <= most):

            def highest(count: int = count) -> Treatment:
                return _elimination(fit, fit.scores().top(count))

            self._fill(CellKey("neurons", "published", task, count), [self.subjects[task]], highest)

    def example_curve(self, fit: Fit) -> None:
        """As many neurons of the published ranking as the edit has, attributed on more and more examples."""
        task = fit.parts.task.name
        most = len(attribution_candidates(fit.parts.task, self.settings))
        growing = _GrowingScores(fit)
        for count in (point for point in EXAMPLE_POINTS if point <= most):

            def highest(count: int = count) -> Treatment:
                return _elimination(fit, growing.upto(count).top(len(fit.chosen.neurons)))

            self._fill(CellKey("examples", "published", task, count), [self.subjects[task]], highest)

    @cached_property
    def _reference(self) -> tuple[ReferenceDistribution, int]:
        """The unedited model on neutral prompts, and the passes that it took."""
        with counted_passes(self.lm) as passes:
            return measure_reference(self.lm, self.settings, self.progress), passes.count

    def _fill(
        self,
        key: CellKey,
        subjects: Sequence[Subject],
        fit: Callable[[], Treatment],
        *,
        may_fail: bool = False,
        diverges: bool = True,
    ) -> None:
        """Measure a cell unless it is known. A method that can't be run is a cell too: it says why."""
        cell = self.cells.get(key)
        if cell is None or cell["status"] != "done":
            start = time.perf_counter()
            try:
                _, of_reference = self._reference  # not among the passes of whatever happens to need it first
                with counted_passes(self.lm) as passes:
                    treatment = fit()
                content = self._measured(treatment, subjects, diverges)
                if key.part == "methods" and key.what == "search":
                    # Of one that was interrupted nobody has counted the passes before.
                    content["passes"] = None if key.task in self.resumed else passes.count + of_reference
                else:
                    content["passes"] = passes.count
            except CrisprError as error:
                if not may_fail:
                    raise
                self.progress.say(f"Not run: {error}")
                content = {"status": "not run", "reason": str(error)}
            cell = {**key.to_dict(), **content, "seconds": round(time.perf_counter() - start, 1)}
            append_line(self.folder.cells, cell)
            self.cells[key] = cell
        self.wanted[key] = cell

    def _measured(self, treatment: Treatment, subjects: Sequence[Subject], diverges: bool) -> dict[str, Any]:
        """A cell's content. An edit that another cell has measured already is not measured again."""
        lm, settings = self.lm, self.settings
        same = same_measurements(treatment)
        alike = [cell for cell in self.cells.values() if same is not None and cell.get("same") == same]
        measured = {name: content for cell in alike for name, content in cell["measured"].items()}
        new = [subject for subject in subjects if subject.name not in measured]
        if new:
            with self.progress.step("Measuring", sum(subject.steps for subject in new)) as advance:
                for subject in new:
                    with counted_passes(lm) as passes:
                        found = measure(lm, treatment, subject, settings.scoring, settings.batch_size, advance)
                    measured[subject.name] = {**measurement_stored(found), "passes": passes.count}
        diverged = next((cell["divergence"] for cell in alike if cell["divergence"] is not None), None)
        if diverges and treatment.changes_model and diverged is None:
            reference, _ = self._reference  # taken from the model as it is, before the treatment is applied
            with treatment.applied(lm):
                columns = divergence(lm, reference, settings.batch_size).columns[0]
            diverged = {name: values.tolist() for name, values in columns.items()}
        wanted = {subject.name: measured[subject.name] for subject in subjects}
        return stored(treatment, wanted, diverged if diverges and treatment.changes_model else None)


def _elimination(fit: Fit, neurons: Sequence[Neuron]) -> Treatment:
    return Treatment(edit=Edit.from_neurons(fit.lm, neurons))


class _GrowingScores:
    """Attribution on more and more attribution examples, each attributed once: the mean over all is a mean of means."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.done: list[str] = []
        self.values: dict[str, Tensor] = {}

    def upto(self, count: int) -> NeuronScores:
        """Scores on `count` examples; every larger number of examples holds the smaller ones."""
        fit = self.fit
        settings, candidates = fit.settings, attribution_candidates(fit.parts.task, fit.settings)
        new = [example for example in sample(candidates, count, settings.seed) if example.source not in self.done]
        with fit.progress.step(f"Attribution on {count} examples", len(new) * len(fit.instructions)) as advance:
            scores = score_neurons(
                fit.lm,
                new,
                fit.instructions,
                fit.formula,
                batch_size=settings.batch_size,
                progress=advance,
            )
        share = len(new) / (len(new) + len(self.done))
        for name, values in scores.values.items():
            self.values[name] = share * values + (1 - share) * self.values[name] if self.done else values
        self.done += [example.source for example in new]
        return NeuronScores(values=dict(self.values), kind=scores.kind)
