"""The verdict of a run as one statement: the search's result on validation, and on the test split.

The only place where a verdict becomes words: terminal, report, model card and app show the same sentence, so that none
of them calls an edit recommended whose gain unseen templates do not show. Reads result dictionaries only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crispr_lm.metrics.statistics import p_value_text
from crispr_lm.report.side_effects import worsened
from crispr_lm.report.words import RIGHT, changes, leading, made_for, proven, sentence, short

UNSEEN = "on the test split (unseen templates)"
SEEN = "on the test split (other rows of the same templates)"


def outcome(results: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of a whole run, and the parts of its statement, for ``results.json``.

    The verdict is the search's ("recommended", "untested", "none" or "as asked"), but "not confirmed" where the search
    recommends an edit and the test split does not show its gain in every task that it was made for.

    Args:
        results: With the search's verdict, its choice, and the figures of all tasks.

    Returns:
        `verdict`; and `statement` with `validation`, the gain that the search has tested on further questions (None
        where it has tested none), and `test`, by task the difference that the statement goes by, with its interval,
        whether a gain is `shown`, and which of the metrics shown show a loss (`lost`); and `worse`, what else got worse
        for certain: facts about groups, other kinds of stereotype.
    """
    verdict, tested = results["verdict"], _test_split(results)
    if verdict == "recommended" and not (tested and all(task["shown"] for task in tested.values())):
        verdict = "not confirmed"
    return {
        "verdict": verdict,
        "statement": {"validation": _validation(results), "test": tested, "worse": worsened(results)},
    }


def statement(results: Mapping[str, Any]) -> str:
    """The outcome of a run in one sentence: the verdict, the gain on validation, and the test split.

    Args:
        results: What ``results.json`` holds.
    """
    if results["verdict"] == "none":
        return sentence("No edit is recommended: " + results["reason"].removeprefix("no edit recommended: "))
    found, unseen = outcome(results), SEEN if results.get("split_by") == "random" else UNSEEN
    edit, tested = results["edit"], found["statement"]["test"]
    shown = [task["shown"] for task in tested.values()]
    verdict = found["verdict"]
    if verdict == "not confirmed":
        verdict = f"{'confirmed in part' if any(shown) else verdict} {unseen}"
    plural = "" if edit["neurons"] == 1 else "s"
    what = f"{verdict}, {edit['neurons']} neuron{plural} {'damped' if edit['scale'] else 'eliminated'}"
    worse = f"; worse for certain: {', '.join(others)}" if (others := found["statement"]["worse"]) else ""
    parts = [(name, _change(results["tasks"][name], task, briefly=len(tested) > 1)) for name, task in tested.items()]
    if not parts:
        return sentence(f"{what}: {_gain_on_validation(found)}; the test split has no figure for it{worse}")
    where = unseen if found["verdict"] != "not confirmed" else "on the test split"
    if len(parts) == 1:
        return sentence(f"{what}: {_gain_on_validation(found)}; {where} {parts[0][1]}{worse}")
    # Of several tasks the differences are written more briefly, or the sentence would fill the page.
    of_tasks = "; ".join(f"{short(name)} {change}" for name, change in parts)
    intervals = "differences in points with 95 % intervals"
    return sentence(f"{what}: {_gain_on_validation(found)}; {where} ({intervals}): {of_tasks}{worse}")


def _gain_on_validation(found: Mapping[str, Any]) -> str:
    gain = found["statement"]["validation"]
    if found["verdict"] == "as asked":
        return "their number chosen by accuracy on validation, without limits"
    if gain is None:
        return "gain not tested on further validation questions"
    return f"gain on validation {gain['value']:+.3f}, shown ({p_value_text(gain['p_value'])})"


def _change(task: Mapping[str, Any], tested: Mapping[str, Any], *, briefly: bool) -> str:
    lost = [RIGHT.get(name, name) for name in tested["lost"]]
    judged = f"gain {'' if tested['shown'] else 'not '}shown" + f", loss shown ({' and '.join(lost)})" * bool(lost)
    return f"{changes(task, briefly=briefly)}: {judged}"


def _validation(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tested gain of the edit; None where it was not tested on further questions, or another edit was picked."""
    gain = (results.get("choice") or {}).get("gain_over_original")
    return dict(gain) if gain is not None and gain.get("further") and results["verdict"] != "untested" else None


def _test_split(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By task that the edit was made for, the difference on held-out questions, with its interval."""
    tasks, by_task = results["tasks"], {}
    for name in made_for(results):
        task = tasks[name]
        metrics = leading(task["family"], task["before"])
        if not metrics:
            continue
        first, found = metrics[0], task["statistics"][metrics[0].name]
        by_task[name] = {
            "metric": first.name,
            **{part: found[part] for part in ("value", "low", "high")},
            "shown": proven(first, task) > 0,
            "lost": [metric.name for metric in metrics if proven(metric, task) < 0],
        }
    return by_task
