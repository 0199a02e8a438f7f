"""Sentences about results, the same in the terminal, the report and the model card. Reads result dictionaries only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.metrics.statistics import p_value_text
from crispr_lm.storage.sanitize import printable, without_folders

HALVES = {"accuracy_ambiguous": "ambiguous", "accuracy_disambiguated": "disambiguated"}
"""The two accuracies that belong together, and how their columns are called."""

LEVEL = 0.05
"""Of two-sided tests."""

RIGHT = {
    "accuracy_ambiguous": "right on ambiguous questions",
    "accuracy_disambiguated": "right on disambiguated questions",
    "accuracy": "right",
}

BRIEFLY = {
    "accuracy": "all questions",
    "stereotype_preference": "prefers stereotype",
    "stereotype_gap": "stereotype gap",
    "changed_by_gender": "changed by gender",
    "icat": "ICAT",
}
"""Metrics in a few words, where their label is longer."""


def leading(family: str, figures: Mapping[str, float | None]) -> list[Metric]:
    """The metrics that stand for a task: both halves of its accuracy, else its family's headline, else plain accuracy.

    Args:
        family: Name of the metrics.
        figures: Metric name to value; what is undefined (a share of nothing) does not lead.
    """
    known = {metric.name: metric for metric in FAMILIES[family].metrics if figures.get(metric.name) is not None}
    if halves := [known[name] for name in HALVES if name in known]:
        return halves
    return next(([known[name]] for name in (FAMILIES[family].headline, "accuracy") if name in known), [])


def left_out(task: Mapping[str, Any]) -> list[str]:
    """Sentences on what does not count: questions without a stereotyped option, and rows that a reader leaves out."""
    sentences = []
    count = task.get("without_stereotyped_option")
    if count == task["examples"]:
        sentences.append("None of the questions has a stereotyped option, so there are no bias scores.")
    elif count:
        sentences.append(
            f"The stereotyped option of {count} of the {task['examples']} questions is not known; they do not count in "
            "bias scores."
        )
    rows = task.get("file_rows") or {}
    reasons = {
        "repeated": "repeat another",
        "contradictory": "contradict one that asks the same",
        "unusable": "offer the same person twice",
    }
    if given := [f"{rows[name]} {reason}" for name, reason in reasons.items() if rows.get(name)]:
        sentences.append(f"Rows of the file that are left out, of {rows['read']}: {', '.join(given)}.")
    return sentences


def column_name(metric: Metric) -> str:
    """A metric in a few words, for the head of a column or the name of a row."""
    return (HALVES | BRIEFLY).get(metric.name) or metric.label.partition(" (")[0]


def made_for(results: Mapping[str, Any]) -> list[str]:
    """The tasks that an edit was found on; where results do not say, all bias tasks."""
    found = results.get("made_for")
    return list(found) if found else [name for name, task in results["tasks"].items() if task["role"] == "bias"]


def spoken(name: str) -> str:
    """A category or another name of data with spaces where files have underscores."""
    return name.replace("_", " ")


def has_halves(results: Mapping[str, Any]) -> bool:
    """Whether the tasks that the edit was made for have ambiguous and disambiguated questions."""
    tasks = [task for task in results["tasks"].values() if task["role"] == "bias"]
    return any(task["before"].get(name) is not None for task in tasks for name in HALVES)


def shortened(found: Mapping[str, Any]) -> str:
    """That figures are of weights of 8 or 4 bits, and the saved model has whole ones; empty where that is not so."""
    if (bits := found.get("measured_with", "none")) == "none":
        return ""
    return f"All figures are of weights of {bits.removesuffix('bit')} bits; the saved model has whole ones."


def saved(found: Mapping[str, Any]) -> str:
    """The outcome of loading the saved model again, as a sentence.

    Args:
        found: ``saved_model`` of the results: ``verified``, and the ``reason`` where it is not or what was compared.
    """
    if not found.get("verified", True):
        return sentence(f"The saved model is not verified: {found['reason']}")
    if "bytes_equal" in found:
        files = "1 file" if found["files_compared"] == 1 else f"{found['files_compared']} files"
        return (
            f"Compared with the original byte by byte: {files} of weights, {found['bytes_equal']:,} bytes equal, all "
            f"but those of {found['tensors_edited']} edited tensors; no scores were computed. {shortened(found)}"
        ).rstrip()
    text = "Loaded again with plain transformers in a fresh process: "
    if equal := found.get("tensors_equal"):
        text += f"{equal} tensors equal to the bit, "
    if not found["options_compared"]:
        return text + "and the same configuration; there was no memory to compare option scores in float32."
    return (
        f"{text}{found['options_compared']} option scores agree (largest difference "
        f"{found['largest_difference']:.1e} nats)."
    )


def changes(task: Mapping[str, Any], *, briefly: bool = False) -> str:
    """The changes in one task: ambiguous and disambiguated accuracy side by side, or what leads its metrics.

    Args:
        task: Its results.
        briefly: Write differences as bare numbers of percentage points.
    """
    parts = []
    for metric in leading(task["family"], task["before"]):
        before, after = task["before"][metric.name], task["after"][metric.name]
        if after is None:
            continue
        change = points(task["statistics"][metric.name], briefly=briefly)
        if right := RIGHT.get(metric.name):
            parts.append(f"{before:.0%} to {after:.0%} {right} ({change})")
        else:
            parts.append(f"{metric.label} {before:.2f} to {after:.2f} ({change})")
    return ", ".join(parts)


def is_difference(found: Mapping[str, Any]) -> bool:
    """Whether a difference is shown: its 95 % interval excludes 0, and so does the paired test at 5 %.

    Of a handful of templates the test can show nothing, while an interval of their resamples may well exclude 0.
    """
    if found["low"] is None or found["high"] is None or found["low"] <= 0 <= found["high"]:
        return False
    return found.get("p_value") is None or bool(found["p_value"] <= LEVEL)


def proven(metric: Metric, task: Mapping[str, Any]) -> int:
    """1 where a difference is shown to be a gain, -1 where it is shown to be a loss, else 0."""
    before, found = task["before"][metric.name], task["statistics"][metric.name]
    if before is None or not is_difference(found):
        return 0
    gains = [metric.gain(before, before + found[end]) for end in ("low", "high")]
    return 1 if min(gains) > 0 else -1 if max(gains) < 0 else 0


def short(name: str) -> str:
    """A task's name without its folders."""
    kind, separator, path = name.partition(":")
    return f"{kind}:{without_folders(path)}" if separator else name


