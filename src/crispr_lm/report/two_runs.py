"""``crispr-lm report A B``: two finished runs beside each other as one self-contained page.

Looks and behaves as ``report.html`` (`crispr_lm.report.page`). Reads result files only, never a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go

from crispr_lm.errors import InputError, on_one_line
from crispr_lm.metrics.registry import ordered_metrics
from crispr_lm.report import figures, words
from crispr_lm.report.changed import best_options
from crispr_lm.report.page import figure_data, page_environment, shared_assets
from crispr_lm.report.shared import shared_record
from crispr_lm.report.summary import headline, six_lines
from crispr_lm.storage.answers import read_answers
from crispr_lm.storage.files import write_bytes
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import RunFolder

FIRST, SECOND = "#2f7ed8", "#c26f14"

NO_SETTING = "-"


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run left behind.

    Attributes:
        name: Of its folder.
        run: Its record, as it may be shared.
        results: Its figures.
        edit: Its edit.
        answers: What was asked and answered.
    """

    name: str
    run: Mapping[str, Any]
    results: Mapping[str, Any]
    edit: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]


def read_run(path: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        InputError: the folder holds none.
    """
    folder = RunFolder(path)
    record, results, edit = read_object(folder.run), read_object(folder.results), read_object(folder.edit)
    return FinishedRun(path.resolve().name, shared_record(record), results, edit, read_answers(folder.answers))


def write_two_runs(first: Path, second: Path, output: Path) -> Path:
    """Write the page that compares two finished runs.

    Args:
        first: Folder of a run.
        second: Folder of another one.
        output: File to write.

    Raises:
        InputError: a folder holds no finished run, or both runs measured no task in common.
    """
    try:
        content = render_two_runs(read_run(first), read_run(second))
    except InputError:  # a ValueError, which says itself what is wrong
        raise
    except (jinja2.TemplateError, *MALFORMED) as error:
        wrong = next((path for path in (first, second) if _is_malformed(path)), f"{first} or {second}")
        raise InputError(
            f"{wrong} is not what this version's crispr-lm run writes ({on_one_line(error)}); run it anew"
        ) from error
    write_bytes(output, content.encode("utf-8"))
    return output


def _is_malformed(path: Path) -> bool:
    """Whether a run can't even be compared with itself."""
    try:
        run = read_run(path)
        render_two_runs(run, run)
    except (jinja2.TemplateError, *MALFORMED):
        return True
    return False


def render_two_runs(first: FinishedRun, second: FinishedRun) -> str:
    """The page as text.

    Raises:
        InputError: both runs measured no task in common.
    """
    common = [name for name in first.results["tasks"] if name in second.results["tasks"]]
    if not common:
        raise InputError("the two runs measured no task in common; there is nothing to compare")
    names = (first.name, second.name) if first.name != second.name else ("first", "second")
    drawn = _afters(first.results, second.results, common, names)
    return (
        page_environment()
        .get_template("two_runs.html.j2")
        .render(
            **shared_assets(),
            names=names,
            runs=[first, second],
            headlines=[headline(run.results) for run in (first, second)],
            doubts=_doubts(first, second),
            lines=_lines(first.results, second.results),
            tables={name: _table(first.results["tasks"][name], second.results["tasks"][name]) for name in common},
            left_out=sorted({*first.results["tasks"], *second.results["tasks"]} - set(common)),
            neurons=_overlap(first.edit, second.edit),
            settings=_differing(first.run["identity"]["settings"], second.run["identity"]["settings"]),
            answers=both_right(first.answers, second.answers),
            figures={} if drawn is None else {"afters": figure_data(drawn)},
        )
    )


def _doubts(first: FinishedRun, second: FinishedRun) -> list[str]:
    """What makes the two hard to compare, a sentence each."""
    one, other = first.run["identity"], second.run["identity"]
    found = []
    if one["model_fingerprint"] != other["model_fingerprint"]:
        found.append("The runs are of different models, so the originals differ too.")
    if {_asked(row) for row in first.answers} != {_asked(row) for row in second.answers}:
        found.append("The runs did not measure the same questions; part of each difference is due to that.")
    return found


def _lines(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The six lines of both, where both have one."""
    others = {line.what: line for line in six_lines(second)}
    pairs = [(line, others.get(line.what)) for line in six_lines(first)]
    return [{"what": line.what, "runs": [line, other]} for line, other in pairs if other is not None]


def _table(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every metric of a task that both measured: before and after of both, and the difference of the afters."""
    rows = []
    for metric in ordered_metrics(one["family"], one["before"]):
        values = [task[when].get(metric.name) for task in (one, other) for when in ("before", "after")]
        gap = None if values[1] is None or values[3] is None else values[3] - values[1]
        rows.append({"label": metric.label, "values": values, "difference": gap})
    return rows


def _overlap(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, int]:
    """How many neurons each edit has, and how many are in both."""
    one, other = ({tuple(neuron) for neuron in edit["neurons"]} for edit in (first, second))
    return {"first": len(one), "second": len(other), "common": len(one & other)}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings that differ, with both values."""
    names = sorted({*one, *other})
    found = [(name, one.get(name, NO_SETTING), other.get(name, NO_SETTING)) for name in names]
    return [row for row in found if row[1] != row[2]]


def both_right(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By condition, how many questions that both were asked are right after both edits, after one alone, after none.

    A question counts as right where it is under most instructions.
    """
    others = {_asked(row): row for row in second}
    counts: dict[str, Counter[tuple[bool, bool]]] = {}
    for row in first:
        if (other := others.get(_asked(row))) is not None:
            counts.setdefault(row["condition"] or "no condition", Counter())[_right(row), _right(other)] += 1
    return [
        {
            "condition": condition,
            "both": count[True, True],
            "first": count[True, False],
            "second": count[False, True],
            "none": count[False, False],
        }
        for condition, count in counts.items()
    ]


def _asked(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["context"], row["question"], tuple(row["options"])


def _right(row: Mapping[str, Any]) -> bool:
    chosen = best_options(row["scores"]["after"])
    answer: int = row["answer"]
    return 2 * chosen.count(answer) > len(chosen)


def _afters(
    first: Mapping[str, Any], second: Mapping[str, Any], common: Sequence[str], names: tuple[str, str]
) -> go.Figure | None:
    """What leads each common task: the original of the first run, and both edited models."""
    rows = [
        (name, metric)
        for name in common
        for metric in words.leading(first["tasks"][name]["family"], first["tasks"][name]["before"])
        if metric.name != "perplexity" and second["tasks"][name]["after"].get(metric.name) is not None
    ]
    if not rows:
        return None
    labels = [figures.plain(f"{words.short(name)}, {words.column_name(metric)}") for name, metric in rows]
    figure = go.Figure()
    for title, results, when, marker in (
        ("original", first, "before", figures.ring(figures.BEFORE)),
        (names[0], first, "after", {"color": FIRST, "size": 11}),
        (names[1], second, "after", {"color": SECOND, "size": 11, "symbol": "diamond-open", "line": {"width": 2.5}}),
    ):
        values = [results["tasks"][name][when][metric.name] for name, metric in rows]
        figure.add_trace(
            go.Scatter(x=values, y=labels, mode="markers", name=figures.plain(title), marker=marker, cliponaxis=False)
        )
    figure.update_layout(height=120 + figures.ROW_HEIGHT * len(rows), meta={"rows": True})
    figure.update_xaxes(
        range=[figures.start_of([value for trace in figure.data for value in trace.x]), 1], tickformat=".0%"
    )
    shown = [figures.plain(figures.clipped(label)) for label in labels]
    figure.update_yaxes(autorange="reversed", tickmode="array", tickvals=labels, ticktext=shown)
    return figures.styled(figure)
