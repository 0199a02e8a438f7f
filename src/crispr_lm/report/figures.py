"""Plotly figures from result dictionaries, as JSON that the page draws. Knows no model and no page layout."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from crispr_lm.report import words
from crispr_lm.report.words import short

if TYPE_CHECKING:
    pass

BEFORE, AFTER = "#8a94a6", "#2f7ed8"
AMBIGUOUS, DISAMBIGUATED = "#2f7ed8", "#c26f14"
ROW_HEIGHT = 34
"""Pixels per row of a figure with names down its side."""


def before_after(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> go.Figure | None:
    """Accuracy (or what else leads) before and after, a row per name and condition, with intervals of the difference.

    Args:
        rows: Name and figures (``family``, ``before``, ``after``, ``statistics``) of tasks or categories.
    """
    names, shown, old, new, low, high = [], [], [], [], [], []
    for name, task in rows:
        for metric in words.leading(task["family"], task["before"]):
            before, after = task["before"][metric.name], task["after"][metric.name]
            if after is None or metric.name == "perplexity":  # no share
                continue
            found = task["statistics"][metric.name]
            label = f"{short(name)}, {words.column_name(metric)}"
            names.append(plain(label))
            shown.append(plain(clipped(label)))
            old.append(before)
            new.append(after)
            least = 0.0 if min(before, after) >= 0 else -1.0  # no share is below 0, no score below -1
            over = (found["high"] if found["high"] is not None else found["value"]) - found["value"]
            under = found["value"] - (found["low"] if found["low"] is not None else found["value"])
            high.append(max(0.0, min(over, 1.0 - after)))
            low.append(max(0.0, min(under, after - least)))
    if not names:
        return None
    figure = go.Figure()
    for name, before, after in zip(names, old, new, strict=True):
        figure.add_trace(
            go.Scatter(
                x=[before, after], y=[name, name], mode="lines", line={"color": BEFORE, "width": 2}, showlegend=False,
                hoverinfo="skip",
            )
        )  # fmt: skip
    figure.add_trace(go.Scatter(x=old, y=names, mode="markers", name="before", marker=ring(BEFORE), cliponaxis=False))
    figure.add_trace(
        go.Scatter(
            x=new,
            y=names,
            mode="markers",
            name="after (bar: 95 % interval of the difference)",
            marker={"color": AFTER, "size": 9},
            cliponaxis=False,
            error_x={"type": "data", "array": high, "arrayminus": low, "color": AFTER, "thickness": 1.5},
        )
    )
    figure.update_layout(height=120 + ROW_HEIGHT * len(names), meta={"rows": True})
    accuracies = all(name.endswith((*words.HALVES.values(), "all questions")) for name in names)
    figure.update_xaxes(
        range=[start_of([*old, *new]), 1], tickformat=".0%", title="accuracy" if accuracies else "share"
    )
    figure.update_yaxes(autorange="reversed", tickmode="array", tickvals=names, ticktext=shown)
    # Room between labels and axis, for what stands at 0.
    figure.update_yaxes(ticks="outside", ticklen=8, tickcolor="rgba(0,0,0,0)")
    return styled(figure)


def start_of(values: Sequence[float]) -> float:
    """Where an axis of shares begins: at 0, or at the tenth below the lowest of differences that are negative."""
    return min(0.0, math.floor(10 * min(values)) / 10)


def ring(colour: str) -> dict[str, Any]:
    """A marker within which a dot at the same place is seen."""
    return {"color": colour, "size": 15, "symbol": "circle-open", "line": {"width": 2.5}}


def plain(text: str) -> str:
    """Text as Plotly shows it unchanged (it reads some tags in labels, links among them), on one line."""
    return html.escape(" ".join(text.split()), quote=False)


def clipped(name: str, most: int = 44) -> str:
    """A name that leaves room for the figure beside it: its end matters more than its middle."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def styled(figure: go.Figure) -> go.Figure:
    """Transparent, so that the page's light or dark ground shows; text colours are set by the page."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 10, "r": 24, "t": 10, "b": 50},  # the last share stands half beyond the axis
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.6)")
    figure.update_yaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.6)")
    return figure
