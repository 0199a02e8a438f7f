"""The terminal: progress while a job runs, tables when it is done. Reads result dictionaries, never a model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from crispr_lm.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from crispr_lm.edit import Edit
    from crispr_lm.neuron_scores import NeuronScores

console = Console()
"""For results, on standard output."""
messages = Console(stderr=True)
"""For progress and notes, on standard error, so that output can be piped."""

PLAIN_INTERVAL = 30.0
"""Seconds between lines of progress where there is no terminal (logs of CI)."""

ROWS: tuple[tuple[str, str, str], ...] = (
    ("accuracy_ambiguous", "Accuracy, ambiguous (unknown is right)", "higher"),
    ("accuracy_disambiguated", "Accuracy, disambiguated (context tells)", "higher"),
    ("unknown_rate_ambiguous", "Answers unknown, ambiguous", "higher"),
    ("unknown_rate_disambiguated", "Answers unknown, disambiguated", "lower"),
    ("abstention_gap", "Abstention gap (1 is perfect, 0 blind)", "higher"),
    ("answered_accuracy", "Accuracy where it does answer", "higher"),
    ("bias_score_ambiguous", "Bias score, ambiguous (0 is unbiased)", "zero"),
    ("bias_score_disambiguated", "Bias score, disambiguated (0 is unbiased)", "zero"),
    ("balanced_accuracy", "Balanced accuracy (always unknown: 0.5)", "higher"),
    ("accuracy", "Accuracy, all questions", "higher"),
    ("accuracy_std_over_instructions", "Spread of accuracy over instructions", "lower"),
)
"""Metric, how it is called, and where better is. Ambiguous and disambiguated figures stand side by side."""

OVER_ABSTENTION = 0.05
"""Rise of the unknown rate on disambiguated questions from which it is named in words."""


class _RateColumn(TextColumn):
    """Units per second, or seconds per unit where that is the readable number."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        if not speed or task.total is None:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


class _LiveProgress:
    """Bars in a terminal."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        task = self._bars.add_task(escape(description), total=total)
        yield lambda count: self._bars.advance(task, count)
        if total is None:
            self._bars.update(task, total=1)
        self._bars.update(task, completed=self._bars.tasks[task].total)

    def say(self, sentence: str) -> None:
        self._bars.console.print(escape(sentence))


class _PlainProgress:
    """Lines where there is no terminal: one when a step starts, one now and then, one when it is done."""

    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        start = last = time.monotonic()
        done = 0
        self.say(f"{description} ..." if total is None else f"{description}: 0/{total}")

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            now = time.monotonic()
            if now - last >= PLAIN_INTERVAL and total is not None and done < total:
                last = now
                rate = done / (now - start)
                self.say(f"{description}: {done}/{total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left")

        yield advance
        seconds = time.monotonic() - start
        rate_told = f", {total / seconds:.1f}/s" if total and seconds > 0 else ""
        self.say(f"{description}: done in {seconds:.0f} s{rate_told}")

    def say(self, sentence: str) -> None:
        messages.print(escape(sentence), soft_wrap=True, highlight=False)


@contextmanager
def terminal_progress(*, silent: bool = False) -> Iterator[Progress]:
    """Show steps with rate and time left: bars in a terminal, lines elsewhere. The library's log goes along.

    Args:
        silent: Show nothing, because another process of the same run does.
    """
    if silent:
        yield SilentProgress()
        return
    logger = logging.getLogger("crispr_lm")
    handler = RichHandler(console=messages, show_time=False, show_path=False, show_level=False)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        if not messages.is_terminal:
            yield _PlainProgress()
            return
        with RichProgress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=messages,
        ) as bars:
            yield _LiveProgress(bars)
    finally:
        logger.removeHandler(handler)


def print_results(results: Mapping[str, Any], output: Path) -> None:
    """Print the before/after table of every task, what to think of it, and where the files are."""
    for name, task in results["tasks"].items():
        console.print(f"\n[bold]{escape(name)}[/]", soft_wrap=True)
        console.print(results_table(task))
        if warning := over_abstention(task):
            console.print(f"[bold yellow]Over-abstention:[/] {warning}")
    if edit := results.get("edit"):
        plural = "" if edit["neurons"] == 1 else "s"
        what = f"{edit['neurons']} {edit['kind']} neuron{plural}" if edit["neurons"] else "no neurons"
        console.print(f"Edit: {what}, scale {edit['scale']:g}")
    if reason := results.get("reason"):
        console.print(escape(reason[0].upper() + reason[1:]), soft_wrap=True)
    if saved := results.get("saved_model"):
        _print_verified(saved)
    console.print(f"Files: {escape(str(output))}", soft_wrap=True)


def print_saved(told: Mapping[str, Any], output: Path) -> None:
    """Print what `crispr_lm.run.apply` has saved and checked."""
    _print_verified(told)
    if (saved := told.get("parameters_saved")) is not None:
        console.print(f"Parameters saved: {saved:,}")
    console.print(f"Edited model: {escape(str(output))}", soft_wrap=True)


def print_edit_saved(edit: Edit, output: Path) -> None:
    """Print that a combined edit was saved."""
    console.print(f"Edit of {len(edit.neurons)} neurons: {escape(str(output))}", soft_wrap=True)


def print_overlap(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.run.compare_edits` found."""
    table = Table(title="Neurons in common", title_justify="left")
    table.add_column("Module")
    for name in ("First", "Second", "Common", "Jaccard"):
        table.add_column(name, justify="right")
    rows = [*content["per_module"].items(), ("all", content["total"])]
    for number, (module, part) in enumerate(rows, start=1):
        counts = (str(part[name]) for name in ("first", "second", "common"))
        table.add_row(escape(module), *counts, f"{part['jaccard']:.3f}", end_section=number == len(rows) - 1)
    console.print(table)


