"""Plotly figures from result dictionaries, as JSON that the page draws. Knows no model and no page layout."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from crispr_lm.report import words
from crispr_lm.report.words import short

if TYPE_CHECKING:
    from crispr_lm.attribution.neuron_scores import NeuronScores

BEFORE, AFTER = "#8a94a6", "#2f7ed8"
AMBIGUOUS, DISAMBIGUATED = "#2f7ed8", "#d9822b"
ON_PALE, ON_DARK, ON_GROUND = "#1c2430", "#ffffff", "#2f7ed8"
MOST_LINES, LONGEST_LINE, LEAST_HEIGHT = 5, 90, 320
"""Neurons of a module that are told where the mouse points at it, letters of a line, and pixels of the figure: a label
that does not fit into its figure is not shown at all."""
ROW_HEIGHT = 34
"""Pixels per row of a figure with names down its side."""
ROOM_BESIDE, COLUMN_WIDTH = 300, 20
"""Least pixels of a heat map for names and colours beside its cells, and of a cell with a number of two digits."""
STEPS = (0, 1, 2, 5)
"""Numbers of neurons that an axis names, and these times ten, a hundred, ..."""


def before_after(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> go.Figure | None:
    """Accuracy (or what else leads) before and after, a row per name and condition, with intervals of the difference.

    Args:
        rows: Name and figures (``family``, ``before``, ``after``, ``statistics``) of tasks or categories.
    """
    names, shown, old, new, low, high = [], [], [], [], [], []
    for name, told in rows:
        for metric in words.leading(told["family"], told["before"]):
            before, after = told["before"][metric.name], told["after"][metric.name]
            if after is None or metric.name == "perplexity":  # no share
                continue
            found = told["statistics"][metric.name]
            label = f"{short(name)}, {words.column_name(metric)}"
            names.append(plain(label))
            shown.append(plain(clipped(label)))
            old.append(before)
            new.append(after)
            high.append((found["high"] if found["high"] is not None else found["value"]) - found["value"])
            low.append(found["value"] - (found["low"] if found["low"] is not None else found["value"]))
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
    figure.add_trace(go.Scatter(x=old, y=names, mode="markers", name="before", marker={"color": BEFORE, "size": 11}))
    figure.add_trace(
        go.Scatter(
            x=new,
            y=names,
            mode="markers",
            name="after (bar: 95 % interval of the difference)",
            marker={"color": AFTER, "size": 12},
            error_x={"type": "data", "array": high, "arrayminus": low, "color": AFTER, "thickness": 1.5},
        )
    )
    figure.update_layout(height=120 + ROW_HEIGHT * len(names), meta={"rows": True})
    accuracies = all(name.endswith((*words.HALVES.values(), "all questions")) for name in names)
    figure.update_xaxes(
        range=[min(0, *old, *new) - 0.02, 1.02], tickformat=".0%", title="accuracy" if accuracies else "share"
    )
    figure.update_yaxes(autorange="reversed", tickmode="array", tickvals=names, ticktext=shown)
    return styled(figure)


def front(
    candidates: Sequence[Mapping[str, Any]], chosen: int, choice: Mapping[str, Any] | None = None
) -> go.Figure | None:
    """Every candidate of the search: what it gains on ambiguous questions, and what it loses on the others.

    Args:
        candidates: What was tried.
        chosen: Number of neurons of the edit.
        choice: Of a tuned search, the numbers of the trials taken and on the front.
    """
    points = _costs(candidates)
    if points is None or len(points) < 2:  # the original alone is no front
        return None
    if choice is None:
        best = [not any(_dominates(other, point) for other in points) for point in points]
        mine = next((point for point in points if point.neurons == chosen), None)
    else:
        best, mine = _chosen(points, choice)
    figure = _front_of(points, best, mine, "lost %{x:.3f}, gained %{y:.3f}")
    figure.update_xaxes(title="disambiguated accuracy lost (validation split)", zeroline=True)
    figure.update_yaxes(title="ambiguous accuracy gained", zeroline=True)
    return styled(figure)


def front_of_one(candidates: Sequence[Mapping[str, Any]], choice: Mapping[str, Any] | None) -> go.Figure | None:
    """The same where there is one accuracy: what each trial gains, and how far it moves the model.

    Args:
        candidates: What was tried.
        choice: The numbers of the trials taken and on the front.
    """
    rows = [row for row in candidates if "gain" in row and row["complete"]]
    if choice is None or len(rows) < 2:
        return None
    points = [_Point(row["kl"], row["gain"], row["neurons"], _tried(row).label, row["trial"]) for row in rows]
    figure = _front_of(points, *_chosen(points, choice), "KL %{x:.3f}, gained %{y:.3f}")
    figure.update_xaxes(title="KL divergence on neutral prompts, nats per token", zeroline=True)
    figure.update_yaxes(title="accuracy gained (validation split)", zeroline=True)
    return styled(figure)


def _chosen(points: Sequence[_Point], choice: Mapping[str, Any]) -> tuple[list[bool], _Point | None]:
    """Which points a tuned search has on its front, and the one that it took."""
    mine = next((point for point in points if point.trial == choice["trial"]), None)
    return [point.trial in choice["front"] for point in points], mine


def _front_of(points: Sequence[_Point], best: Sequence[bool], mine: _Point | None, hover: str) -> go.Figure:
    """Points of two colours, and a ring around the one that was chosen."""
    figure = go.Figure()
    # Those on the front last, so that none of the others hides them.
    for name, wanted, colour in (("tried", False, BEFORE), ("on the Pareto front", True, AFTER)):
        members = [point for point, on_front in zip(points, best, strict=True) if on_front == wanted]
        figure.add_trace(
            go.Scatter(
                x=[point.lost for point in members],
                y=[point.gained for point in members],
                text=[point.label for point in members],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 10},
                hovertemplate="%{text}<br>" + hover + "<extra></extra>",
            )
        )
    if mine is not None:
        figure.add_trace(
            go.Scatter(
                x=[mine.lost],
                y=[mine.gained],
                mode="markers",
                name=f"chosen: {_neurons(mine.neurons)}",
                marker={"color": "rgba(0,0,0,0)", "size": 20, "line": {"color": "#c0392b", "width": 3}},
                hoverinfo="skip",
            )
        )
    figure.update_layout(height=420)
    return figure


def curve(candidates: Sequence[Mapping[str, Any]], *, halves: bool = True) -> go.Figure | None:
    """Both accuracies over the number of neurons: of a sweep over one ranking, or of the best trial at each number.

    Args:
        candidates: What was tried.
        halves: Whether questions are ambiguous and disambiguated; else there is one accuracy.
    """
    if any("gain" in row for row in candidates):
        return _curve_of_trials(candidates, halves=halves)
    points = sorted((row["neurons"], *figures) for row in candidates if (figures := _mean_accuracies(row)) is not None)
    if len(points) < 2 or len({point[0] for point in points}) < len(points):
        return None
    figure = _over_neurons(
        [point[0] for point in points],
        [_neurons(point[0]) for point in points],
        ([point[1] for point in points], [point[2] for point in points]),
    )
    figure.update_yaxes(title="accuracy (validation split)", range=[-0.02, 1.02], tickformat=".0%")
    return figure


def _curve_of_trials(candidates: Sequence[Mapping[str, Any]], *, halves: bool) -> go.Figure | None:
    """What the best trial of each number of neurons gains in ambiguous and in disambiguated accuracy."""
    best: dict[int, Mapping[str, Any]] = {}
    for row in candidates:
        if row["complete"] and row.get("stage") != "control":
            other = best.get(row["neurons"])
            if other is None or row["gain"] - row["loss"] > other["gain"] - other["loss"]:
                best[row["neurons"]] = row
    if len(best) < 3:
        return None
    rows = [best[count] for count in sorted(best)]
    figure = _over_neurons(
        sorted(best),
        [_tried(row).label for row in rows],
        ([row["gain"] for row in rows], [-row["loss"] for row in rows]),
    )
    figure.update_yaxes(title="difference from the original (validation split)", zeroline=True)
    return figure if halves else _only_first(figure)


def _only_first(figure: go.Figure) -> go.Figure:
    """A single line needs no name."""
    figure.data = figure.data[:1]
    figure.data[0].update(name="accuracy", showlegend=False, hovertemplate="%{text}: %{y:.3f}<extra></extra>")
    return figure


def _over_neurons(counts: Sequence[int], labels: Sequence[str], halves: tuple[list[float], list[float]]) -> go.Figure:
    """A line for ambiguous and one for disambiguated questions."""
    figure = go.Figure()
    for values, name, colour in zip(halves, words.HALVES.values(), (AMBIGUOUS, DISAMBIGUATED), strict=True):
        figure.add_trace(
            go.Scatter(
                x=[float(np.log2(1 + count)) for count in counts],
                y=values,
                text=labels,
                mode="lines+markers",
                name=name,
                line={"color": colour},
                hovertemplate="%{text}: %{y:.3f}<extra>" + name + "</extra>",
            )
        )
    # Logarithmic, so that one neuron more is seen among few and a hundred fit; of one more, so that the original has a
    # place.
    named = [step for step in _steps(max(counts)) if step >= min(counts)]
    figure.update_xaxes(
        title="neurons eliminated (logarithmic)",
        tickmode="array",
        tickvals=[float(np.log2(1 + step)) for step in named],
        ticktext=[str(step) for step in named],
        zeroline=False,
    )
    figure.update_layout(height=380)
    return styled(figure)


def _steps(most: int) -> list[int]:
    """Round numbers up to that one, evenly spaced where they are large."""
    powers = (10**power for power in range(len(str(most))))
    return sorted({step * power for power in powers for step in STEPS if step * power <= most})


@dataclass(frozen=True)
class Said:
    """What is said of a module's neurons, a line each.

    Attributes:
        strongest: Of the neuron of highest score.
        edited: Of those in the edit.
    """

    strongest: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As they stand under the module's name."""
        told = [f"highest: {line}" for line in self.strongest]
        if self.edited:
            told += [f"edited ({len(self.edited)}):", *self.edited[:MOST_LINES]]
        if len(self.edited) > MOST_LINES:
            told.append(f"and {len(self.edited) - MOST_LINES} more, in the table below")
        return told


