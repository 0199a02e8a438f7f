"""``comparison.html``: a comparison as one self-contained page. Reads ``comparison.json``'s dictionary, no model.

Looks and behaves as ``report.html`` (`crispr_lm.report.page`), whose style, script and escaping it shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from crispr_lm.report import figures
from crispr_lm.report.comparison import main_metrics, tables
from crispr_lm.report.page import figure_data, page_environment, shared_assets

KIND_COLOURS = {"original": "#8a94a6", "crispr": "#c0392b", "control": "#9b59b6", "baseline": "#2f7ed8"}

NEAR = 0.08
"""Differences from the original up to which a point has no name beside it."""


def render_comparison(told: Mapping[str, Any]) -> str:
    """The page as text."""
    identity = told["record"]["identity"]
    drawn: dict[str, go.Figure | None] = {}
    for number, task in enumerate(told["tasks"].values()):
        drawn[f"{number}-methods"] = _methods(task, told["methods"])
    curves = told["curves"] or {}
    for number, (name, of_task) in enumerate(curves.items()):
        metrics = main_metrics(told["tasks"][name])
        for what, axis in (("neurons", "neurons eliminated"), ("examples", "fit examples")):
            drawn[f"{number}-{what}"] = _curve(of_task[what], metrics, axis)
    transfer = _transfers(told) if told["transfer"] is not None else {}
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
            versions=told["record"]["versions"],
            tabs=[*tabs, ("record", "Record")],
            methods=[figures.short(name) for name in told["tasks"]],
            described=list(told["methods"].values()),
            tables=list(tables(told)),
            transfer=list(transfer),
            curves=[figures.short(name) for name in curves],
            figures={name: figure_data(figure) for name, figure in drawn.items() if figure is not None},
        )
    )


def _methods(task: Mapping[str, Any], methods: Mapping[str, Any]) -> go.Figure | None:
    """A point per method: what it gains over what it costs; with one metric only, that alone."""
    metrics = main_metrics(task)
    original = next(iter(task["rows"]["original"]["measured"].values()))["metrics"]
    figure = go.Figure()
    for kind, colour in KIND_COLOURS.items():
        points = []
        for method, row in task["rows"].items():
            if methods[method]["kind"] != kind or row["status"] != "done":
                continue
            of_metric = next(iter(row["measured"].values()))["metrics"]
            if all(of_metric.get(metric) is not None for metric in metrics):
                points.append((figures.plain(methods[method]["label"]), *(of_metric[metric] for metric in metrics)))
        if points:
            figure.add_trace(
                go.Scatter(
                    x=[point[-1] for point in points],
                    y=[point[1] for point in points],
                    # Names of methods that hardly do anything would hide each other; they are told on hover.
                    text=[point[0] if _moved(point[1:], original, metrics) else "" for point in points],
                    customdata=[point[0] for point in points],
                    mode="markers+text",
                    textposition="top center",
                    textfont={"size": 11},
                    name=kind,
                    marker={"color": colour, "size": 12},
                    hovertemplate="%{customdata}<br>%{x:.3f}, %{y:.3f}<extra></extra>",
                )
            )
    if original[metrics[-1]] is not None:
        figure.add_vline(x=original[metrics[-1]], line={"color": KIND_COLOURS["original"], "dash": "dot"})
    figure.update_xaxes(title=metrics[-1].replace("_", ", "), range=[-0.05, 1.05])
    figure.update_yaxes(title=metrics[0].replace("_", ", "), range=[-0.05, 1.1])
    figure.update_layout(height=520)
    return figures.styled(figure)


def _moved(values: Sequence[float], original: Mapping[str, float | None], metrics: Sequence[str]) -> bool:
    """Whether a method is far enough from the original for its name to be read."""
    return any(abs(value - (original[metric] or 0.0)) > NEAR for value, metric in zip(values, metrics, strict=True))


def _transfers(told: Mapping[str, Any]) -> dict[str, go.Figure | None]:
    """A matrix per metric: found on (rows), measured on (columns), difference from the original."""
    names = list(told["tasks"])
    shown = [figures.plain(figures.short(name)) for name in names]
    drawn: dict[str, go.Figure | None] = {}
    for metric in main_metrics(told["tasks"][names[0]]):
        values = [
            [_change(told["transfer"]["differences"][fitted].get(name), metric) for name in names] for fitted in names
        ]
        figure = go.Figure(
            go.Heatmap(
                x=shown,
                y=shown,
                z=values,
                zmin=-1,
                zmax=1,
                colorscale="RdBu",
                texttemplate="%{z:+.3f}",
                hovertemplate="found on %{y}, measured on %{x}: %{z:+.3f}<extra></extra>",
                colorbar={"title": metric.replace("_", ",<br>")},
            )
        )
        figure.update_yaxes(autorange="reversed")
        figure.update_layout(height=160 + 60 * len(names))
        drawn[f"transfer-{metric}"] = figures.styled(figure)
    return drawn


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
                name=metric.replace("_", ", "),
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
    figure.update_yaxes(range=[-0.05, 1.05], tickformat=".0%")
    figure.update_layout(height=360)
    return figures.styled(figure)