def _print_verified(saved: Mapping[str, Any]) -> None:
    console.print(
        f"Loaded again with plain transformers in a fresh process: {saved['options_compared']} option scores agree "
        f"(largest difference {saved['largest_difference']:.1e} nats)",
        soft_wrap=True,
    )


def results_table(task: Mapping[str, Any]) -> Table:
    """Before, after and difference of every metric of one task."""
    compared = "after" in task
    table = Table(
        caption=f"{task['examples']} held-out examples of {task['templates']} templates, "
        f"mean over {task['instructions']} instructions",
        caption_justify="left",
    )
    table.add_column("Metric")
    table.add_column("Before" if compared else "Value", justify="right")
    if compared:
        table.add_column("After", justify="right")
        table.add_column("Difference", justify="right")
    for metric, label, better in ROWS:
        if metric not in task["before"]:
            continue
        before = task["before"][metric]
        if not compared:
            table.add_row(label, _number(before))
            continue
        after, difference = task["after"][metric], task["difference"][metric]
        table.add_row(label, _number(before), _number(after), _difference(before, after, difference, better))
    return table


def over_abstention(task: Mapping[str, Any]) -> str | None:
    """A sentence if the edit made the model abstain where the context gives the answer, else None."""
    rise = task.get("difference", {}).get("unknown_rate_disambiguated")
    if rise is None or rise <= OVER_ABSTENTION:
        return None
    before, after = (task[when]["unknown_rate_disambiguated"] for when in ("before", "after"))
    return (
        f"the edited model answers unknown on {after:.0%} of the questions whose context gives the answer "
        f"(before: {before:.0%}). That looks unbiased and is not useful."
    )


def print_scores(scores: NeuronScores, output: Path, count: int = 10) -> None:
    """Print the neurons of highest score."""
    table = Table(title=f"Top {scores.kind} neurons of {len(scores):,}", title_justify="left")
    table.add_column("Module")
    table.add_column("Index", justify="right")
    table.add_column("Score", justify="right")
    for neuron in scores.top(min(count, len(scores))):
        table.add_row(escape(neuron.module), str(neuron.index), f"{scores.score_of(neuron):.4g}")
    console.print(table)
    console.print(f"File: {escape(str(output))}", soft_wrap=True)


def print_inspection(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.run.inspect` found."""
    facts = Table(show_header=False, title=content["type"].capitalize(), title_justify="left")
    facts.add_column(style="bold")
    facts.add_column()
    for name in ("name", "architecture", "parameters", "context_length", "kind", "scale", "neurons"):
        if name in content:
            facts.add_row(name.replace("_", " "), _fact(content[name]))
    for name in ("base_model", "origin"):
        for key, value in content.get(name, {}).items():
            facts.add_row(f"{name.replace('_', ' ')}: {key}", _fact(value))
    if content["type"] == "model":
        facts.add_row("fingerprint", content["fingerprint"])
    console.print(facts)
    per_kind = content["per_module"] if content["type"] == "model" else {content.get("kind", ""): content["per_module"]}
    modules = Table(title="Neurons per module", title_justify="left")
    modules.add_column("Module")
    for kind in per_kind:
        modules.add_column(kind or "Neurons", justify="right")
    if content["type"] == "edit":
        modules.add_column("Fingerprint")
    for module in dict.fromkeys(module for counts in per_kind.values() for module in counts):
        row = [str(counts.get(module, "")) for counts in per_kind.values()]
        if content["type"] == "edit":
            row.append(content["fingerprint"][module][content["base_model"].get("dtype", "float32")])
        modules.add_row(escape(module), *row)
    console.print(modules)
    if top := content.get("top"):
        table = Table(title="Top neurons", title_justify="left")
        for name in ("rank", *top[0]):
            table.add_column(name.capitalize(), justify="left" if name in ("module", "kind") else "right")
        for rank, neuron in enumerate(top, start=1):
            table.add_row(str(rank), *(_fact(value) for value in neuron.values()))
        console.print(table)


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_fact(entry)} {escape(str(key))}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(entry) for entry in value)
    return escape(str(value))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _difference(before: float | None, after: float | None, difference: float | None, better: str) -> str:
    if before is None or after is None or difference is None:
        return "-"
    if abs(difference) < 0.0005:
        return "0.000"
    improves = {"higher": difference > 0, "lower": difference < 0, "zero": abs(after) < abs(before)}[better]
    return f"[{'green' if improves else 'red'}]{difference:+.3f}[/]"
