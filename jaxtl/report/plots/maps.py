"""Accuracy over two pulls at once, and what a pull does to a net that would overfit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxtl.protocol.results import compact
from jaxtl.report.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    PALETTE,
    PERCENT,
    VERMILLION,
    legend_outside,
    light_greys,
    new_figure,
    within,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*", "h")


class Map(NamedTuple):
    """Accuracy [P, Q] (fractions) over pulls [P] on transferred and [Q] on new parameters; and where choices land.

    `choices`: criterion -> the cells (row, column) that it chose, one for each draw; none where it could not.
    """

    title: str
    down: str
    rows: np.ndarray
    columns: np.ndarray
    accuracy: np.ndarray
    choices: Mapping[str, Sequence[tuple[int, int]]]


def heat_maps(title: str, maps: Sequence[Map]) -> Figure:
    """A panel per map: mean accuracy as colour and number, and a mark at the mean of every criterion's choices."""
    columns = min(2, len(maps))
    rows = -(-len(maps) // columns)
    figure = new_figure(1.4 + 4.4 * columns, 1.5 + 3.3 * rows, title)
    panels = figure.subplots(rows, columns, squeeze=False)
    ends = _span([one.accuracy for one in maps])
    for axis, one in zip(panels.flat, maps, strict=False):
        image = _heat(axis, one, ends)
        axis.set_title(one.title, loc="left", fontweight="bold")
    for axis in panels.flat[len(maps) :]:
        axis.set_axis_off()
    figure.colorbar(image, ax=list(panels.flat), label="mean accuracy, %; one scale for all panels", shrink=0.8)
    legend: dict[str, Any] = {}
    for axis in panels.flat:
        handles, names = axis.get_legend_handles_labels()
        legend |= dict(zip(names, handles, strict=True))
    order = [name for name in maps[0].choices if name in legend]
    legend_outside(figure, [legend[name] for name in order], order)
    return figure


def _span(accuracies: Sequence[np.ndarray]) -> tuple[float, float]:
    """The ends of the one scale, in percent; apart where all accuracies are equal."""
    low, high = 100 * min(map(np.min, accuracies)), 100 * max(map(np.max, accuracies))
    return (low, high) if high > low else within(PERCENT, (low - 1.0, high + 1.0))


def _heat(axis: Axes, one: Map, ends: tuple[float, float]) -> AxesImage:
    shown = 100 * one.accuracy
    image = axis.imshow(shown, cmap=light_greys(), origin="lower", aspect="auto", vmin=ends[0], vmax=ends[1])
    axis.grid(visible=False)
    for row, column in np.ndindex(shown.shape):
        axis.text(column, row - 0.36, f"{shown[row, column]:.1f}", ha="center", va="center", fontsize=7, color=INK)
    axis.plot([-0.5, shown.shape[1] - 0.5], [-0.5, shown.shape[0] - 0.5], color=FAINT, linewidth=0.8, linestyle="--")
    for position, (name, cells) in enumerate(one.choices.items()):
        if not len(cells):
            continue
        row, column = np.mean(cells, axis=0)
        angle = (
            2 * np.pi * position / len(one.choices)
        )  # marks of equal choices stand round the cell, not on each other
        marker, colour = MARKERS[position % len(MARKERS)], PALETTE[position % len(PALETTE)]
        place = [column + 0.2 * np.cos(angle)], [row + 0.08 + 0.2 * np.sin(angle)]
        axis.plot(*place, marker, color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.6, label=name)
    axis.set_xticks(range(len(one.columns)), map(compact, one.columns))
    axis.set_yticks(range(len(one.rows)), map(compact, one.rows))
    axis.set_xlabel("pull on new parameters, towards zero")
    axis.set_ylabel(one.down)
    return image


def overfitting(
    title: str, pulls: np.ndarray, losses: Mapping[str, np.ndarray], df: np.ndarray, norms: Mapping[str, np.ndarray]
) -> Figure:
    """Along one common pull: train and test loss, effective degrees of freedom, and the norms of the weights.

    Args:
        title: of the figure.
        pulls: [P] > 0.
        losses: name -> [P] mean log-loss.
        df: [P].
        norms: label -> [P].
    """
    figure = new_figure(7.8, 2.9, title)
    loss, freedom, norm = figure.subplots(1, 3)
    for (name, values), colour in zip(losses.items(), (BLUE, VERMILLION, GREEN), strict=False):
        loss.plot(pulls, values, "o-", color=colour, markersize=3, label=name)
    loss.set_ylim(bottom=0)
    loss.set_title("mean log-loss", loc="left")
    loss.legend(fontsize=8)
    freedom.plot(pulls, df, "o-", color=INK, markersize=3)
    freedom.set_title("effective degrees of freedom", loc="left")
    for (name, values), colour in zip(norms.items(), (BLUE, VERMILLION), strict=False):
        norm.plot(pulls, values / values[0], "o-", color=colour, markersize=3, label=name)
    norm.set_title("‖w‖ (weakest pull: 1)", loc="left")
    norm.legend(fontsize=8)
    for axis in (loss, freedom, norm):
        axis.set_xscale("log")
        axis.set_xlabel("pull towards zero")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure
