"""Sentences about results, the same in the terminal, the report and the model card. Reads result dictionaries only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from crispr_lm.printable import printable


def verdict(results: Mapping[str, Any]) -> str:
    """The outcome of a run in one or two sentences."""
    if results["verdict"] == "none":
        return "No edit is recommended. " + sentence(results["reason"].removeprefix("no edit recommended: "))
    edit = results["edit"]
    plural = "" if edit["neurons"] == 1 else "s"
    what = "damped" if edit["scale"] else "eliminated"
    told = [f"{edit['neurons']} neuron{plural} {what}."]
    told += [change for task in results["tasks"].values() if task["role"] == "bias" and (change := changes(task))]
    return " ".join(told)


def changes(task: Mapping[str, Any]) -> str:
    """What has changed in one task: ambiguous and disambiguated accuracy side by side, or plain accuracy."""
    names = {
        "accuracy_ambiguous": "right on ambiguous questions",
        "accuracy_disambiguated": "right where the context tells",
    }
    parts = [
        f"{task['before'][name]:.0%} to {task['after'][name]:.0%} {label} ({points(task['statistics'][name])})"
        for name, label in names.items()
        if task["before"].get(name) is not None and task["after"].get(name) is not None
    ]
    if not parts and task["before"].get("accuracy") is not None:
        parts = [
            f"{task['before']['accuracy']:.0%} to {task['after']['accuracy']:.0%} right "
            f"({points(task['statistics']['accuracy'])})"
        ]
    return sentence("; ".join(parts)) if parts else ""


def points(found: Mapping[str, Any]) -> str:
    """A difference in percentage points with its 95 % interval."""
    told = f"{100 * found['value']:+.0f} points"
    if found["low"] is None or found["high"] is None:
        return told
    return f"{told}, 95 % interval {100 * found['low']:+.0f} to {100 * found['high']:+.0f}"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def escaped_markdown(content: object) -> str:
    """Text that Markdown shows as it is, also in a table: no markup, no formula, no link; without secrets."""
    text = " ".join(str(content).split())
    return re.sub(r"[\\`*_{}\[\]<>|#&~$]|(?<=\w):(?=//)", lambda match: f"\\{match[0]}", printable(text))
