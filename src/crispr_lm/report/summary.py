"""A run in one plain sentence and six lines: what terminal, page, card and app show first.

Three questions are asked of an edit, on held-out questions: are biased answers down, is the model still right where
the context tells, is everything else unchanged? Each answer is "held", "not shown" or "lost". Reads result
dictionaries only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from crispr_lm.metrics.family import Metric
from crispr_lm.metrics.registry import FAMILIES, ordered_metrics
from crispr_lm.report import words
from crispr_lm.report.statement import outcome

Mark = Literal["held", "not shown", "lost"]

BEYOND = ("capability", "facts", "other kinds")
"""Entries of the glossary for tasks that the edit was not made for."""

WORST_FIRST: tuple[Mark, ...] = ("lost", "not shown", "held")


@dataclass(frozen=True)
class Line:
    """One figure of the summary.

    Attributes:
        what: What is counted, in words.
        term: Its entry in the glossary, or what it means where it has none.
        task: Of which task it is.
        among: Of how many tasks that one is the worst.
        before: Of the original.
        after: Of the edited model.
        change: Difference; None where there is none.
        low: Lower end of the difference's 95 % interval.
        high: Upper end.
        share: Whether it is a share, written in percent.
        mark: Whether what is asked of it was shown.
    """

    what: str
    term: str
    task: str
    among: int
    before: float | None
    after: float | None
    change: float | None
    low: float | None
    high: float | None
    share: bool
    mark: Mark | None

    def value_text(self, value: float | None) -> str:
        """A value as people read it: 79 %, or +0.12."""
        if value is None:
            return "-"
        return f"{100 * value:.0f} %" if self.share else f"{round(value, 2) + 0.0:+.2f}"

    @property
    def change_text(self) -> str:
        """The difference: in points of percent, or as it is."""
        if self.change is None:
            return "-"
        return _points(self.change) if self.share else f"{round(self.change, 2) + 0.0:+.2f}"

    @property
    def interval_text(self) -> str:
        """The 95 % interval of the difference; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        if self.share:
            return f"{_points(self.low)} to {_points(self.high)}"
        return f"{round(self.low, 2) + 0.0:+.2f} to {round(self.high, 2) + 0.0:+.2f}"


@dataclass(frozen=True)
class Check:
    """One of the three questions.

    Attributes:
        question: In words.
        lines: The figures that answer it; the first is the largest one shown.
        mark: The answer; None where there is no edit.
    """

    question: str
    lines: tuple[Line, ...]
    mark: Mark | None


def checks(results: Mapping[str, Any]) -> list[Check]:
    """The three questions with their figures.

    Of several tasks each line shows the one that fares worst. A loss is "held" off where the worst end of its 95 %
    interval is within the run's limit (0 where it has none), and "lost" where the whole interval is a loss.

    Args:
        results: What ``results.json`` holds.
    """
    limits = results.get("limits") or {}
    made_for = [results["tasks"][name] | {"name": name} for name in words.made_for(results)]
    beyond = [task | {"name": name} for name, task in results["tasks"].items() if name not in words.made_for(results)]
    accuracy, bias = limits.get("accuracy_loss", 0.0), limits.get("bias_rise", 0.0)
    less = [*_guesses(made_for), *_worst(made_for, "bias_score_ambiguous", "Bias score where it does not tell")]
    right = [
        *_worst(made_for, "accuracy_disambiguated", "Right where the context tells", accuracy),
        *_worst(made_for, "bias_score_disambiguated", "Bias score where it tells", bias),
    ]
    other = [*_beyond(beyond, limits)]
    edited = bool(results["edit"]["neurons"])
    if edited:  # of the original it is 100 % by definition
        other += _neutral_texts(results.get("divergence"), limits.get("kl", 0.0))
    found = [
        ("Biased answers down?", less),
        ("Still right where the context tells?", right),
        ("Everything else unchanged?", other),
    ]
    return [Check(question, tuple(lines), _answer(lines) if edited else None) for question, lines in found if lines]


def six_lines(results: Mapping[str, Any]) -> list[Line]:
    """The figures of all three questions; of several tasks that an edit must not harm the one that fares worst.

    Of an edit chosen by accuracy (verdict "as asked") the accuracy on all questions comes first.
    """
    lines = [line for check in checks(results) for line in check.lines]
    beyond = [line for line in lines if line.term in BEYOND]
    worst = _worst_of([(line.low or 0.0, line) for line in beyond]) if beyond else None
    chosen_by: list[Line] = []
    if results["verdict"] == "as asked" and words.has_halves(results):  # else it leads the lines as it is
        made_for = [results["tasks"][name] | {"name": name} for name in words.made_for(results)]
        chosen_by = [*_worst(made_for, "accuracy", "Right answers, all questions", term="right answers")]
    return [*chosen_by, *(line for line in lines if line.term not in BEYOND or line is worst)]


