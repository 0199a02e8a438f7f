"""What the terminal says of a check: one line for each rule, and what would decide those that are undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from crispr_lm.report.console import as_number, console, narrow
from crispr_lm.report.markup import markup
from crispr_lm.report.words import left_out

COLORS = {"holds": "green", "fails": "red", "undecided": "yellow", "not decidable": "yellow"}
SIGNS = {"at_least": "≥", "at_most": "≤", "within": "within", "loses_at_most": "loses ≤"}
OUTCOMES = {
    "holds": "Every rule holds.",
    "fails": "Not every rule holds.",
    "undecided": "There are too few questions to tell.",
}


def print_decisions(result: Mapping[str, Any]) -> None:
    """Print the result of `crispr_lm.jobs.check.check`."""
    for name, task in result["tasks"].items():
        console.print(
            markup(
                f"{name}: {task['questions']:,} of {task['questions_there']:,} questions of {task['task']}, "
                f"{task['templates']:,} of {task['templates_there']:,} templates"
            ),
            soft_wrap=True,
        )
        for sentence in left_out({**task, "examples": task["questions"]}):
            console.print(markup(sentence), soft_wrap=True)
    print_rules(f"Rules {result['rules_file']}", result["rules"], result["tasks"])
    console.print(f"[bold]{OUTCOMES[result['outcome']]}[/] (exit status {result['exit']})")


def print_rules(title: str, rules: Sequence[Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each rule, and why those are undecided that are."""
    table = Table(title=markup(title), title_justify="left", **narrow())
    for column in ("rule", "outcome"):
        table.add_column(column)
    for column in ("figure", "baseline", "bounds"):
        table.add_column(column, justify="right")
    for rule in rules:
        outcome = rule["outcome"]
        table.add_row(
            markup(rule_text(rule)),
            f"[{COLORS[outcome]}]{outcome}[/]",
            as_number(rule["value"]),
            as_number(rule["baseline"]),
            bounds_text(rule),
        )
    console.print(table)
    for rule in rules:
        if rule["outcome"] not in ("holds", "fails"):
            console.print(markup(undecided_sentence(rule, tasks)), soft_wrap=True)


def rule_text(rule: Mapping[str, Any]) -> str:
    """A rule in a few words, such as ``bbq.accuracy_disambiguated ≥ 0.9``."""
    return f"{rule['metric']} {SIGNS[rule['form']]} {rule['limit']:g}"


def bounds_text(rule: Mapping[str, Any]) -> str:
    """The bounds that decided; of a loss those of the gain over the baseline, with their sign."""
    if rule["low"] is None:
        return "-"
    form = "+.3f" if rule["form"] == "loses_at_most" else ".3f"
    return f"{rule['low']:{form}} to {rule['high']:{form}}"


def undecided_sentence(rule: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a rule is undecided, and how many questions would decide it; `tasks` says how many there are, if known."""
    text = f"{rule_text(rule)}: {rule['reason']}"
    needed = rule["templates_needed"]
    if needed is None:
        return f"{text}."
    there = tasks[rule["metric"].partition(".")[0]]["templates_there"] if tasks else needed
    more = f" The task has {there:,}." if needed > there else ""
    return (
        f"{text}. If the figure stays where it is, some {rule['questions_needed']:,} questions of {needed:,} templates "
        f"decide in four of five cases; there were {rule['templates']:,} templates.{more}"
    )


def outcome_line(rule: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """A rule and its outcome in one sentence, for a test report."""
    if rule["outcome"] == "undecided":
        return undecided_sentence(rule, tasks)
    of = "gain over the baseline" if rule["form"] == "loses_at_most" else "figure"
    return (
        f"{rule_text(rule)} {rule['outcome']}: {of} {as_number(rule['compared'])}, bounds {bounds_text(rule)} "
        f"({100 * rule['confidence']:.1f} % each), {rule['templates']:,} templates."
    )
