"""The figure of a model's neurons: highest score by layer and module, with the edited ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from crispr_lm.report.figures import ROW_HEIGHT, plain, styled

if TYPE_CHECKING:
    from crispr_lm.attribution.neuron_scores import NeuronScores


ON_PALE, ON_DARK, ON_GROUND = "#1c2430", "#ffffff", "#2f7ed8"


MOST_LINES, LONGEST_LINE, LEAST_HEIGHT = 5, 90, 320
"""Neurons listed where the mouse points at a module, letters of a line, and pixels of the figure. A label that does not
fit into its figure is not shown at all."""


ROOM_BESIDE, COLUMN_WIDTH = 300, 20
"""Least pixels of a heat map for names and colours beside its cells, and of a cell with a number of two digits."""


@dataclass(frozen=True)
class NeuronLines:
    """Descriptions of a module's neurons, a line each.

    Attributes:
        strongest: Of the neuron of highest score.
        edited: Of those in the edit.
    """

    strongest: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As they stand under the module's name."""
        lines = [f"highest: {line}" for line in self.strongest]
        if self.edited:
            lines += [f"edited ({len(self.edited)}):", *self.edited[:MOST_LINES]]
        if len(self.edited) > MOST_LINES:
            lines.append(f"and {len(self.edited) - MOST_LINES} more, in the table below")
        return lines


def neuron_map(
    scores: NeuronScores, edited: Sequence[Sequence[Any]], described: Mapping[tuple[str, str], NeuronLines]
) -> go.Figure:
    """Highest score by layer and module, with the number of edited neurons in each.

    Neurons of another kind than the scores' (a search may take either) have rows of their own, without a colour.

    Args:
        scores: Of every neuron.
        edited: The edit's neurons as [kind, module, index].
        described: Kind and module to the descriptions of its neurons.
    """
    counts = Counter((kind, module) for kind, module, _ in edited)
    cells = dict.fromkeys([*((scores.kind, module) for module in scores.values), *counts])
    layers = sorted({layer_of(module)[0] for _, module in cells})
    scored = [_row_of(kind, module, scores) for kind, module in cells if kind == scores.kind]
    # An edit has its neurons in the order in which they were found: here modules of one block stand together.
    others = sorted(_row_of(kind, module, scores) for kind, module in cells if kind != scores.kind)
    rows = list(dict.fromkeys([*scored, *others]))
    highest = np.full((len(rows), len(layers)), np.nan)
    texts = [["" for _ in layers] for _ in rows]
    hovers = [["" for _ in layers] for _ in rows]
    for kind, module in cells:
        row, column = rows.index(_row_of(kind, module, scores)), layers.index(layer_of(module)[0])
        lines = [plain(module)]
        if kind == scores.kind:
            values = scores.values[module]
            highest[row, column] = float(values.max())
            if not described.get((kind, module), NeuronLines()).strongest:
                lines.append(f"highest: unit {int(values.argmax())}: score {float(values.max()):.3g}")
        else:
            lines.append(f"{kind} neurons; scores are of {scores.kind} neurons")
        texts[row][column] = str(counts[kind, module] or "")
        hovers[row][column] = "<br>".join([*lines, *described.get((kind, module), NeuronLines()).lines()])
    figure = go.Figure(
        go.Heatmap(
            z=highest.tolist(),
            x=[str(layer) if layer >= 0 else "outside" for layer in layers],
            y=[plain(row) for row in rows],
            customdata=hovers,
            hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=True,
            hoverlabel={"align": "left"},
            colorscale="Blues",
            colorbar={"title": "highest<br>score", "thickness": 12, "exponentformat": "power", "nticks": 4},
            xgap=1,
            ygap=1,
        )
    )
    figure.update_layout(
        height=max(LEAST_HEIGHT, 200 + ROW_HEIGHT * len(rows)),
        annotations=_counts(texts, highest, figure.data[0]),
        meta={"width": ROOM_BESIDE + COLUMN_WIDTH * len(layers)},
    )
    figure.update_xaxes(title="layer (number: edited neurons)", type="category")
    figure.update_yaxes(autorange="reversed", type="category")
    return styled(figure).update_layout(margin_t=40)  # room for the buttons above the colours


def _row_of(kind: str, module: str, scores: NeuronScores) -> str:
    name = layer_of(module)[1]
    return name if kind == scores.kind else f"{name} ({kind} neurons)"


def _counts(texts: Sequence[Sequence[str]], highest: np.ndarray[Any, Any], cells: Any) -> list[dict[str, Any]]:
    """Numbers on the cells of a heat map, readable on each of its colours and on cells without one."""
    known = highest[np.isfinite(highest)]
    dark = known.min() + 0.55 * (known.max() - known.min()) if known.size else 0.0
    notes = []
    for row, of_row in enumerate(texts):
        for column, text in enumerate(of_row):
            score = highest[row, column]
            colour = ON_GROUND if np.isnan(score) else ON_DARK if score > dark else ON_PALE
            if text:
                place = {"x": cells.x[column], "y": cells.y[row], "showarrow": False}
                notes.append({**place, "text": text, "font": {"color": colour}})
    return notes


def layer_of(module: str) -> tuple[int, str]:
    """The layer's number, -1 for a module outside of layers, and the module's name without it."""
    found = re.search(r"(?:^|\.)(\d+)\.", module)
    if found is None:
        return -1, module
    side = "encoder " if "encoder" in module.split(".") else "decoder " if "decoder" in module.split(".") else ""
    return int(found[1]), side + module[found.end() :]
