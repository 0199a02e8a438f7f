"""Tables of the difference between two logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from crispr_lm.report.console import as_interval, as_number, as_p_value, console, narrow
from crispr_lm.report.markup import markup
from crispr_lm.report.words import signed

MOST_PLACES = 3
"""Places that are listed of questions in one log alone; the count says how many there are, the JSON has all."""


def print_difference(content: Mapping[str, Any]) -> None:
    """Print the result of `crispr_lm.jobs.difference.difference`."""
    console.print(markup(f"A: {content['a']}"), soft_wrap=True)
    console.print(markup(f"B: {content['b']} ({content['kind']})"), soft_wrap=True)
    for name, task in content["tasks"].items():
        title = f"{'' if name == 'all' else name + ': '}{_counts(task)}"
        console.print()
        _print_table(title, task["metrics"])
        for sentence in notes(task):
            console.print(markup(sentence), soft_wrap=True)
        for log in ("a", "b"):
            _print_only(log.upper(), task[f"only_{log}"])
        for facet, values in task["breakdown"].items():
            rows = {
                f"{value} ({part['questions']:,}): {metric}": row
                for value, part in values.items()
                for metric, row in part["metrics"].items()
            }
            _print_table(f"By {facet}", rows)
        if task["few_templates"]:
            console.print(
                f"Fewer than 10 {'templates' if task.get('clustered', True) else 'questions'}: intervals may be too "
                "narrow."
            )
    for log in ("a", "b"):
        if names := content[f"tasks_only_{log}"]:
            console.print(markup(f"Tasks in {log.upper()} alone, not compared: {', '.join(names)}."), soft_wrap=True)
    console.print(
        "Differences are B minus A, on the questions in both. If the interval includes 0, no difference was shown. "
        "p-values: paired permutation test, corrected over tasks, categories or conditions.",
        soft_wrap=True,
    )


def notes(task: Mapping[str, Any]) -> list[str]:
    """Sentences on what two logs differ in, and on what of them is not compared."""
    fewer = [
        f"{name} of {_number(row['questions'], 'question')} alone: one of the logs has no number for the others."
        for name, row in task["metrics"].items()
        if row["questions"] < task["questions"]
    ]
    sentences = [
        (task.get("no_numbers"), "Not compared, no number for a question: {}."),
        (task.get("metrics_only_a"), "Metrics in A alone, not compared: {}."),
        (task.get("metrics_only_b"), "Metrics in B alone, not compared: {}."),
    ]
    named = [text.format(", ".join(names)) for names, text in sentences if names]
    if prompts := task.get("prompts_differ"):
        verb = "differs" if prompts == 1 else "differ"
        named.append(f"The prompt of {_number(prompts, 'question')} {verb}: the difference is one of prompts, too.")
    if task.get("instructions_differ"):
        named.append("The instructions of A and B differ: the difference is one of instructions, too.")
    elif task.get("instructions_differ", False) is None:
        named.append("The instructions of A and B may differ: they are not known of both.")
    if not task.get("clustered", True):
        named.append(
            "No field names the questions' templates (--cluster FIELD names one), so each counts by itself; of "
            "near-copies the intervals are too narrow."
        )
    return fewer + named


def line(content: Mapping[str, Any]) -> str:
    """The first figure of every task in one line."""
    parts = []
    for name, task in content["tasks"].items():
        metric, row = next(iter(task["metrics"].items()))
        parts.append(f"{name}: {metric} {signed(row['value'])} ({as_interval(row['low'], row['high'])})")
    return "; ".join(parts)


def _counts(task: Mapping[str, Any]) -> str:
    templates = f", {_number(task['templates'], 'template')}" if task.get("clustered", True) else ""
    return f"{_number(task['questions'], 'question')} in both{templates}"


def _number(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def _print_only(log: str, places: Sequence[str]) -> None:
    if places:
        more = ", ..." if len(places) > MOST_PLACES else ""
        named = ", ".join(places[:MOST_PLACES])
        console.print(
            markup(f"In {log} alone, not compared: {_number(len(places), 'question')} ({named}{more})."), soft_wrap=True
        )


def _print_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(title=markup(title), title_justify="left", **narrow())
    table.add_column("metric")
    for column in ("A", "B", "difference", "95 % interval", "p"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        p_value = row["p_value"] if row["p_value_holm"] is None else row["p_value_holm"]
        table.add_row(
            markup(name),
            as_number(row["a"]),
            as_number(row["b"]),
            "-" if row["value"] is None else signed(row["value"]),
            as_interval(row["low"], row["high"]),
            as_p_value(p_value),
        )
    console.print(table)
