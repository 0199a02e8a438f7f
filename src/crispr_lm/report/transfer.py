"""What an edit does to every bias task, also to those that it was not found on: rows measured, columns found on.

Reads result dictionaries only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from crispr_lm.metrics.family import Metric
from crispr_lm.report import figures, words

WORSE, SAME, BETTER = "rgba(192,57,43,0.75)", "rgba(128,128,128,0.08)", "rgba(47,126,216,0.75)"
"""Seen on light and on dark ground."""

LONGEST = 26
"""Letters of a task's name in a head or at the side."""

LEAST_RANGE = 0.1
"""Differences below this are pale, however small all of them are."""


@dataclass(frozen=True)
class Column:
    """An edit.

    Attributes:
        found_on: The tasks that its neurons were found on.
        neurons: How many there are.
        measured: Task name to its figures after the edit and their differences from the original.
    """

    found_on: tuple[str, ...]
    neurons: int
    measured: Mapping[str, Mapping[str, Any]]


def columns_of(results: Mapping[str, Any], found_on: Sequence[str]) -> list[Column]:
    """The run's edit, and those of each task alone where the run has made them; without neurons there is no column."""
    columns = [Column(tuple(found_on), results["edit"]["neurons"], results["tasks"])]
    for name, alone in results.get("transfer", {}).items():
        columns.append(Column((name,), len(alone["neurons"]), alone["tasks"]))
    return [column for column in columns if column.neurons]


def rows_of(results: Mapping[str, Any]) -> list[tuple[str, Metric]]:
    """The figures that stand for each bias task: task name and metric."""
    return [
        (name, metric)
        for name, task in results["tasks"].items()
        if task["role"] == "bias"
        for metric in words.leading(task["family"], task["before"])
    ]


def transfer_figure(results: Mapping[str, Any], columns: Sequence[Column]) -> go.Figure | None:
    """The matrix: difference from the original with its 95 % interval; tasks that an edit was found on are framed."""
    rows = rows_of(results)
    if not columns or not rows:
        return None
    figure = go.Figure()
    colours, hovers = [], []
    for place, (name, metric) in enumerate(rows):
        before = results["tasks"][name]["before"][metric.name]
        colours.append([_gain(metric, before, column.measured.get(name)) for column in columns])
        hovers.append([_hover(name, metric, before, column) for column in columns])
        for number, column in enumerate(columns):
            figure.add_annotation(
                x=number, y=place, text=_difference(column.measured.get(name), metric), showarrow=False
            )
            if name in column.found_on:
                corners = {"x0": number - 0.47, "x1": number + 0.47, "y0": place - 0.42, "y1": place + 0.42}
                figure.add_shape(type="rect", line={"color": figures.BEFORE, "width": 2}, **corners)
    reach = max([LEAST_RANGE, *(abs(gain) for row in colours for gain in row if gain is not None)])
    figure.add_trace(
        go.Heatmap(
            z=colours,
            x=list(range(len(columns))),
            y=list(range(len(rows))),
            zmin=-reach,
            zmax=reach,
            colorscale=[[0, WORSE], [0.5, SAME], [1, BETTER]],
            showscale=False,
            customdata=hovers,
            hovertemplate="%{customdata}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    )
    figure.update_layout(height=130 + figures.ROW_HEIGHT * len(rows))
    figure.update_xaxes(
        side="top",
        tickvals=list(range(len(columns))),
        ticktext=[_head(column) for column in columns],
        range=[-0.5, len(columns) - 0.5],
    )
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[f"{_name(name)}<br>{figures.plain(words.column_name(metric))}" for name, metric in rows],
        range=[len(rows) - 0.5, -0.5],
    )
    bare = {"showgrid": False, "zeroline": False, "ticks": ""}
    return figures.styled(figure).update_xaxes(bare).update_yaxes(bare)


def _name(task: str) -> str:
    return figures.plain(figures.clipped(words.short(task), LONGEST))


def _head(column: Column) -> str:
    count = len(column.found_on)
    where = _name(column.found_on[0]) if count == 1 else "both together" if count == 2 else f"all {count} together"
    return f"found on {where}<br>{column.neurons} neuron{'' if column.neurons == 1 else 's'}"


def _found(measured: Mapping[str, Any] | None, metric: Metric) -> Mapping[str, Any] | None:
    found = None if measured is None else measured["statistics"].get(metric.name)
    return None if found is None or found["value"] is None else found


def _gain(metric: Metric, before: float, measured: Mapping[str, Any] | None) -> float | None:
    """How much better, whatever direction that is; None where it was not measured."""
    found = _found(measured, metric)
    return None if found is None else metric.gain(before, before + found["value"])


def _difference(measured: Mapping[str, Any] | None, metric: Metric) -> str:
    found = _found(measured, metric)
    if found is None:
        return "-"
    low, high = found["low"], found["high"]
    interval = "" if low is None or high is None else f" ({words.signed(low)} to {words.signed(high)})"
    return words.signed(found["value"]) + interval


def _hover(name: str, metric: Metric, before: float, column: Column) -> str:
    measured = column.measured.get(name)
    after = None if measured is None else measured["after"].get(metric.name)
    if after is None:
        return "not measured"
    own = "found on it, measured on other templates" if name in column.found_on else "not found on it"
    found = _found(measured, metric)
    tested = "" if found is None else words.significance(found, before="; ")
    difference = _difference(measured, metric) + tested
    lines = (f"{words.short(name)} ({own})", metric.label, f"{before:.3f} to {after:.3f}", difference)
    return "<br>".join(map(figures.plain, lines))
