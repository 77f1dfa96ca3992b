"""What adaptation gains on a target without labels, and what choosing without them costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.report.plots.style import FAINT, PALETTE, explain, legend_outside, mark, name_rows, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = tuple[float, tuple[float, float]]  # a mean with its interval, fractions


def adaptation(title: str, gains: Mapping[str, Mapping[str, Value]], regrets: Mapping[str, Value], over: str) -> Figure:
    """Left a row for each method: its gain, a colour for each way to choose; right a row for each validator.

    Args:
        title: of the figure.
        gains: {way to choose in words: {method: gain}}; all have the methods of the first.
        regrets: validator -> what choosing by it loses against the oracle.
        over: what a gain is, in words.
    """
    from matplotlib.lines import Line2D

    methods = list(next(iter(gains.values())))
    figure = new_figure(9.0, 1.5 + 0.36 * max(len(methods), len(regrets)), title)
    left, right = figure.subplots(1, 2)
    for panel in (left, right):
        panel.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
    for k, of in enumerate(gains.values()):
        for y, method in enumerate(methods):
            mark(left, y + 0.24 * (k - (len(gains) - 1) / 2), *of[method], PALETTE[k], scale=100.0)
    for y, value in enumerate(regrets.values()):
        mark(right, y, *value, PALETTE[len(gains)], scale=100.0)
    name_rows(left, methods)
    name_rows(right, list(regrets))
    left.set_xlabel(f"{over}, points")
    right.set_xlabel("regret against the oracle, points")
    explain(left, "mean with 95 % interval")
    lines = [Line2D([], [], marker="o", color=PALETTE[k], linewidth=1.6, markersize=6) for k in range(len(gains))]
    legend_outside(figure, lines, list(gains))
    return figure


def embeddings(title: str, features: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """A panel for each net: features of both domains on the two directions in which they differ most.

    Args:
        title: of the figure.
        features: {net in words: ([N, D] of source examples, [M, D] of target examples)}.
    """
    figure = new_figure(4.2 * len(features), 4.4, title)
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    for panel, (name, sides) in zip(panels, features.items(), strict=True):
        for points, colour, words in zip(on_plane(*sides), PALETTE, ("source", "target"), strict=False):
            panel.scatter(*points.T, s=9, color=colour, alpha=0.6, linewidths=0, label=words)
        panel.set_title(name, fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    handles, names = panels[0].get_legend_handles_labels()
    legend_outside(figure, handles, names)
    return figure


def on_plane(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as [N, 2], [M, 2]: the first two principal components of all of them, each feature brought to one scale.

    Example:
        >>> line = np.arange(4.0)[:, None] * [[1.0, 2.0, 0.0]]
        >>> [part.shape for part in on_plane(line, line + 1)], bool(np.ptp(on_plane(line, line)[0][:, 1]) < 1e-9)
        ([(4, 2), (4, 2)], True)
    """
    both = np.concatenate([source, target]).astype(np.float64)
    spread = both.std(axis=0)
    centred = (both - both.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found = centred @ axes[:2].T
    return found[: len(source)], found[len(source) :]
