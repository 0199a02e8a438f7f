"""The terminal: progress while a job runs, tables when it is done. Reads result dictionaries, never a model."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleRenderable
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.prompt import IntPrompt
from rich.table import Table
from rich.text import Text

from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.registry import ordered_metrics
from crispr_lm.report.markup import markup
from crispr_lm.report.statement import statement
from crispr_lm.report.words import saved, signed
from crispr_lm.runtime.progress import Advance, Pace, Progress, SilentProgress, Total
from crispr_lm.storage.sanitize import printable

if TYPE_CHECKING:
    from crispr_lm.attribution.neuron_scores import NeuronScores
    from crispr_lm.edits.edit import Edit

GIB = 2**30

LOG_WIDTH = 120
"""Columns where there is no terminal (pipes, logs of CI): tables then keep their words together."""


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr, emoji=False)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(stderr=stderr, width=LOG_WIDTH, emoji=False)


NARROW = 100
"""Columns below which tables of figures have no frame."""

console = _console()
"""For results, on standard output."""
messages = _console(stderr=True)
"""For progress and notes, on standard error, so that output can be piped."""

LOOK = 1.0
"""Seconds after which it is looked again whether a line of progress is due."""

SILENCE = 25.0
"""Seconds after which a line is due where there is no terminal (logs of CI). With the time until that is seen, on a
busy machine too, no log is silent for 30 seconds: long enough to be readable, too short for a job to seem stuck."""


class _RateColumn(TextColumn):
    """Units per second, or seconds per unit where that is the readable number."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        if not speed or task.total is None:
            return Text("")
        return Text(_rate(speed), style="cyan")


class _MemoryColumn(TextColumn):
    """What the process uses, beside the step that is under way."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        return Text("" if task.finished else _memory(), style="magenta")


class _LeftColumn(TextColumn):
    """Time left, of a step that is under way and has a known length."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        pace: Pace = task.fields["pace"]
        return Text("" if task.finished else pace.time_left(), style="cyan")


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _memory() -> str:
    """What the process uses: of the accelerator, where its model is on one, else of ordinary memory."""
    torch = sys.modules.get("torch")  # what has not loaded it has no model
    if torch is not None and torch.cuda.is_initialized():
        used = sum(torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count()))
    else:
        used = psutil.Process().memory_info().rss
    return _bytes(used)