def certain_losses(results: Mapping[str, Any]) -> list[str]:
    """Every figure of every task that got worse for certain (all of its 95 % interval), a phrase each."""
    found = []
    for name, task in results["tasks"].items():
        for metric in ordered_metrics(task["family"], task["before"]):
            ends = _ends(metric, task)
            if ends is not None and max(ends) < 0:
                numbers = task["statistics"][metric.name]
                found.append(
                    f"{words.short(name)}: {metric.label.partition(' (')[0].lower()} {words.signed(numbers['value'])} "
                    f"({words.signed(numbers['low'])} to {words.signed(numbers['high'])})"
                )
    return found


def headline(results: Mapping[str, Any]) -> str:
    """The verdict in one plain sentence.

    Args:
        results: What ``results.json`` holds.
    """
    edit, found = results["edit"], outcome(results)
    if found["verdict"] == "none":
        return "No edit is recommended: none that was tried is better at an acceptable price."
    plural = "" if edit["neurons"] == 1 else "s"
    without = f"{edit['neurons']} neuron{plural} {'damped' if edit['scale'] else 'removed'}"
    better = "guesses less where the context does not tell" if words.has_halves(results) else "is less biased"
    shown = [task["shown"] for task in found["statement"]["test"].values()]
    if found["verdict"] == "recommended":
        return f"Recommended: with {without} the model {better}, also on questions that nothing was chosen on."
    seen = "is" if shown and all(shown) else "is not"
    if found["verdict"] == "untested":
        return f"Untested: {without}, chosen without a test; on new questions a gain {seen} shown."
    if found["verdict"] == "as asked":
        return f"As asked, without limits on what is lost: {without}; on new questions a gain {seen} shown."
    if any(shown):
        return f"Confirmed in part: with {without} the gain is shown for {sum(shown)} of {len(shown)} tasks."
    return f"Not confirmed: with {without} the search saw a gain that new questions do not show."


def _points(value: float) -> str:
    """A difference of shares in percentage points, one decimal where it is small."""
    digits = 1 if abs(value) < 0.1 else 0
    return f"{round(100 * value, digits) + 0.0:+.{digits}f}"


def _answer(lines: Sequence[Line]) -> Mark:
    """The mark of a question: that of its first figure, unless another one is lost; of "everything else" the worst."""
    marks = [line.mark for line in lines if line.mark is not None]
    if "lost" in marks or not marks:
        return "lost" if marks else "not shown"
    return marks[0] if lines[0].term in ("guess", "disambiguated") else min(marks, key=WORST_FIRST.index)


