"""Differences in many cells: a panel for each contrast, a mark for each cell at the size of its set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.report.plots.style import BAND, FAINT, PALETTE, legend_outside, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")


def against_size(
    title: str, across: str, sizes: Sequence[int], groups: Sequence[str], of: Mapping[str, np.ndarray]
) -> Figure:
    """A panel per contrast; within one point the scale is linear, beyond it logarithmic.

    Args:
        title: of the figure.
        across: what sizes are.
        sizes: [cells].
        groups: [cells] names; a colour and a mark each.
        of: {contrast: [cells] differences of fractions}.
    """
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(groups))
    looks = {name: (PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]) for k, name in enumerate(names)}
    rows = -(-len(of) // 2)
    figure = new_figure(8.6, 1.0 + 2.4 * rows, title)
    panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for panel, (name, differences) in zip(panels.flat, of.items(), strict=False):
        panel.set_title(name, loc="left", fontweight="bold")
        panel.axhspan(-1, 1, color=BAND, linewidth=0, zorder=0)
        panel.axhline(0, color=FAINT, linewidth=0.9, zorder=1)
        for x, y, group in zip(sizes, differences, groups, strict=True):
            colour, marker = looks[group]
            panel.plot([x], [100 * y], marker, color=colour, markersize=5, alpha=0.8, markeredgewidth=0)
        panel.set_xscale("log")
        panel.set_yscale("symlog", linthresh=1.0, linscale=1.0)
    for panel in panels.flat[len(of) :]:
        panel.set_axis_off()
    largest = max(1.0, *(100 * float(np.abs(values).max()) for values in of.values()))
    ticks = [tick for tick in (1, 3, 10, 30, 100) if tick <= 2 * largest]
    panels[0, 0].set_yticks([-tick for tick in reversed(ticks)] + [0, *ticks])
    panels[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    panels[0, 0].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panels[0, 0].minorticks_off()
    for panel in panels[-1]:
        panel.set_xlabel(across)
    figure.supylabel("points, a mark per cell; grey: within ±1", fontsize=9)
    marks = [Line2D([], [], color=colour, marker=marker, linestyle="") for colour, marker in looks.values()]
    legend_outside(figure, marks, names)
    return figure
