"""Searches in pictures: the way of learned rates over a grid, and labellings of blocks beside what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.protocol.results import interval_of_mean
from jaxtl.report.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PERCENT,
    PURPLE,
    VERMILLION,
    beside,
    explain,
    legend_outside,
    light_greys,
    mark,
    new_figure,
    within,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELLS = {"frozen": "#c8c8c8", "transferred": BLUE, "new": VERMILLION}
WAYS = (BLUE, VERMILLION, GREEN, PURPLE)
ABOVE = 0.35  # log-losses this far above the best are one colour, or a diverged corner would take all of them
MARGIN = 8.0  # how many times beyond the grid is shown: a λ that is not needed goes on to 0


class Ground(NamedTuple):
    """A measured grid: loss [P, Q] over rates [P] up and [Q] across; not finite where training was not."""

    up: str
    across: str
    rows: np.ndarray
    columns: np.ndarray
    loss: np.ndarray


def ways(title: str, ground: Ground, searches: Mapping[str, np.ndarray]) -> Figure:
    """Where searches began, went and ended, over the loss that the grid found.

    Args:
        title: of the figure.
        ground: the grid.
        searches: name -> [T, 2], rates (up, across) of every run, in order.
    """
    figure = new_figure(6.4, 4.6, title)
    axis = figure.subplots()
    axis.set_xscale("log")
    axis.set_yscale("log")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(lambda value, _: f"{value:g}")
    axis.minorticks_off()
    axis.grid(visible=False)
    best = np.nanmin(np.where(np.isfinite(ground.loss), ground.loss, np.nan))
    shown = np.where(np.isfinite(ground.loss), np.minimum(ground.loss, best + ABOVE), best + ABOVE)
    mesh = axis.pcolormesh(ground.columns, ground.rows, shown, cmap=light_greys(), shading="nearest", rasterized=True)
    mesh.set_clim(best, best + ABOVE)
    row, column = np.unravel_index(np.argmin(shown), shown.shape)
    axis.plot(ground.columns[column], ground.rows[row], "*", color=ORANGE, markersize=13, label="best of the grid")
    for (name, points), colour in zip(searches.items(), WAYS, strict=False):
        axis.plot(points[:, 1], points[:, 0], ".-", color=colour, linewidth=1.2, markersize=5, label=name)
        axis.plot(*points[0, ::-1], "o", color=colour, markersize=8, markerfacecolor="white")
    for limit, rates in ((axis.set_xlim, ground.columns), (axis.set_ylim, ground.rows)):
        limit(rates[0] / MARGIN, rates[-1] * MARGIN)
    axis.set_xlabel(ground.across)
    axis.set_ylabel(ground.up)
    explain(axis, "rings: where a search begins; some go on outside")
    figure.colorbar(mesh, ax=axis, label="log-loss; all above is one colour", shrink=0.8, extend="max")
    legend_outside(figure, *axis.get_legend_handles_labels())
    return figure


def labellings(
    title: str,
    blocks: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    accuracies: np.ndarray,
    chosen: int,
    reference: int,
) -> Figure:
    """A row per labelling: a coloured cell per block beside test accuracy, a point per draw, mean and 95 % interval.

    Args:
        title: of the figure.
        blocks: from input to output.
        rows: {block: "frozen", "transferred" or "new"}.
        accuracies: [len(rows), draws], fractions.
        chosen: the row that validation chose.
        reference: the row whose mean is drawn as a line.
    """
    from matplotlib.patches import Patch

    figure = new_figure(7.6, 1.5 + 0.34 * len(rows), title)
    cells, axis = figure.subplots(1, 2, sharey=True, width_ratios=(0.42 * len(blocks), 4))
    _cells(cells, blocks, rows)
    legend_outside(figure, [Patch(color=colour) for colour in CELLS.values()], list(CELLS))
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0, labelleft=False)
    axis.axvline(100 * accuracies[reference].mean(), color=FAINT, linewidth=0.9, linestyle="--", zorder=0)
    for y, found in enumerate(accuracies):
        colour = GREEN if y == chosen else INK
        mark(axis, y, found.mean(), interval_of_mean(found), colour)
        heights = y + np.linspace(-0.28, 0.28, len(found))
        axis.scatter(100 * found, heights, s=8, color=colour, alpha=0.5, linewidths=0, zorder=3)
        beside(axis, y, f"{100 * found.mean():.1f}{'  chosen' if y == chosen else ''}", colour)
    axis.set_xlim(within(PERCENT, axis.get_xlim()))
    axis.set_xlabel("accuracy on target test data, %")
    explain(axis, "a point per draw; mean with 95 % interval; dashed: all transferred")
    return figure


def _cells(axis: Axes, blocks: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    from matplotlib.patches import Rectangle

    for y, row in enumerate(rows):
        for x, block in enumerate(blocks):
            axis.add_patch(Rectangle((x + 0.06, y - 0.38), 0.88, 0.76, color=CELLS[row[block]], linewidth=0))
    axis.set_xlim(0, len(blocks))
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(visible=False)
    axis.set_yticks([])
    axis.set_xticks(np.arange(len(blocks)) + 0.5, blocks, rotation=40, ha="right", rotation_mode="anchor")
    axis.tick_params(length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
