"""Figures of a search: what each trial gains and costs, and the number of neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from crispr_lm.report import words
from crispr_lm.report.figures import AFTER, AMBIGUOUS, BEFORE, DISAMBIGUATED, plain, ring, styled

if TYPE_CHECKING:
    pass


STEPS = (0, 1, 2, 5)
"""Numbers of neurons that an axis names, and these times ten, a hundred, ..."""


def front(
    candidates: Sequence[Mapping[str, Any]], chosen: int, choice: Mapping[str, Any] | None = None
) -> go.Figure | None:
    """Every candidate of the search: how it changes accuracy on ambiguous questions, and on the others.

    Args:
        candidates: What was tried.
        chosen: Number of neurons of the edit.
        choice: Of a tuned search, the numbers of the trials taken and on the front.
    """
    points = _changes(candidates)
    if points is None or len(points) < 2:  # the original alone is no front
        return None
    if choice is None:
        best = [not any(_dominates(other, point) for other in points) for point in points]
        mine = next((point for point in points if point.neurons == chosen), None)
    else:
        best, mine = _chosen(points, choice)
    figure = _front_of(points, best, mine, "disambiguated %{x:+.3f}, ambiguous %{y:+.3f}")
    figure.update_xaxes(title="change of disambiguated accuracy", zeroline=True)
    figure.update_yaxes(title="change of ambiguous accuracy", zeroline=True)
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
    figure.update_xaxes(title="KL divergence, nats per token", zeroline=True, rangemode="tozero")
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
                x=[point.x for point in members],
                y=[point.y for point in members],
                text=[point.label for point in members],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 9} if wanted else ring(colour),
                cliponaxis=False,
                hovertemplate="%{text}<br>" + hover + "<extra></extra>",
            )
        )
    if mine is not None:
        figure.add_trace(
            go.Scatter(
                x=[mine.x],
                y=[mine.y],
                mode="markers",
                name=f"chosen: {_neurons(mine.neurons)}",
                marker={"color": "rgba(0,0,0,0)", "size": 20, "line": {"color": "#c0392b", "width": 3}},
                hoverinfo="skip",
            )
        )
    figure.update_layout(height=420, meta={"fits": True})
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
    figure.update_yaxes(title="accuracy (validation split)", range=[0, 1], tickformat=".0%")
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
                marker=ring(colour) if colour == AMBIGUOUS else {"size": 7},
                cliponaxis=False,
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
    figure.update_layout(height=380, meta={"fits": True})
    return styled(figure)


def _steps(most: int) -> list[int]:
    """Round numbers up to that one, evenly spaced where they are large."""
    powers = (10**power for power in range(len(str(most))))
    return sorted({step * power for power in powers for step in STEPS if step * power <= most})


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

    x: float
    y: float
    neurons: int
    label: str
    trial: int | None = None


def _changes(candidates: Sequence[Mapping[str, Any]]) -> list[_Point] | None:
    """How each candidate changes both accuracies; None where the original was not measured in both halves."""
    if candidates and "gain" in candidates[0]:
        return [_tried(row) for row in candidates if row["complete"]]
    points = [(row["neurons"], *found) for row in candidates if (found := _mean_accuracies(row)) is not None]
    original = next((point for point in points if point[0] == 0), None)
    if original is None:
        return None
    return [_Point(kept - original[2], right - original[1], count, _neurons(count)) for count, right, kept in points]


def _tried(row: Mapping[str, Any]) -> _Point:
    recipe = row["recipe"]
    parts = [f"trial {row['trial']}: {_neurons(row['neurons'])}", f"KL {row['kl']:.3f}"]
    if "overabstention" in row:
        parts.append(f"unknown, disambiguated {words.signed(row['overabstention'])}")
    if "fact_loss" in row:
        parts.append(f"facts {words.signed(0.0 - row['fact_loss'])}")
    if "spillover" in row:
        parts.append(f"bias score, other kinds {words.signed(row['spillover'])}")
    parts += [str(recipe[name]) for name in ("ranking", "change") if name in recipe]
    return _Point(0.0 - row["loss"], row["gain"], row["neurons"], plain(", ".join(parts)), row["trial"])


def _dominates(one: _Point, other: _Point) -> bool:
    """Of points whose places are changes of the two accuracies."""
    no_worse = one.x >= other.x and one.y >= other.y
    return no_worse and (one.x > other.x or one.y > other.y)


def _neurons(count: int) -> str:
    return "original" if count == 0 else "1 neuron" if count == 1 else f"{count} neurons"
