"""The tables of a comparison, for the terminal and as Markdown. Reads ``comparison.json``'s dictionary, no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.report.console import console
from crispr_lm.report.markup import markup
from crispr_lm.report.words import difference_text, escaped_markdown, left_out

FIGURES = (
    ("accuracy_ambiguous", "Accuracy, ambiguous"),
    ("accuracy_disambiguated", "Accuracy, disambiguated"),
    ("abstention_gap", "Abstention gap"),
    ("bias_score_ambiguous", "Bias score, ambiguous"),
    ("bias_score_disambiguated", "Bias score, disambiguated"),
)
"""Metric and how its column is called. Ambiguous and disambiguated stand side by side."""

LABELS = (("accuracy", "Accuracy"), ("macro_f1", "Macro F1"), ("label_bias", "Label bias"))
"""The same for classification with labels."""

KINDS = {"original": "", "library": "", "control": "control", "baseline": "baseline"}

SCORING = {
    "sum": "options compared by summed log-probability",
    "mean": "options compared by log-probability per token",
    "generate": "written answers matched to the options",
}

NOT_RECOMMENDED = "†"
DASH = "–"


@dataclass(frozen=True)
class TextTable:
    """A table of texts: what both forms are made of."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def markdown(comparison: Mapping[str, Any]) -> str:
    """All tables as Markdown."""
    identity = comparison["record"]["identity"]
    lines = [f"# Comparison on {escaped_markdown(identity['model'])}", ""]
    for table in tables(comparison):
        lines += [f"## {escaped_markdown(table.title)}", ""]
        lines += [_line(table.header), _line(["---"] * len(table.header)), *map(_line, table.rows), ""]
        for note in table.notes:
            lines += [escaped_markdown(note), ""]
    lines += ["## Methods", ""]
    for method in comparison["methods"].values():
        source = f" ({escaped_markdown(method['source'])})" if method["source"] else ""
        lines.append(f"- **{escaped_markdown(method['label'])}**: {escaped_markdown(method['summary'])}{source}")
    lines += ["", "## Settings", ""]
    lines += [
        f"- {escaped_markdown(name)}: {escaped_markdown(_plain(value))}" for name, value in identity["settings"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in comparison["record"]["versions"].items())
    lines.append(f"- versions: crispr-lm {escaped_markdown(identity['crispr_lm'])}, {escaped_markdown(versions)}")
    return "\n".join(lines) + "\n"


def print_comparison(comparison: Mapping[str, Any], output: Path) -> None:
    """Print all tables, and where the files are."""
    for text in tables(comparison):
        table = Table(title=markup(text.title), title_justify="left")
        for number, name in enumerate(text.header):
            table.add_column(markup(name), justify="right" if number else "left")
        for row in text.rows:
            table.add_row(*map(markup, row))
        console.print()
        console.print(table)
        for note in text.notes:
            console.print(markup(note), soft_wrap=True)
    console.print(f"Files: {markup(str(output))}", soft_wrap=True)


def tables(comparison: Mapping[str, Any]) -> Iterator[TextTable]:
    """Every table: all tasks at a glance, figures and differences per task, then transfer and curves."""
    if len(comparison["tasks"]) > 1:
        yield _summary(comparison)
        yield _changes(comparison)
    if (ablation := comparison.get("ablation")) is not None:
        yield _ablation(comparison, ablation)
    for name, task in comparison["tasks"].items():
        yield _figures(name, task, comparison["methods"])
        yield _differences(name, task, comparison["methods"])
    if comparison["transfer"] is not None:
        yield _transfer(comparison)
        yield _overlap(comparison["transfer"]["overlap"])
    for name, curves in (comparison["curves"] or {}).items():
        columns = _columns(comparison["tasks"][name])
        yield _curve(f"{name}: number of neurons", "Neurons", curves["neurons"], columns)
        yield _curve(f"{name}: number of attribution examples", "Fit examples", curves["examples"], columns)


def _summary(comparison: Mapping[str, Any]) -> TextTable:
    rows = []
    for method, about in comparison["methods"].items():
        cells = []
        for name, task in comparison["tasks"].items():
            row = task["rows"][method]
            if row["status"] != "done":
                cells += [DASH, "not run"]
                continue
            own = row["measured"][name]
            shown = " / ".join(_mean_deviation_worst(own, metric) for metric in main_metrics(task))
            cells += [str(row["neurons"]), shown]
        rows.append((about["label"], *cells))
    header = ["Method"]
    for name in comparison["tasks"]:
        header += ["Neurons", name]
    note = (
        "Accuracy on ambiguous / disambiguated questions (the headline figure, where a task has no conditions): mean ± "
        "standard deviation over instructions (and draws), [worst]; neurons removed."
    )
    return TextTable("All tasks", tuple(header), tuple(rows), (note,))


def _changes(comparison: Mapping[str, Any]) -> TextTable:
    rows = []
    for method, about in comparison["methods"].items():
        cells = []
        for name, task in comparison["tasks"].items():
            row = task["rows"][method]
            own = row["measured"][name] if row["status"] == "done" else None
            cells.append(DASH if own is None else _changed(own, main_metrics(task)))
        if about["kind"] != "original":
            rows.append((about["label"], *cells))
    note = (
        "The same figures as differences from the original, with 95 % intervals over templates (bootstrap); p by "
        "permutation, Holm over tasks."
    )
    return TextTable("All tasks: difference from the original", ("Method", *comparison["tasks"]), tuple(rows), (note,))


def _ablation(comparison: Mapping[str, Any], rows: Sequence[str]) -> TextTable:
    """The paper's ablation in form: a row per variant, the plain accuracy on every task."""
    tasks = comparison["tasks"]
    shown = []
    for method in ("original", *rows):
        measured = {name: task["rows"][method].get("measured") for name, task in tasks.items()}
        cells = (_mean_deviation_worst(of[name], "accuracy") if of else "not run" for name, of in measured.items())
        shown.append((comparison["methods"][method]["label"], *cells))
    note = (
        "Accuracy on all questions: mean ± standard deviation over instructions (and draws), [worst]. Every row but "
        "the original eliminates as many neurons as the search's edit."
    )
    return TextTable("Ablation", ("Method", *tasks), tuple(shown), (note,))


def _figures(name: str, task: Mapping[str, Any], methods: Mapping[str, Any]) -> TextTable:
    columns, further = _columns(task), _further(name, task)
    header = ("Method", "Kind", "Neurons", *(label for _, label in columns), "Passes", "Per answer", "KL", *further)
    rows = []
    for method, row in task["rows"].items():
        label = methods[method]["label"]
        if row["status"] != "done":
            rows.append((label, KINDS[methods[method]["kind"]], DASH, *[DASH] * (len(header) - 4), "not run"))
            continue
        own = row["measured"][name]
        rows.append(
            (
                label if row["recommended"] else f"{label} {NOT_RECOMMENDED}",
                KINDS[methods[method]["kind"]],
                str(row["neurons"]),
                *(_spread(own, metric) for metric, _ in columns),
                DASH if row["passes"] is None else f"{row['passes']:,}",
                f"{row['answer_passes']:.1f}",
                _divergence(row["divergence"]),
                *(_spread(row["measured"][other], _headline(row["measured"][other])) for other in further),
            )
        )
    plural = "" if task["instructions"] == 1 else "s"
    notes = [
        f"{task['examples']} held-out examples of {task['templates']} templates under {task['instructions']} "
        f"instruction{plural}, {SCORING[task['scoring'][name]]}: mean ± standard deviation over instructions (and "
        "draws), [worst]; of random controls the range of their draws' means in braces. Passes: what fitting took, in "
        "forward passes of a prompt (a backward pass counts as two); of methods as large as the search's edit what "
        f"comes on top of the search; {DASH} of a search that was interrupted. Per answer: passes for one question "
        "under one instruction; what a model writes first is shared by all instructions. KL: divergence from the "
        "original on neutral prompts, nats per token, "
        "with its 95 % interval. Further tasks: accuracy, of texts perplexity; those under one instruction alone have "
        "no deviation."
    ]
    notes += [*left_out(task), *_notes(task, methods)]
    return TextTable(name, header, tuple(rows), tuple(notes))


def _differences(name: str, task: Mapping[str, Any], methods: Mapping[str, Any]) -> TextTable:
    columns, further = _columns(task), _further(name, task)
    rows = []
    for method, row in task["rows"].items():
        if row["status"] != "done" or methods[method]["kind"] == "original":
            continue
        shown = [_tested(row["measured"][name], metric) for metric, _ in columns]
        shown += [_tested(row["measured"][other], _headline(row["measured"][other])) for other in further]
        rows.append((methods[method]["label"], *shown))
    note = "Paired differences with 95 % intervals over templates (bootstrap); p by permutation, Holm over tasks."
    if task["few_templates"]:
        note += f" {task['templates']} templates are few, and the intervals may be too narrow."
    header = ("Method", *(label for _, label in columns), *further)
    return TextTable(f"{name}: difference from the original", header, tuple(rows), (note,))


def _transfer(comparison: Mapping[str, Any]) -> TextTable:
    names = list(comparison["tasks"])
    rows = []
    for fitted, measured in comparison["transfer"]["differences"].items():
        rows.append((fitted, *(_changed(measured[name], main_metrics(comparison["tasks"][name])) for name in names)))
    note = (
        "Rows: the task that neurons were found on; columns: the task measured. Difference from the original in "
        "ambiguous / disambiguated accuracy (in the headline figure, where a task has no conditions), with its 95 % "
        "interval; p by permutation, Holm over the tasks of a row."
    )
    return TextTable("Transfer", ("Found on", *names), tuple(rows), (note,))


def _overlap(overlaps: Mapping[str, Any]) -> TextTable:
    rows = tuple(
        (first, *(f"{counts['common']} of {counts['first']} ({counts['jaccard']:.2f})" for counts in row.values()))
        for first, row in overlaps.items()
    )
    note = "Neurons that the row's edit has in common with the column's, of how many; in brackets Jaccard's index."
    return TextTable("Overlap of edits", ("Found on", *overlaps), rows, (note,))


def _curve(title: str, axis: str, points: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> TextTable:
    rows = tuple(
        (
            str(point["point"]),
            str(point["neurons"]),
            *(f"{_mean_deviation_worst(point, metric)} ({_tested(point, metric)})" for metric, _ in columns),
            _divergence(point["divergence"]),
        )
        for point in points
    )
    header = (axis, "Removed", *(label for _, label in columns), "KL")
    note = (
        "Mean ± standard deviation over instructions, [worst]; in brackets the difference from the original with its "
        "95 % interval, p by permutation, Holm over the tasks at this point."
    )
    return TextTable(title, header, rows, (note,))


def _notes(task: Mapping[str, Any], methods: Mapping[str, Any]) -> Iterator[str]:
    """Notes on methods: not run, not recommended, and why."""
    for method, row in task["rows"].items():
        label = methods[method]["label"]
        if row["status"] != "done":
            yield f"{label}: not run: {row['reason']}"
        elif method == "search" and not row["recommended"]:
            yield f"{label} {NOT_RECOMMENDED}: no edit: {row['details'][0]['reason']}; others are of that size."
        elif not row["recommended"]:
            yield f"{label} {NOT_RECOMMENDED}: no edit to recommend within the limits; shown is the best one tried."
        elif method == "search":
            yield f"{label}: {row['details'][0]['reason']}."
        if warning := row.get("over_abstention"):
            yield f"{label}: over-abstention: {warning}"


def _columns(task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics to show of a task: those of `LABELS` or `FIGURES`, else its headline, else the first it has."""
    original = task["rows"]["original"]["measured"]
    metrics = next(iter(original.values()))["metrics"]
    if task["family"] == "classification":
        return [(name, label) for name, label in LABELS if name in metrics]
    if shown := [(name, label) for name, label in FIGURES if name in metrics]:
        return shown
    labels = {metric.name: metric.label for metric in FAMILIES[task["family"]].metrics if metric.name in metrics}
    headline = FAMILIES[task["family"]].headline
    name = headline if headline in labels else next(iter(labels))
    return [(name, labels[name])]


def main_metrics(task: Mapping[str, Any]) -> list[str]:
    """The metrics that stand for a task: ambiguous and disambiguated accuracy, or its headline."""
    return [metric for metric, _ in _columns(task)][: 1 if task["family"] == "classification" else 2]


def _further(name: str, task: Mapping[str, Any]) -> list[str]:
    return [other for other in task["rows"]["original"]["measured"] if other != name]


def _headline(measured: Mapping[str, Any]) -> str:
    """Accuracy where there is one, else the first metric."""
    return "accuracy" if "accuracy" in measured["metrics"] else next(iter(measured["metrics"]))


def _spread(measured: Mapping[str, Any], metric: str) -> str:
    """Mean, deviation and worst over instructions, and the range of the means of random controls' draws."""
    shown = _mean_deviation_worst(measured, metric)
    ends = None if measured["metrics"][metric] is None else (measured["range"] or {}).get(metric)
    return shown if ends is None else f"{shown} {{{_number(ends[0])} to {_number(ends[1])}}}"


def _mean_deviation_worst(measured: Mapping[str, Any], metric: str) -> str:
    """Mean ± standard deviation, [worst]; of what was measured once only there is no more than the figure."""
    value, spread = measured["metrics"][metric], measured["spread"][metric]
    if value is None or sum(map(len, measured["per_instruction"])) == 1:
        return _number(value)
    worst = "" if spread["worst"] is None else f" [{_number(spread['worst'])}]"
    return f"{_number(value)} ± {_number(spread['std'])}{worst}"


def _tested(measured: Mapping[str, Any], metric: str) -> str:
    found = measured["differences"][metric]
    return DASH if found["value"] is None else difference_text(found)


def _changed(measured: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Differences from the original with their intervals and tests, several metrics beside each other."""
    return " / ".join(_tested(measured, metric) for metric in metrics)


def _divergence(measured: Mapping[str, Any] | None) -> str:
    if measured is None or measured["kl"] is None:
        return DASH
    ends = (measured["low"], measured["high"])
    known = measured["kl"] != 0 and None not in ends
    return f"{_number(measured['kl'])} ({_number(ends[0])} to {_number(ends[1])})" if known else _number(measured["kl"])


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell if set(cell) == {'-'} else escaped_markdown(cell) for cell in cells)} |"
