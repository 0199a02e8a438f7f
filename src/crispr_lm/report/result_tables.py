"""Tables of results, and what was saved, uploaded or reproduced. Reads result dictionaries, never a model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.registry import ordered_metrics
from crispr_lm.report.console import (
    as_interval,
    as_number,
    as_p_value,
    as_text,
    console,
    figures_table,
    narrow,
    print_path,
)
from crispr_lm.report.markup import markup
from crispr_lm.report.run_summary import print_summary
from crispr_lm.report.side_effects import facts_sentence, other_kinds_sentence
from crispr_lm.report.statement import statement
from crispr_lm.report.validation_rows import PUBLISHED_NOTE, validation_rows
from crispr_lm.report.words import left_out, saved, signed

if TYPE_CHECKING:
    pass


def front_table(front: Sequence[Mapping[str, Any]], recommended: int) -> Table:
    """The trials of a Pareto front on the validation split, by falling gain."""
    title = "Pareto front on the validation split (differences from the original)"
    table = Table(title=title, title_justify="left", **narrow())
    for name in ("Trial", "Neurons", "Scale", "Ambiguous", "Disambiguated", "Unknown there", "KL"):
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


def validation_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The search's edit beside original, random neurons and the published ranking, on the validation split."""
    table = Table(title="On the validation split (differences from the original)", title_justify="left", **narrow())
    table.add_column("")
    for name in ("Neurons", "Ambiguous", "Disambiguated", "KL"):
        table.add_column(name, justify="right")
    for row in rows:
        gain, loss = (signed(row["gain"]), signed(0.0 - row["loss"])) if row["asked"] else ("-", "-")
        table.add_row(row["name"], str(row["neurons"]), gain, loss, f"{row['kl']:.4f}")
    return table


def print_results(results: Mapping[str, Any], output: Path | None, *, verbose: bool = False) -> None:
    """Print what came out: of a run its summary, and with `verbose` (or of a measurement alone) every table.

    Args:
        results: What ``results.json`` holds.
        output: Where the files are; None where they could not be written.
        verbose: Print every table of a run, too.
    """
    is_run = "verdict" in results
    if is_run and output is not None:
        print_summary(results, output)
    if verbose or not is_run:
        _print_tables(results)
        if output is not None:
            print_path("Files", output)
    _print_upload(results)


def _print_tables(results: Mapping[str, Any]) -> None:
    """Print the before/after table of every task, and what else was measured."""
    for name, task in results["tasks"].items():
        role = " (side effects)" if task["role"] == "capability" and "after" in task else ""
        console.print(f"\n[bold]{markup(name)}[/]{role}", highlight=False)
        console.print(results_table(task, held_out="verdict" in results))
        if (spread := spread_table(task)) is not None:
            console.print(spread)
        if warning := task.get("over_abstention"):
            console.print(f"[bold yellow]Over-abstention:[/] {markup(warning)}")
    for sentence in filter(None, (facts_sentence(results), other_kinds_sentence(results))):
        console.print(markup(sentence))
    if divergence := results.get("divergence"):
        low, high, count = divergence["low"], divergence["high"], divergence["prompts"]
        interval = "" if low is None or high is None else f"95 % interval {low:.4f} to {high:.4f}, "
        console.print(
            f"KL divergence from the original on neutral prompts: {divergence['kl']:.4f} nats per token "
            f"({interval}{count} prompt{'' if count == 1 else 's'})"
        )
    if edit := results.get("edit"):
        plural = "" if edit["neurons"] == 1 else "s"
        what = f"{edit['neurons']} {edit['kind']} neuron{plural}" if edit["neurons"] else "no neurons"
        made_by = f" by {results['procedure']}" if "procedure" in results else ""
        console.print(f"Edit{markup(made_by)}: {what}, scale {edit['scale']:g}")
    if rows := validation_rows(results) if "search" in results else []:
        console.print(validation_table(rows))
        console.print(PUBLISHED_NOTE, soft_wrap=True)
    if "verdict" in results:
        console.print(f"[bold]{markup(statement(results))}[/]")
        if results["verdict"] != "none":  # else the statement gives the reason
            console.print(markup(f"Why this edit: {results['reason']}"))
    if found := results.get("saved_model"):
        _print_saved(found)


def print_saved(summary: Mapping[str, Any], output: Path) -> None:
    """Print what `crispr_lm.jobs.steps.apply` has saved and checked."""
    if (original := summary.get("restored")) is not None:
        print_path(f"Original restored (SHA-256 {original})", output)
        return
    if found := summary.get("saved_model"):
        _print_saved(found)
    if summary["format"] == "gguf":
        _print_gguf(summary)
        return
    if (fewer := summary.get("parameters_saved")) is not None:
        console.print(f"Parameters saved: {fewer:,}")
    what = "Edited model" if "saved_model" in summary else "Edit with its card"
    print_path(what, output)
    if "canaries" in summary and _is_usable(summary):
        _print_check(summary["output"], "openai:URL")
    _print_upload(summary)


def _is_usable(summary: Mapping[str, Any]) -> bool:
    """Whether what was saved was not found to be wrong, so that it may be served."""
    return bool(summary.get("saved_model", {}).get("verified", True))


def _print_check(output: str, runtime: str) -> None:
    """Print how to find out whether a runtime serves what was saved."""
    command = shlex.join(["crispr-lm", "verify", output, "--runtime", runtime])
    console.print(f"To check a runtime that serves it: {markup(command)}", soft_wrap=True)


