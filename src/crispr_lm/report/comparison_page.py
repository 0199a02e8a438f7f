"""``comparison.html``: a comparison as one self-contained page. Reads ``comparison.json``'s dictionary, no model.

Looks and behaves as ``report.html`` (`crispr_lm.report.page`), whose style, script and escaping it shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from crispr_lm.report import figures, words
from crispr_lm.report.comparison import main_metrics, tables
from crispr_lm.report.page import figure_data, page_environment, shared_assets

KIND_COLOURS = {"original": "#8a94a6", "library": "#c0392b", "control": "#9b59b6", "baseline": "#2f7ed8"}

NEAR = 0.08
"""Differences from the original up to which a point has no name beside it."""


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """The page as text."""
    identity = comparison["record"]["identity"]
    drawn: dict[str, go.Figure | None] = {}
    for number, task in enumerate(comparison["tasks"].values()):
        drawn[f"{number}-methods"] = _methods(task, comparison["methods"])
    curves = comparison["curves"] or {}
    for number, (name, of_task) in enumerate(curves.items()):
        metrics = main_metrics(comparison["tasks"][name])
        for what, axis in (("neurons", "neurons eliminated"), ("examples", "attribution examples")):
            drawn[f"{number}-{what}"] = _curve(of_task[what], metrics, axis)
    transfer = _transfers(comparison) if comparison["transfer"] is not None else {}
    drawn |= transfer
    tabs = [("methods", "Methods"), ("tables", "All figures")]
    tabs += [("transfer", "Transfer")] if transfer else []
    tabs += [("curves", "Curves")] if curves else []
    return (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            **shared_assets(),
            identity=identity,
            versions=comparison["record"]["versions"],
            tabs=[*tabs, ("record", "Record")],
            methods=[words.short(name) for name in comparison["tasks"]],
            described=list(comparison["methods"].values()),
            tables=list(tables(comparison)),
            transfer=list(transfer),
            curves=[words.short(name) for name in curves],
            figures={name: figure_data(figure) for name, figure in drawn.items() if figure is not None},
        )
    )


def _methods(task: Mapping[str, Any], methods: Mapping[str, Any]) -> go.Figure:
    """A point per method: what it gains over what it costs; with one metric only, that alone on a row per method."""
    metrics = main_metrics(task)
    original = next(iter(task["rows"]["original"]["measured"].values()))["metrics"]
    figure = go.Figure()
    named: set[tuple[int, ...]] = set()
    for kind, colour in KIND_COLOURS.items():
        points = []
        for method, row in task["rows"].items():
            if methods[method]["kind"] != kind or row["status"] != "done":
                continue
            of_metric = next(iter(row["measured"].values()))["metrics"]
            if all(of_metric.get(metric) is not None for metric in metrics):
                points.append((figures.plain(methods[method]["label"]), [of_metric[metric] for metric in metrics]))
        if points:
            figure.add_trace(
                _points_on_rows(points) if len(metrics) == 1 else _points(points, original, metrics, named)
            )
            figure.data[-1].update(
                name=kind, marker=figures.ring(colour) if kind == "original" else {"color": colour, "size": 10}
            )
    if original[metrics[-1]] is not None:
        figure.add_vline(x=original[metrics[-1]], line={"color": KIND_COLOURS["original"], "dash": "dot"})
    if len(metrics) == 1:
        labels = [figures.plain(methods[method]["label"]) for method in task["rows"]]
        figure.update_xaxes(title=_title(metrics[0]))
        figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=labels)
        return figures.styled(figure.update_layout(height=120 + figures.ROW_HEIGHT * len(labels)))
    figure.update_xaxes(title=_title(metrics[-1]), range=[0, 1])
    figure.update_yaxes(title=_title(metrics[0]), range=[0, 1])
    return figures.styled(figure.update_layout(height=520))


def _points(
    points: Sequence[tuple[str, list[float]]],
    original: Mapping[str, float | None],
    metrics: Sequence[str],
    named: set[tuple[int, ...]],
) -> go.Scatter:
    """Methods as points of the plane. Names that would hide those at `named` places are shown on hover alone."""
    texts = []
    for label, values in points:
        place = tuple(round(value / NEAR) for value in values)
        texts.append(label if _moved(values, original, metrics) and place not in named else "")
        named.add(place)
    return go.Scatter(
        x=[values[-1] for _, values in points],
        y=[values[0] for _, values in points],
        text=texts,
        customdata=[label for label, _ in points],
        mode="markers+text",
        cliponaxis=False,
        textposition="top center",
        textfont={"size": 11},
        hovertemplate="%{customdata}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
    )


def _points_on_rows(points: Sequence[tuple[str, list[float]]]) -> go.Scatter:
    return go.Scatter(
        x=[values[0] for _, values in points],
        y=[label for label, _ in points],
        mode="markers",
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )


def _title(metric: str) -> str:
    """A metric as the title of an axis."""
    return words.BRIEFLY.get(metric) or metric.replace("_", ", ")


def _moved(values: Sequence[float], original: Mapping[str, float | None], metrics: Sequence[str]) -> bool:
    """Whether a method is far enough from the original for its name to be read."""
    return any(abs(value - (original[metric] or 0.0)) > NEAR for value, metric in zip(values, metrics, strict=True))


def _transfers(comparison: Mapping[str, Any]) -> dict[str, go.Figure]:
    """A matrix per metric: found on (rows), measured on (columns), difference from the original; and the overlap."""
    names = list(comparison["tasks"])
    differences = comparison["transfer"]["differences"]
    drawn: dict[str, go.Figure] = {}
    for metric in dict.fromkeys(metric for task in comparison["tasks"].values() for metric in main_metrics(task)):
        measured = [name for name in names if metric in main_metrics(comparison["tasks"][name])]
        values = [[_change(differences[fitted].get(name), metric) for name in measured] for fitted in names]
        figure = _matrix(names, measured, values, (-1, 1), "RdBu", _title(metric).replace(", ", ",<br>"))
        figure.data[0].update(
            texttemplate="%{z:+.3f}",
            customdata=[[_hover(differences[fitted].get(name), metric) for name in measured] for fitted in names],
            hovertemplate="found on %{y}, measured on %{x}:<br>%{customdata}<extra></extra>",
        )
        drawn[f"transfer-{metric}"] = figure
    overlaps = comparison["transfer"]["overlap"]
    shares = [[overlaps[first][second]["jaccard"] for second in names] for first in names]
    figure = _matrix(names, names, shares, (0, 1), "Blues", "edits in<br>common")
    figure.data[0].update(
        text=[[f"{overlaps[one][two]['common']} of {overlaps[one][two]['first']}" for two in names] for one in names],
        texttemplate="%{text} (%{z:.2f})",
        hovertemplate="%{y} and %{x}: %{text} neurons, Jaccard %{z:.2f}<extra></extra>",
    )
    drawn["transfer-overlap"] = figure
    return drawn


def _matrix(
    rows: Sequence[str], columns: Sequence[str], values: Any, ends: tuple[int, int], colours: str, title: str
) -> go.Figure:
    """Tasks by tasks."""
    figure = go.Figure(
        go.Heatmap(
            x=[figures.plain(words.short(name)) for name in columns],
            y=[figures.plain(words.short(name)) for name in rows],
            z=values,
            zmin=ends[0],
            zmax=ends[1],
            colorscale=colours,
            colorbar={"title": title},
        )
    )
    figure.update_yaxes(autorange="reversed")
    return figures.styled(figure.update_layout(height=160 + 60 * len(rows)))


def _hover(measured: Mapping[str, Any] | None, metric: str) -> str:
    """The difference with its interval and test."""
    found = None if measured is None else measured["differences"].get(metric)
    return "not measured" if found is None else figures.plain(words.difference_text(found))


def _change(measured: Mapping[str, Any] | None, metric: str) -> float | None:
    if measured is None:
        return None
    found = measured["differences"].get(metric)
    return None if found is None else found["value"]


def _curve(points: Any, metrics: list[str], axis: str) -> go.Figure | None:
    """Metrics over a number, with the 95 % interval of their difference from the original."""
    figure = go.Figure()
    for metric, colour in zip(metrics, (figures.AMBIGUOUS, figures.DISAMBIGUATED), strict=False):
        known = [point for point in points if point["metrics"].get(metric) is not None]
        if not known:
            continue
        found = [point["differences"][metric] for point in known]
        figure.add_trace(
            go.Scatter(
                x=[str(point["point"]) for point in known],
                y=[point["metrics"][metric] for point in known],
                mode="lines+markers",
                name=_title(metric),
                line={"color": colour},
                error_y={
                    "type": "data",
                    "array": [0 if one["high"] is None else one["high"] - one["value"] for one in found],
                    "arrayminus": [0 if one["low"] is None else one["value"] - one["low"] for one in found],
                    "thickness": 1,
                },
            )
        )
    if not figure.data:
        return None
    figure.update_xaxes(title=axis, type="category")
    lowest = min(value for trace in figure.data for value in trace.y)
    figure.update_yaxes(range=[min(0, 1.5 * lowest), 1], tickformat=".0%")
    figure.update_traces(cliponaxis=False)
    figure.update_layout(height=360)
    return figures.styled(figure)