def _guesses(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """What leads each task; of ambiguous accuracy the other answers, which are guesses."""
    leading = [(task, metric) for task in tasks for metric in words.leading(task["family"], task["before"])[:1]]
    if leading:
        yield _worst_of(
            [(_least(metric, task), _line(metric, task, len(tasks), _better(metric, task))) for task, metric in leading]
        )


def _worst(
    tasks: Sequence[Mapping[str, Any]], name: str, what: str, limit: float | None = None, term: str | None = None
) -> Iterator[Line]:
    """A figure of the task that fares worst: it must not get worse by more than the limit, or get better."""
    found = []
    for task in tasks:
        metric = next((one for one in FAMILIES[task["family"]].metrics if one.name == name), None)
        if metric is not None and task["before"].get(name) is not None:
            mark = _better(metric, task) if limit is None else _kept(metric, task, limit)
            found.append((_least(metric, task), _line(metric, task, len(tasks), mark, what, term)))
    if found:
        yield _worst_of(found)


def _worst_of(found: Sequence[tuple[float, Line]]) -> Line:
    """Of lines with their least gain the one of the worst mark, and among these of the least gain."""
    return min(found, key=lambda pair: (WORST_FIRST.index(pair[1].mark or "held"), pair[0]))[1]


def _beyond(tasks: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> Iterator[Line]:
    """Of each task that the edit was not made for what leads it, against its own limit; perplexity is no share."""
    accuracy = limits.get("accuracy_loss", 0.0)
    for task in tasks:
        kind = words.short(task["name"]).removeprefix("builtin:").replace("-", " ")
        if task["role"] != "capability" and kind != "other kinds":
            continue
        if kind == "other kinds":
            scores = [
                line
                for name in ("bias_score_ambiguous", "bias_score_disambiguated")
                for line in _worst([task], name, "Bias score of other kinds", _limit(limits, "spillover"), kind)
            ]
            yield from sorted(scores, key=lambda line: WORST_FIRST.index(line.mark or "held"))[:1]
        limit = _limit(limits, "fact_loss") if kind == "facts" else accuracy
        for metric in words.leading(task["family"], task["before"]):
            half = f", {words.HALVES[metric.name]}" if metric.name in words.HALVES else ""
            if metric.name == "perplexity" or (kind == "other kinds" and metric.name == "accuracy_ambiguous"):
                continue  # of ambiguous questions on other kinds the bias score tells
            what, term = f"Right on {words.spoken(kind)}{half}", kind if kind in BEYOND else "capability"
            yield _line(metric, task, 1, _kept(metric, task, limit), what, term)


def _limit(limits: Mapping[str, float], name: str) -> float:
    """A limit on side effects; where it is off (1), that on the loss of accuracy stands for it."""
    return limits[name] if limits.get(name, 1.0) < 1 else limits.get("accuracy_loss", 0.0)


def _neutral_texts(divergence: Mapping[str, Any] | None, limit: float) -> list[Line]:
    """How likely the original's own words are to the edited model: exp(-KL), their geometric mean over tokens."""
    if divergence is None:
        return []
    kl, low, high = (divergence[name] for name in ("kl", "low", "high"))
    mark: Mark = "held" if (kl if high is None else high) <= limit else "lost" if (low or 0.0) > limit else "not shown"
    least = None if high is None else math.exp(-high) - 1
    most = None if low is None else math.exp(-low) - 1
    likelihood, what = math.exp(-kl), "Likelihood of neutral text"
    return [Line(what, "neutral", "", 1, 1.0, likelihood, likelihood - 1, least, most, True, mark)]


def _line(
    metric: Metric, task: Mapping[str, Any], among: int, mark: Mark, what: str | None = None, term: str | None = None
) -> Line:
    before, after = task["before"][metric.name], task["after"].get(metric.name)
    found = task["statistics"][metric.name]
    change, low, high = (found[name] for name in ("value", "low", "high"))
    if metric.name == "accuracy_ambiguous" and what is None:
        before, after = (None if value is None else 1 - value for value in (before, after))
        change, low, high = (None if value is None else 0.0 - value for value in (change, high, low))
        what, term = "Guesses where the context does not tell", "guess"
    share = metric.better != "target"
    if metric.name == "accuracy" and what is None:
        what, term = "Right answers", "right answers"
    named = what or words.sentence(words.column_name(metric)).removesuffix(".")
    of_bias = "bias score" if metric.name.startswith("bias_score") else metric.label
    term = term or {"accuracy_disambiguated": "disambiguated"}.get(metric.name, of_bias)
    return Line(named, term, words.short(task["name"]), among, before, after, change, low, high, share, mark)


def _ends(metric: Metric, task: Mapping[str, Any]) -> tuple[float, float] | None:
    """What is gained at both ends of a difference's 95 % interval; both 0 where none is shown; None without one."""
    before, found = task["before"].get(metric.name), task.get("statistics", {}).get(metric.name)
    if before is None or found is None or found["low"] is None or found["high"] is None:
        return None
    if not words.is_difference(found):
        return 0.0, 0.0
    return metric.gain(before, before + found["low"]), metric.gain(before, before + found["high"])


def _least(metric: Metric, task: Mapping[str, Any]) -> float:
    """The gain at the worse end of the interval; minus infinity where there is none."""
    before, found = task["before"][metric.name], task["statistics"][metric.name]
    if found["low"] is None or found["high"] is None:
        return -math.inf
    return float(min(metric.gain(before, before + found[end]) for end in ("low", "high")))


def _better(metric: Metric, task: Mapping[str, Any]) -> Mark:
    """Whether a gain is certain ("held"), a loss is, or neither."""
    ends = _ends(metric, task)
    if ends is None or min(ends) <= 0 <= max(ends):
        return "not shown"
    return "held" if min(ends) > 0 else "lost"


def _kept(metric: Metric, task: Mapping[str, Any], limit: float) -> Mark:
    """Whether a loss beyond the limit is excluded, a loss is certain, or neither."""
    ends = _ends(metric, task)
    if ends is not None and max(ends) < 0:
        return "lost"
    return "held" if _least(metric, task) >= -limit else "not shown"
