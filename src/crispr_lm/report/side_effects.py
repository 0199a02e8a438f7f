"""Sentences on side effects: facts about groups, and other kinds of stereotype. Reads result dictionaries only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.report.words import LEVEL, difference_text, proven, signed

FACTS = "builtin:facts"
"""The task of what is true of one group and not of another."""

OTHER_KINDS = "builtin:other-kinds"
"""The task of kinds of stereotype that the edit is not made for (`crispr_lm.tasks.other_kinds`)."""

WORSE = ("accuracy_ambiguous", "bias_score_ambiguous", "accuracy_disambiguated", "bias_score_disambiguated")
"""What may get worse in another kind."""


def facts_sentence(results: Mapping[str, Any]) -> str | None:
    """What the edit did to facts about groups, as a sentence; None without an edit, or where they were not measured."""
    task = _measured_twice(results, FACTS)
    if task is None:
        return None
    found = task["statistics"]["accuracy"]
    before, after = task["before"]["accuracy"], task["after"]["accuracy"]
    if found["low"] is None or found["high"] is None:
        judged = "with so few templates there is no interval"
    else:
        loss = (
            "a loss is shown" if found["high"] < 0 else "a gain is shown" if found["low"] > 0 else "no change is shown"
        )
        judged = f"95 % interval {signed(found['low'])} to {signed(found['high'])}: {loss}"
    return (
        f"Facts accuracy (questions whose right answer depends on the group): {before:.3f} before, {after:.3f} after, "
        f"difference {signed(found['value'])} ({judged})."
    )


def other_kinds_sentence(results: Mapping[str, Any]) -> str | None:
    """What the edit did to other kinds of stereotype, as a sentence; None without an edit, or where not measured."""
    task = _measured_twice(results, OTHER_KINDS)
    if task is None:
        return None
    worse = [
        f"{kind} ({metric.label} {difference_text(figures['statistics'][metric.name])})"
        for kind, figures, metric in _worsened(task)
    ]
    kinds = len(_kinds(task)) - 1 or 1
    what = f"Other kinds of stereotype ({task['examples']} questions, {kinds} kind{'s' * (kinds != 1)})"
    if not worse:
        return f"{what}: none got worse for certain (95 % intervals, tests corrected over kinds)."
    return f"{what}: worse for certain (difference, 95 % interval, p corrected over kinds): {'; '.join(worse)}."


def _measured_twice(results: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A task's figures, where there is an edit that they were measured before and after."""
    task: Mapping[str, Any] | None = results["tasks"].get(name)
    empty = results.get("edit", {}).get("neurons") == 0
    return None if task is None or "after" not in task or empty else task


def worsened(results: Mapping[str, Any]) -> list[str]:
    """What got worse for certain beside the tasks that the edit was made for, in a few words each."""
    tasks, found = results["tasks"], []
    facts, others = tasks.get(FACTS, {}), tasks.get(OTHER_KINDS, {})
    if "after" in facts and _certain(facts, "accuracy"):
        found.append("facts about groups")
    if "after" in others:
        found += dict.fromkeys(kind.replace("_", " ") for kind, _, _ in _worsened(others))
    return found


def _kinds(task: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures of each kind, and of all together."""
    return {**task.get("breakdown", {}).get("category", {}), "all other kinds together": task}


def _worsened(task: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Metric]]:
    """Kind, its figures, and the metric, of all that got worse for certain."""
    for kind, figures in _kinds(task).items():
        for name in WORSE:
            if metric := _certain({**figures, "family": task["family"]}, name):
                yield kind, figures, metric


def _certain(task: Mapping[str, Any], name: str) -> Metric | None:
    """The metric, if it got worse for certain."""
    metric = next(metric for metric in FAMILIES[task["family"]].metrics if metric.name == name)
    p_value = task["statistics"].get(name, {}).get("p_value_holm")
    sure = p_value is not None and p_value <= LEVEL and proven(metric, task) < 0
    return metric if sure else None
