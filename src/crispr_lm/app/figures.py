"""The page's figures: option probabilities, and which neuron fires on which token. Text in them is never markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from torch import Tensor

from crispr_lm.edits.neuron_activity import Firing
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.report.figures import plain
from crispr_lm.report.neuron_map import layer_of

GRID = "rgba(128, 140, 155, 0.25)"
ORIGINAL, EDITED = "#9aa5b4", "#2f7ed8"
LONGEST_LABEL = 48
ROW_HEIGHT = 22
FULL_COLOUR = 0.95
SHOWN_TOKENS = 400
"""A heat map of more tokens can't be read."""


def shortened(text: str, longest: int = LONGEST_LABEL) -> str:
    """Text cut at its end to fit."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def options(
    names: Sequence[str], original: Sequence[float], edited: Sequence[float], right: int | None, edited_name: str
) -> go.Figure:
    """Probability of each option, original and edited; the right one is marked."""
    labels = [("✓ " if index == right else "") + plain(shortened(name)) for index, name in enumerate(names)]
    # By position: two options may be alike in what is left of them.
    places = list(range(len(names)))
    figure = go.Figure(
        [
            _bars("original", places, original, ORIGINAL),
            _bars(edited_name, places, edited, EDITED),
        ]
    )
    figure.update_layout(
        barmode="group",
        height=110 + 62 * len(names),
        margin={"l": 10, "r": 44, "t": 44, "b": 30},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"range": [0, 1.08], "tickformat": ".0%", "fixedrange": True, "gridcolor": GRID, "zerolinecolor": GRID},
        yaxis={"tickvals": places, "ticktext": labels, "autorange": "reversed", "fixedrange": True, "automargin": True}
        | {"ticks": "outside", "ticklen": 6, "tickcolor": "rgba(0,0,0,0)"},  # a gap before the bars
        **_transparent(),
    )
    return figure


def placeholder(text: str) -> go.Figure:
    """Words in a figure's place until there is one: Gradio's own placeholder is an error to screen readers."""
    figure = go.Figure()
    figure.add_annotation(text=plain(text), showarrow=False)
    figure.update_layout(height=110, xaxis={"visible": False}, yaxis={"visible": False}, **_transparent())
    return figure


def _bars(name: str, places: Sequence[int], values: Sequence[float], colour: str) -> go.Bar:
    return go.Bar(
        name=name,
        x=list(values),
        y=list(places),
        orientation="h",
        marker_color=colour,
        text=[f"{value:.1%}" for value in values],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )


def heat_map(found: Firing) -> go.Figure:
    """Activation of each neuron on each token; hover shows the figure.

    A neuron's colours are relative to its own activations (full at `FULL_COLOUR` of them by size): neurons differ by
    orders of magnitude, and so do a sequence's first token and its others.
    """
    tokens = found.tokens[:SHOWN_TOKENS]
    values = found.values[:, : len(tokens)]
    reach = values.abs().nanquantile(FULL_COLOUR, dim=1, keepdim=True).nan_to_num(nan=1.0).clamp(min=1e-12)
    shades = (values / reach).clamp(-1, 1)
    hover = [plain(repr(token)) for token in tokens]
    names = [neuron_name(neuron) for neuron in found.neurons]
    figure = go.Figure(
        go.Heatmap(
            z=_known(shades),
            x=list(range(len(tokens))),
            y=list(range(len(names))),
            customdata=[
                [
                    f"{plain(name)}<br>token {token}<br>activation {value:+.3f}"
                    for token, value in zip(hover, row, strict=True)
                ]
                for name, row in zip(names, values.tolist(), strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
            colorscale="RdBu_r",
            zmin=-1,
            zmax=1,
            showscale=False,
        )
    )
    figure.update_layout(
        height=150 + ROW_HEIGHT * max(4, len(names)),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={
            "tickvals": list(range(len(tokens))),
            "ticktext": [plain(shortened(token, 16)) for token in tokens],
            "tickangle": -60,
            "tickfont": {"size": 10},
            "automargin": True,
        },
        yaxis={
            "tickvals": list(range(len(names))),
            "ticktext": [plain(name) for name in names],
            "autorange": "reversed",
            "automargin": True,
        },
        **_transparent(),
    )
    return figure


def _known(values: Tensor) -> list[list[float | None]]:
    return [[None if value != value else value for value in row] for row in values.tolist()]


def neuron_name(neuron: Neuron) -> str:
    """Layer, module and unit."""
    layer, module = layer_of(neuron.module)
    return f"layer {layer}, {module}, unit {neuron.index}" if layer >= 0 else f"{module}, unit {neuron.index}"


def _transparent() -> dict[str, Any]:
    return {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#7b8794"}}