def _print_gguf(summary: Mapping[str, Any]) -> None:
    """Print what was written of a GGUF file, and what to do with it next."""
    console.print(f"Rows set to zero: {summary['rows']:,}; all other bytes are the original's")
    print_path("Edited model", summary["output"])
    if "canaries" in summary and _is_usable(summary):
        _print_check(summary["output"], f"gguf-runtime:{summary['output']}")
    if (file := summary.get("modelfile")) and _is_usable(summary):
        console.print(f"For Ollama: ollama create NAME -f {markup(shlex.quote(file))}", soft_wrap=True)
    if file := summary.get("undo"):
        command = shlex.join(["crispr-lm", "apply", summary["output"], file, "--in-place"])
        console.print(f"To bring the original back: {markup(command)}", soft_wrap=True)


def _print_upload(summary: Mapping[str, Any]) -> None:
    """Print what was uploaded, or would be."""
    upload = summary.get("upload")
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


def _print_saved(found: Mapping[str, Any]) -> None:
    style = "" if found.get("verified", True) else "[bold red]"
    console.print(f"{style}{markup(saved(found))}")


def results_table(task: Mapping[str, Any], *, held_out: bool = True) -> Table:
    """Before, after and difference with its 95 % interval and test, for every metric of one task.

    Without an edit the value, with its own interval where the results hold one.

    Where there are few columns, a metric's name stands on a line of its own above its figures.

    Args:
        task: Its results.
        held_out: Whether an edit was made on other examples.
    """
    compared = "after" in task
    intervals = None if compared else task.get("intervals")
    names = ["Before", "After", "Difference", "95 % interval", "p (Holm)"] if compared else ["Value"]
    names += [] if intervals is None else ["95 % interval"]
    rows = []
    for metric in ordered_metrics(task["family"], task["before"]):
        before = task["before"][metric.name]
        cells = [as_number(before)]
        if intervals is not None:
            low, high = intervals["before"][metric.name]
            cells.append("-" if low is None else f"{as_number(low)} to {as_number(high)}")
        if compared:
            found = task["statistics"][metric.name]
            cells += [
                as_number(task["after"][metric.name]),
                _difference(metric, before, task["after"][metric.name], found["value"]),
                as_interval(found["low"], found["high"]),
                as_p_value(found["p_value_holm"]),
            ]
        rows.append((metric.label, cells))
    return figures_table(names, rows, caption=_caption(task, held_out=held_out), caption_justify="left")


def spread_table(task: Mapping[str, Any]) -> Table | None:
    """Standard deviation and worst of every metric over instructions; None where there was one instruction alone."""
    if task["instructions"] == 1:
        return None
    when = ("before", "after") if "after" in task else ("before",)
    names = [f"{name} {which}" if len(when) > 1 else name for name in ("Deviation", "Worst") for which in when]
    rows = []
    for metric in ordered_metrics(task["family"], task["before"]):
        figures = [task["spread"][which][metric.name] for which in when]
        rows.append((metric.label, [as_number(figure[name]) for name in ("std", "worst") for figure in figures]))
    return figures_table(names, rows, title="Over instructions", title_justify="left")


def _caption(task: Mapping[str, Any], *, held_out: bool) -> str:
    plural = "" if task["instructions"] == 1 else "s"
    what = "held-out examples" if held_out else "examples"
    caption = (
        f"{task['examples']} {what} of {task['templates']} templates, "
        f"mean over {task['instructions']} instruction{plural}"
    )
    if seen := task.get("seen_examples"):
        caption += f"; {seen} of them are not held out: the edit was made on their templates"
    if groups := task.get("groups"):
        caption += f"; groups a and b: {'; '.join(' and '.join(map(markup, pair)) for pair in groups)}"
    if task["few_templates"] and ("after" in task or "intervals" in task):
        caption += "; with so few templates the intervals may be too narrow"
    return " ".join((f"{caption}.", *notes)) if (notes := left_out(task)) else caption


def print_reproduced(found: Mapping[str, Any], output: Path) -> None:
    """Print what `crispr_lm.jobs.reproduce.reproduce` found: what differs, and how much does not."""
    for name, versions in found["versions"].items():
        console.print(f"{markup(name)} was {markup(str(versions['then']))}, is {markup(str(versions['now']))}")
    differing = [figure for figure in found["figures"] if not figure["same"]]
    table = Table(title=f"Figures that differ by more than {found['tolerance']:g}", title_justify="left")
    for name in ("Figure", "Then", "Now"):
        table.add_column(name, justify="left" if name == "Figure" else "right")
    for figure in differing:
        table.add_row(markup(figure["name"]), as_number(figure["then"]), as_number(figure["now"]))
    if differing:
        console.print(table)
    edit = found["edit"]
    same = "the same" if edit["same"] else f"{edit['common']} in common"
    console.print(f"Edit: {edit['then']} neurons then, {edit['now']} now, {same}")
    console.print(f"Verdict: {as_text(found['verdict']['then'])} then, {as_text(found['verdict']['now'])} now")
    count = len(found["figures"]) - len(differing)
    outcome = "[green]Reproduced[/]" if found["same"] else "[red]Not reproduced[/]"
    console.print(f"{outcome}: {count} of {len(found['figures'])} figures within {found['tolerance']:g}")
    print_path("Files", output)


def _difference(metric: Metric, before: float | None, after: float | None, difference: float | None) -> str:
    if before is None or after is None or difference is None:
        return "-"
    if abs(difference) < 0.0005:
        return "0.000"
    gain = metric.gain(before, after)
    colour = "green" if gain > 0 else "red" if gain < 0 else "default"
    return f"[{colour}]{difference:+.3f}[/]"