def _bytes(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


class _LiveProgress:
    """Bars in a terminal."""

    can_ask = True

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._depth = 0

    @contextmanager
    def step(self, description: str, total: Total = None) -> Iterator[Advance]:
        pace = Pace(description, total)
        task = self._bars.add_task("  " * self._depth + markup(description), total=pace.total, pace=pace)
        self._depth += 1

        def advance(count: int, /, kind: str = "") -> None:
            pace.advance(count, kind)
            self._bars.update(task, total=pace.total, completed=pace.done)

        try:
            yield advance
        finally:
            self._depth -= 1
            if self._depth:  # what happens within a step, dozens of times, leaves no bar behind
                self._bars.remove_task(task)
        if not self._depth:
            total_done = pace.total or 1
            self._bars.update(task, total=total_done, completed=total_done)

    def say(self, sentence: str) -> None:
        self._bars.console.print(markup(sentence))

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        self._bars.stop()
        messages.print(front_table(front, recommended))
        messages.print(markup(reason[0].upper() + reason[1:]))
        numbers = [str(trial["trial"]) for trial in front]
        # The original is not on the front where an edit costs nothing.
        choices = list(dict.fromkeys([*numbers, str(recommended)]))
        chosen = IntPrompt.ask("Take trial", console=messages, choices=choices, default=recommended)
        self._bars.start()
        return chosen


class _PlainProgress:
    """Lines where there is no terminal: when a step starts and ends, and whenever none was printed for a while.

    What happens within a step is told by these further lines alone, so that a log of hours stays readable.
    """

    can_ask = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said = clock()
        self._open: list[Pace] = []
        self._last = ""

    @contextmanager
    def step(self, description: str, total: Total = None) -> Iterator[Advance]:
        pace = Pace(description, total, self._clock)
        is_outer = not self._open
        if is_outer:
            self.say(f"{description} ..." if pace.total is None else f"{description}: 0/{pace.total}")
        self._open.append(pace)

        def advance(count: int, /, kind: str = "") -> None:
            pace.advance(count, kind)
            self.beat()

        try:
            yield advance
        finally:
            self._open.remove(pace)
            self._last = description
        seconds = pace.elapsed
        # What an earlier run has done takes no time, and says nothing of how fast this one is.
        rate_told = f", {_rate(pace.total / seconds)}" if pace.total and seconds >= 0.1 else ""
        if is_outer:
            self.say(f"{description}: done in {seconds:.0f} s{rate_told}, {_memory()}")

    def beat(self) -> None:
        """Say how far it is, if nothing was said for a while."""
        if self._clock() - self._said < SILENCE:
            return
        told = "; ".join(f"{pace.description}: {pace.summary()}" for pace in list(self._open))
        # Between steps there is work, too, but nothing to count.
        self.say(f"{told or f'Working (after: {self._last})'}, {_memory()}")

    def say(self, sentence: str) -> None:
        self._said = self._clock()
        messages.print(markup(sentence), soft_wrap=True, highlight=False)

    def ask_for_trial(self, front: Sequence[Mapping[str, Any]], recommended: int, reason: str) -> int:
        return recommended


@contextmanager
def _beating(progress: _PlainProgress) -> Iterator[None]:
    """Have a thread look every second whether something should be said: work may be in one long call."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            progress.beat()

    thread = threading.Thread(target=look, name="crispr-lm progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _LogHandler(RichHandler):
    """Messages as they are: nothing in them is markup or steers the terminal."""

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:
        return super().render_message(record, printable(message))


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
    handler = _LogHandler(console=messages, show_time=False, show_path=False, show_level=False)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        if not messages.is_terminal:
            plain = _PlainProgress()
            with _beating(plain):
                yield plain
            return
        with RichProgress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            _LeftColumn(),
            _MemoryColumn(),
            console=messages,
        ) as bars:
            yield _LiveProgress(bars)
    finally:
        logger.removeHandler(handler)


def front_table(front: Sequence[Mapping[str, Any]], recommended: int) -> Table:
    """The trials of a Pareto front on the validation split, by falling gain."""
    table = Table(title="Pareto front on the validation split (differences from the original)", title_justify="left")
    for name in ("Trial", "Neurons", "Scale", "Ambiguous", "Disambiguated", "Unknown, disambiguated", "KL"):
        table.add_column(name, justify="right")
    for trial in front:
        table.add_row(
            str(trial["trial"]),
            str(trial["neurons"]),
            f"{trial['scale']:g}",
            signed(trial["gain"]),
            signed(-trial["loss"]),
            signed(trial["overabstention"]),
            f"{trial['kl']:.4f}",
            style="bold" if trial["trial"] == recommended else None,
        )
    return table


def print_results(results: Mapping[str, Any], output: Path | None) -> None:
    """Print the before/after table of every task, what to think of it, and where the files are (None: nowhere)."""
    for name, task in results["tasks"].items():
        role = " (what it costs elsewhere)" if task["role"] == "capability" and "after" in task else ""
        console.print(f"\n[bold]{markup(name)}[/]{role}", soft_wrap=True)
        console.print(results_table(task, held_out="verdict" in results))
        if (spread := spread_table(task)) is not None:
            console.print(spread)
        if warning := task.get("over_abstention"):
            console.print(f"[bold yellow]Over-abstention:[/] {markup(warning)}", soft_wrap=True)
    if divergence := results.get("divergence"):
        low, high, count = divergence["low"], divergence["high"], divergence["prompts"]
        interval = "" if low is None or high is None else f"95 % interval {low:.4f} to {high:.4f}, "
        console.print(
            f"KL divergence from the original on neutral prompts: {divergence['kl']:.4f} nats per token "
            f"({interval}{count} prompt{'' if count == 1 else 's'})",
            soft_wrap=True,
        )
    if edit := results.get("edit"):
        plural = "" if edit["neurons"] == 1 else "s"
        what = f"{edit['neurons']} {edit['kind']} neuron{plural}" if edit["neurons"] else "no neurons"
        console.print(f"Edit: {what}, scale {edit['scale']:g}")
    if "verdict" in results:
        console.print(f"[bold]{markup(statement(results))}[/]", soft_wrap=True)
        if results["verdict"] != "none":  # else the statement gives the reason
            console.print(markup(f"Why this edit: {results['reason']}"), soft_wrap=True)
    if found := results.get("saved_model"):
        _print_saved(found)
    if output is not None:
        if (report := output / "report.html").is_file():
            console.print(f"Report: {markup(str(report))}", soft_wrap=True)
        console.print(f"Files: {markup(str(output))}", soft_wrap=True)
    _print_upload(results)


def print_saved(told: Mapping[str, Any], output: Path) -> None:
    """Print what `crispr_lm.jobs.steps.apply` has saved and checked."""
    if found := told.get("saved_model"):
        _print_saved(found)
    if (fewer := told.get("parameters_saved")) is not None:
        console.print(f"Parameters saved: {fewer:,}")
    what = "Edited model" if "saved_model" in told else "Edit with its card"
    console.print(f"{what}: {markup(str(output))}", soft_wrap=True)
    _print_upload(told)


def _print_upload(told: Mapping[str, Any]) -> None:
    """Print what was uploaded, or would be."""
    upload = told.get("upload")
    if upload is None:
        return
    who_sees = "private" if upload["private"] else "public"
    if not upload["dry_run"]:
        console.print(f"Uploaded ({who_sees} if new): {markup(str(upload['url']))}", soft_wrap=True)
        return
    table = Table(title=f"Would be uploaded to {markup(upload['repository'])} ({who_sees})", title_justify="left")
    table.add_column("File")
    table.add_column("Bytes", justify="right")
    for name, size in upload["files"].items():
        table.add_row(markup(name), f"{size:,}")
    console.print(table)


def print_edit_saved(edit: Edit, output: Path) -> None:
    """Print that a combined edit was saved."""
    console.print(f"Edit of {len(edit.neurons)} neurons: {markup(str(output))}", soft_wrap=True)


def print_overlap(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.inspection.compare_edits` found."""
    table = Table(title="Neurons in common", title_justify="left")
    table.add_column("Module")
    for name in ("First", "Second", "Common", "Jaccard"):
        table.add_column(name, justify="right")
    rows = [*content["per_module"].items(), ("all", content["total"])]
    for number, (module, part) in enumerate(rows, start=1):
        counts = (str(part[name]) for name in ("first", "second", "common"))
        table.add_row(markup(module), *counts, f"{part['jaccard']:.3f}", end_section=number == len(rows) - 1)
    console.print(table)


def _print_saved(found: Mapping[str, Any]) -> None:
    style = "" if found.get("verified", True) else "[bold red]"
    console.print(f"{style}{markup(saved(found))}", soft_wrap=True)


def results_table(task: Mapping[str, Any], *, held_out: bool = True) -> Table:
    """Before, after and difference with its 95 % interval and test, for every metric of one task.

    Args:
        task: Its results.
        held_out: Whether an edit was made on other examples.
    """
    compared = "after" in task
    table = Table(caption=_caption(task, held_out=held_out), caption_justify="left", **_narrow())
    table.add_column("Metric")
    table.add_column("Before" if compared else "Value", justify="right", no_wrap=True)
    if compared:
        for name in ("After", "Difference", "95 % interval", "p (Holm)"):
            table.add_column(name, justify="right", no_wrap=True)
    for metric in ordered_metrics(task["family"], task["before"]):
        before = task["before"][metric.name]
        if not compared:
            table.add_row(metric.label, _number(before))
            continue
        found = task["statistics"][metric.name]
        table.add_row(
            metric.label,
            _number(before),
            _number(task["after"][metric.name]),
            _difference(metric, before, task["after"][metric.name], found["value"]),
            _interval(found["low"], found["high"]),
            _p_value(found["p_value_holm"]),
        )
    return table


def spread_table(task: Mapping[str, Any]) -> Table | None:
    """Standard deviation and worst of every metric over instructions; None where there was one instruction alone."""
    if task["instructions"] == 1:
        return None
    when = ("before", "after") if "after" in task else ("before",)
    table = Table(title="Over instructions", title_justify="left", **_narrow())
    table.add_column("Metric")
    for name in ("Deviation", "Worst"):
        for which in when:
            table.add_column(f"{name} {which}" if len(when) > 1 else name, justify="right", no_wrap=True)
    for metric in ordered_metrics(task["family"], task["before"]):
        figures = [task["spread"][which][metric.name] for which in when]
        values = [figure[name] for name in ("std", "worst") for figure in figures]
        table.add_row(metric.label, *map(_number, values))
    return table


def _narrow() -> dict[str, Any]:
    """How a table is drawn where there are few columns: without frame, so that names need fewer lines."""
    if console.width >= NARROW:
        return {}
    return {"box": SIMPLE_HEAD, "collapse_padding": True, "pad_edge": False}


def _caption(task: Mapping[str, Any], *, held_out: bool) -> str:
    plural = "" if task["instructions"] == 1 else "s"
    what = "held-out examples" if held_out else "examples"
    caption = (
        f"{task['examples']} {what} of {task['templates']} templates, "
        f"mean over {task['instructions']} instruction{plural}"
    )
    if seen := task.get("seen_examples"):
        caption += f"; {seen} of them are not held out: the edit was fitted or chosen on their templates"
    if task["few_templates"] and "after" in task:
        caption += "; so few templates say little, and the intervals may be too narrow"
    return caption


def print_scores(scores: NeuronScores, output: Path | None, count: int = 10) -> None:
    """Print the neurons of highest score, and which file holds all, if any does."""
    table = Table(title=f"Top {scores.kind} neurons of {len(scores):,}", title_justify="left")
    table.add_column("Module")
    table.add_column("Index", justify="right")
    table.add_column("Score", justify="right")
    for neuron in scores.top(min(count, len(scores))):
        table.add_row(markup(neuron.module), str(neuron.index), f"{scores.score_of(neuron):.4g}")
    console.print(table)
    if output is not None:
        console.print(f"File: {markup(str(output))}", soft_wrap=True)


def print_inspection(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.inspection.inspect` found."""
    facts = Table(show_header=False, title=content["type"].capitalize(), title_justify="left")
    facts.add_column(style="bold")
    facts.add_column()
    for name in ("name", "architecture", "parameters", "context_length", "kind", "scale", "neurons"):
        if name in content:
            facts.add_row(name.replace("_", " "), _fact(content[name]))
    for name in ("base_model", "origin"):
        for key, value in content.get(name, {}).items():
            facts.add_row(markup(f"{name.replace('_', ' ')}: {key}"), _fact(value))
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
            row.append(markup(content["fingerprint"][module]["float32"]))
        modules.add_row(markup(module), *row)
    console.print(modules)
    if top := content.get("top"):
        table = Table(title="Top neurons", title_justify="left")
        for name in ("rank", *top[0]):
            table.add_column(name.capitalize(), justify="left" if name in ("module", "kind") else "right")
        for rank, neuron in enumerate(top, start=1):
            table.add_row(str(rank), *(_fact(value) for value in neuron.values()))
        console.print(table)


def print_prompt(seen: Mapping[str, Any]) -> None:
    """Print one question as the model sees it (`inference.prompts.seen_prompt`); scored tokens stand in brackets."""
    place = f"{seen['format']} prompt; place of the answer: {seen['place']}"
    console.print(markup(f"{seen['source']}, {place}"), soft_wrap=True)
    console.print(f"\n[bold]Read: {len(seen['prompt'])} tokens[/], parted by │; ⏎ is a line break", soft_wrap=True)
    console.print(markup(_tokens(seen["prompt"], "│")), soft_wrap=True, highlight=False)
    for number, tokens in enumerate(seen["options"]):
        scored = "".join(f"⟦{_visible(token)}⟧" for token in tokens)
        console.print(f"\n[bold]Option {number}: {len(tokens)} tokens are scored[/]", soft_wrap=True)
        console.print(f"[dim]… {markup(_tokens(seen['prompt'][-4:], '│'))}[/] {markup(scored)}", soft_wrap=True)


def _tokens(tokens: Sequence[str], between: str) -> str:
    return between.join(map(_visible, tokens))


def _visible(token: str) -> str:
    return token.replace("\n", "⏎\n") if token.strip("\n") else "⏎" * len(token)


def print_reproduced(told: Mapping[str, Any], output: Path) -> None:
    """Print what `crispr_lm.jobs.reproduce.reproduce` found: what differs, and how much does not."""
    for name, versions in told["versions"].items():
        console.print(f"{markup(name)} was {markup(str(versions['then']))}, is {markup(str(versions['now']))}")
    differing = [figure for figure in told["figures"] if not figure["same"]]
    table = Table(title=f"Figures that differ by more than {told['tolerance']:g}", title_justify="left")
    for name in ("Figure", "Then", "Now"):
        table.add_column(name, justify="left" if name == "Figure" else "right")
    for figure in differing:
        table.add_row(markup(figure["name"]), _number(figure["then"]), _number(figure["now"]))
    if differing:
        console.print(table)
    edit = told["edit"]
    same = "the same" if edit["same"] else f"{edit['common']} in common"
    console.print(f"Edit: {edit['then']} neurons then, {edit['now']} now, {same}")
    console.print(f"Verdict: {_fact(told['verdict']['then'])} then, {_fact(told['verdict']['now'])} now")
    count = len(told["figures"]) - len(differing)
    outcome = "[green]Reproduced[/]" if told["same"] else "[red]Not reproduced[/]"
    console.print(f"{outcome}: {count} of {len(told['figures'])} figures within {told['tolerance']:g}")
    console.print(f"Files: {markup(str(output))}", soft_wrap=True)


def print_machine(told: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.doctor.examine_machine` found."""
    facts = Table(show_header=False, title="Software", title_justify="left")
    facts.add_column(style="bold")
    facts.add_column()
    for package, version in told["versions"].items():
        facts.add_row(package, version or "[red]not installed[/]")
    for extra, there in told["extras"].items():
        missing = f"missing; pip install 'crispr-lm\\[{extra}]'"
        facts.add_row(f"extra {extra}", "installed" if there else missing)
    console.print(facts)
    devices = Table(title="Devices", title_justify="left")
    for name in ("Device", "Name", "Free", "bfloat16"):
        devices.add_column(name)
    devices.add_column("Largest model (weights alone)")
    for device in told["devices"]:
        threads = device["threads"]
        used = f", {threads['used']} of {threads['cores']} cores" if threads else ""
        largest = ", ".join(f"{count / 1e9:.1f}B in {name}" for name, count in device["largest_model"].items())
        devices.add_row(
            device["device"],
            markup(device["name"]) + used,
            f"{device['free'] / GIB:.1f} of {device['memory'] / GIB:.1f} GiB",
            "fast" if device["bfloat16"] else "emulated (slow)",
            largest,
        )
    console.print(devices)
    for threads in (device["threads"] for device in told["devices"]):
        if threads and threads["loaded"]:
            console.print(
                f"[bold yellow]Loaded:[/] other programs use {threads['busy']:.1f} of {threads['usable']:g} cores; "
                f"commands would take {threads['used']} thread{'' if threads['used'] == 1 else 's'} (--threads) and "
                "longer than on an idle machine",
                soft_wrap=True,
            )
    console.print(
        f"Disk: {told['disk']['free'] / GIB:.1f} GiB free in {markup(told['disk']['folder'])}", soft_wrap=True
    )
    hub = told["hub"]
    state = "reachable" if hub["reachable"] else f"not reachable ({markup(str(hub['reason']))}); local models work"
    console.print(f"Hub: {markup(hub['endpoint'])} is {state}", soft_wrap=True)
    if model := told.get("model"):
        _print_needs(model)
        _print_place(model["prompt"])
        _print_checks(model.get("self_check", {}))


def machine_line(told: Mapping[str, Any]) -> str:
    """The same in a line: of a model where it fits, else what each device has."""
    if model := told.get("model"):
        fitting = (f"{dtype} on {', '.join(needs['fits'])}" for dtype, needs in model["needs"].items() if needs["fits"])
        return f"{model['name']} fits: {'; '.join(fitting) or 'nowhere here'}"
    return "; ".join(
        f"{device['device']}: {device['free'] / GIB:.1f} of {device['memory'] / GIB:.1f} GiB free"
        for device in told["devices"]
    )


def _print_needs(model: Mapping[str, Any]) -> None:
    table = Table(title=f"{markup(model['name'])}: {markup(model['architecture'])}", title_justify="left")
    for name in ("Format", "Weights", "With attribution of one prompt", "Fits on"):
        table.add_column(name)
    for name, needs in model["needs"].items():
        figures = (_bytes(needs[what]) for what in ("weights", "attribution"))
        table.add_row(name, *figures, ", ".join(needs["fits"]) or "[red]nothing here[/]")
    console.print(table)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in model["neurons"].items() if count)
    console.print(f"{model['parameters']:,} parameters; neurons: {kinds or 'none that can be found'}")


def _print_place(prompt: Mapping[str, Any]) -> None:
    """How prompts are put to a model."""
    if prompt["refused"]:
        console.print(f"[red]Prompts:[/] {markup(prompt['refused'])}", soft_wrap=True)
        return
    console.print(f"Prompts: {prompt['template'] or 'no chat template'}", soft_wrap=True)
    console.print(f"Place of the answer: {markup(prompt['place'])}", soft_wrap=True)
    if prompt["template"]:
        console.print(f"Before the answer: {markup(repr(prompt['before']))}", soft_wrap=True, highlight=False)
        if prompt["lead"]:
            console.print(f"The answer begins with {markup(repr(prompt['lead']))}", soft_wrap=True, highlight=False)
        if prompt["switches"]:
            console.print(f"Reasoning is switched off by {markup(', '.join(prompt['switches']))}", soft_wrap=True)
        if prompt["in_parts"]:
            console.print("Words are given as a list of parts")
        if prompt["date"]:
            console.print("The template writes the date: one moment is used for all prompts (--prompt-date)")


def _print_checks(checked: Mapping[str, Mapping[str, Any]]) -> None:
    """What the self-check found, a line for each kind of neuron."""
    if not checked:
        return
    table = Table(title="Self-check: largest relative differences", title_justify="left")
    for name in ("Neurons", "Found", "Scores", "Hooks = weights", "Undo", "Reloaded", "Outcome"):
        table.add_column(name)
    for kind, found in checked.items():
        figures = (found[what] for what in ("scores", "baked", "reloaded"))
        differences = ["-" if figure is None else f"{figure:.0e}" for figure in figures]
        undone = {True: "exact", False: "[red]not exact[/]", None: "-"}[found["undone"]]
        outcome = "[green]passed[/]" if found["passed"] else f"[red]failed[/] {markup(found['reason'])}"
        table.add_row(kind, f"{found['neurons']:,}", *differences[:2], undone, differences[2], outcome)
    console.print(table)


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{_fact(entry)} {markup(str(key))}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_fact(entry) for entry in value)
    return markup(str(value))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _p_value(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _difference(metric: Metric, before: float | None, after: float | None, difference: float | None) -> str:
    if before is None or after is None or difference is None:
        return "-"
    if abs(difference) < 0.0005:
        return "0.000"
    gain = metric.gain(before, after)
    colour = "green" if gain > 0 else "red" if gain < 0 else "default"
    return f"[{colour}]{difference:+.3f}[/]"
