"""Scores that rank sources, by what they agree with and lose; and sources, by what they gain on every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxtl.report.plots.style import FAINT, PALETTE, explain, legend_outside, mark, name_rows, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = tuple[float, tuple[float, float]]  # a mean with its interval


class Row(NamedTuple):
    """What became of a score: agreement of ranks, and fractions of test accuracy."""

    tau: Value
    weighted: Value
    regret: Value
    gained: Value


PANELS = {
    "tau": ("Kendall's τ with test accuracy", 1.0),
    "regret": ("regret of its choice, points", 100.0),
    "gained": ("its choice − from scratch, points", 100.0),
}


def rankings(title: str, of: Mapping[str, Mapping[str, Row]]) -> Figure:
    """A row per score, the best τ on top: τ, regret, gain; a colour per way to use a source.

    Args:
        title: of the figure.
        of: {way in words: {score: Row}}; all with the same scores.
    """
    from matplotlib.lines import Line2D

    first = next(iter(of.values()))
    names = sorted(first, key=lambda name: -first[name].tau[0])
    figure = new_figure(9.2, 1.4 + 0.36 * len(names), title)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    lines = dict[str, Line2D]()
    for panel, (column, (words, scale)) in zip(panels, PANELS.items(), strict=True):
        panel.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
        for k, (way, rows) in enumerate(of.items()):
            lines[way] = Line2D([], [], marker="o", color=PALETTE[k], linewidth=1.6, markersize=6)
            for y, name in enumerate(names):
                mean, interval = getattr(rows[name], column)
                mark(panel, y + 0.26 * (k - (len(of) - 1) / 2), mean, interval, PALETTE[k], scale=scale)
        name_rows(panel, names)
        panel.set_xlabel(words)
    explain(panels[0], "mean with 95 % interval over targets and draws")
    legend_outside(figure, list(lines.values()), list(lines))
    return figure


def gains(title: str, sources: Sequence[str], targets: Sequence[str], of: Mapping[str, np.ndarray]) -> Figure:
    """A row per source, a panel per way to use it, a mark per target.

    Args:
        title: of the figure.
        sources: names of the rows.
        targets: names of the marks; those of one set, before the comma, have one colour.
        of: {way in words: [sources, targets] fractions above training from scratch}.
    """
    from matplotlib.lines import Line2D

    sets = list(dict.fromkeys(name.partition(",")[0] for name in targets))
    figure = new_figure(8.6, 1.4 + 0.24 * len(sources), title)
    panels = figure.subplots(1, len(of), sharey=True, squeeze=False)[0]
    for panel, (way, gained) in zip(panels, of.items(), strict=True):
        panel.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
        for name, column in zip(targets, gained.T, strict=True):
            colour = PALETTE[sets.index(name.partition(",")[0]) % len(PALETTE)]
            panel.plot(
                100 * column, range(len(sources)), "o", color=colour, markersize=5, alpha=0.75, markeredgewidth=0
            )
        name_rows(panel, sources)
        panel.set_title(way, loc="left", fontweight="bold")
        panel.set_xlabel("points above from scratch")
    of_sets = [Line2D([], [], marker="o", linestyle="", color=PALETTE[k % len(PALETTE)]) for k in range(len(sets))]
    legend_outside(figure, of_sets, [f"targets of {name}" for name in sets])
    return figure