def neuron_map(
    scores: NeuronScores, edited: Sequence[Sequence[Any]], described: Mapping[tuple[str, str], Said]
) -> go.Figure:
    """Highest score by layer and module, with the number of edited neurons in each.

    Neurons of another kind than the scores' (a search may take either) have rows of their own, without a colour.

    Args:
        scores: Of every neuron.
        edited: The edit's neurons as [kind, module, index].
        described: Kind and module to what is said of its neurons.
    """
    counts = Counter((kind, module) for kind, module, _ in edited)
    cells = dict.fromkeys([*((scores.kind, module) for module in scores.values), *counts])
    layers = sorted({layer_of(module)[0] for _, module in cells})
    scored = [_row_of(kind, module, scores) for kind, module in cells if kind == scores.kind]
    # An edit has its neurons in the order in which they were found: here modules of one block stand together.
    others = sorted(_row_of(kind, module, scores) for kind, module in cells if kind != scores.kind)
    rows = list(dict.fromkeys([*scored, *others]))
    heat = np.full((len(rows), len(layers)), np.nan)
    texts = [["" for _ in layers] for _ in rows]
    hovers = [["" for _ in layers] for _ in rows]
    for kind, module in cells:
        row, column = rows.index(_row_of(kind, module, scores)), layers.index(layer_of(module)[0])
        lines = [plain(module)]
        if kind == scores.kind:
            values = scores.values[module]
            heat[row, column] = float(values.max())
            if not described.get((kind, module), Said()).strongest:
                lines.append(f"highest: unit {int(values.argmax())}: score {float(values.max()):.3g}")
        else:
            lines.append(f"{kind} neurons; scores are of {scores.kind} neurons")
        texts[row][column] = str(counts[kind, module] or "")
        hovers[row][column] = "<br>".join([*lines, *described.get((kind, module), Said()).lines()])
    figure = go.Figure(
        go.Heatmap(
            z=heat.tolist(),
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
        annotations=_counts(texts, heat, figure.data[0]),
        meta={"width": ROOM_BESIDE + COLUMN_WIDTH * len(layers)},
    )
    figure.update_xaxes(title="layer (number: edited neurons)", type="category")
    figure.update_yaxes(autorange="reversed", type="category")
    return styled(figure).update_layout(margin_t=40)  # room for the buttons above the colours


def _row_of(kind: str, module: str, scores: NeuronScores) -> str:
    name = layer_of(module)[1]
    return name if kind == scores.kind else f"{name} ({kind} neurons)"


def _counts(texts: Sequence[Sequence[str]], heat: np.ndarray[Any, Any], cells: Any) -> list[dict[str, Any]]:
    """Numbers on the cells of a heat map, readable on each of its colours and on cells without one."""
    known = heat[np.isfinite(heat)]
    dark = known.min() + 0.55 * (known.max() - known.min()) if known.size else 0.0
    notes = []
    for row, of_row in enumerate(texts):
        for column, text in enumerate(of_row):
            score = heat[row, column]
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


def plain(text: str) -> str:
    """Text as Plotly shows it unchanged (it reads some tags in labels, links among them), on one line."""
    return html.escape(" ".join(text.split()), quote=False)


def clipped(name: str, most: int = 44) -> str:
    """A name that leaves room for the figure beside it: the end tells more than the middle."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def _mean_accuracies(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Ambiguous and disambiguated accuracy of a candidate, averaged over tasks; None where there are none."""
    of_tasks = row.get("metrics", {}).values()
    found = [[metrics.get(name) for metrics in of_tasks if metrics.get(name) is not None] for name in words.HALVES]
    if not all(found):
        return None
    ambiguous, disambiguated = (float(np.mean(values)) for values in found)
    return ambiguous, disambiguated


@dataclass(frozen=True)
class _Point:
    """A candidate in the figure of the front."""

    lost: float
    gained: float
    neurons: int
    label: str
    trial: int | None = None


def _costs(candidates: Sequence[Mapping[str, Any]]) -> list[_Point] | None:
    """What each candidate loses and gains; None where the original was not measured in both halves."""
    if candidates and "gain" in candidates[0]:
        return [_tried(row) for row in candidates if row["complete"]]
    points = [(row["neurons"], *found) for row in candidates if (found := _mean_accuracies(row)) is not None]
    original = next((point for point in points if point[0] == 0), None)
    if original is None:
        return None
    return [_Point(original[2] - kept, right - original[1], count, _neurons(count)) for count, right, kept in points]


def _tried(row: Mapping[str, Any]) -> _Point:
    recipe = row["recipe"]
    told = [f"trial {row['trial']}: {_neurons(row['neurons'])}", f"KL {row['kl']:.3f}"]
    if "overabstention" in row:
        told.append(f"unknown where the context tells {words.signed(row['overabstention'])}")
    told += [str(recipe[name]) for name in ("ranking", "change") if name in recipe]
    return _Point(row["loss"], row["gain"], row["neurons"], plain(", ".join(told)), row["trial"])


def _dominates(one: _Point, other: _Point) -> bool:
    no_worse = one.lost <= other.lost and one.gained >= other.gained
    return no_worse and (one.lost < other.lost or one.gained > other.gained)


def _neurons(count: int) -> str:
    return "original" if count == 0 else "1 neuron" if count == 1 else f"{count} neurons"


def styled(figure: go.Figure) -> go.Figure:
    """Transparent, so that the page's light or dark ground shows; text colours are set by the page."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 10, "r": 10, "t": 10, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.6)")
    figure.update_yaxes(automargin=True, gridcolor="rgba(128,128,128,0.25)", zerolinecolor="rgba(128,128,128,0.6)")
    return figure