def points(found: Mapping[str, Any], *, briefly: bool = False) -> str:
    """A difference in percentage points with its 95 % interval."""
    text = f"{100 * found['value']:+.0f}" + ("" if briefly else " points")
    if found["low"] is None or found["high"] is None:
        return text
    return f"{text}, {'' if briefly else '95 % interval '}{100 * found['low']:+.0f} to {100 * found['high']:+.0f}"


def signed(value: float) -> str:
    """A difference to three places with its sign; never -0."""
    return f"{round(value, 3) + 0.0:+.3f}"


def difference_text(found: Mapping[str, Any]) -> str:
    """A difference with its 95 % interval and the corrected p-value of its test, as far as there are any."""
    if found["value"] is None:
        return "-"
    text = signed(found["value"])
    if found["low"] is not None and found["high"] is not None:
        text += f", {signed(found['low'])} to {signed(found['high'])}"
    return text + significance(found, before=", ")


def significance(found: Mapping[str, Any], before: str = "") -> str:
    """The p-value of a difference, corrected over tasks, behind the words given; nothing where there is none."""
    p_value = found["p_value_holm"]
    return "" if p_value is None else before + p_value_text(p_value)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


LINKED = re.compile(r"[\w.+/:%=?,;@-]*(?:@|://|www\.|mailto:|xmpp:)[\w.+/:%=?,;@-]*", re.IGNORECASE)
"""Words that sites make links or mentions of without any markup: addresses, mail, ``@name``."""


def escaped_markdown(content: object) -> str:
    """Text that Markdown shows as it is, also in a table: no markup, no formula, no link, no mention; without secrets.

    What would become a link by itself stands as code: sites find such words in the text that is left when a backslash
    or an entity has been read, but never in code.
    """
    text, escaped, place = printable(" ".join(str(content).split())), "", 0
    for match in LINKED.finditer(text):
        escaped += _without_markup(text[place : match.start()]) + f"`{match[0]}`"
        place = match.end()
    return escaped + _without_markup(text[place:])


def _without_markup(text: str) -> str:
    return re.sub(r"[\\`*_{}\[\]<>|#&~$]", lambda match: f"\\{match[0]}", text)
