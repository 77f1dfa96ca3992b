"""Forest plots: an effect in every study with its interval, and all of them as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.protocol import Contrast, Pooled
from jaxtl.report.plots.style import BLUE, FAINT, VERMILLION, explain, mark, name_rows, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all, and another one"
ACROSS = 3  # panels side by side
LONGEST, LETTER = 36, 0.075  # letters of a name on one line; inches of one
LIMITS = 1.5  # how many times the widest mean a panel reaches; longer intervals leave it


def forest(
    title: str, studies: Sequence[str], effects: Mapping[str, Mapping[str, Contrast]], pooled: Mapping[str, Pooled]
) -> Figure:
    """A panel for each contrast, a row for each study; below them the mean, and where another study would lie.

    Args:
        title: of the figure.
        studies: rows, the first on top.
        effects: by contrast in words, by study; fractions.
        pooled: by contrast in words, of those that could be pooled; points.
    """
    columns = min(ACROSS, len(effects))
    high = -(-len(effects) // columns)
    names = [study.replace(" → ", "\n→ ") if len(study) > LONGEST else study for study in [*studies, ALL]]
    letters = max(len(line) for name in names for line in name.split("\n"))
    figure = new_figure(0.6 + LETTER * letters + 2.6 * columns, 0.9 + high * (1.0 + 0.3 * (len(studies) + 1)), title)
    panels = figure.subplots(high, columns, squeeze=False)
    for axis in panels.flatten()[len(effects) :]:
        axis.set_axis_off()
    for k, (words, found) in enumerate(effects.items()):
        panel, one = panels[divmod(k, columns)], pooled.get(words)
        panel.axvline(0, color=FAINT, linewidth=0.9, zorder=1)
        for y, study in enumerate(studies):
            if study in found:
                mark(panel, y, found[study].difference, found[study].ci95, BLUE)
        if one is not None:
            panel.plot(one.prediction95, [len(studies)] * 2, color=VERMILLION, linewidth=0.9, zorder=2)
            panel.plot(one.ci95, [len(studies)] * 2, color=VERMILLION, linewidth=4, zorder=3)
            panel.plot(one.mean, len(studies), "D", color=VERMILLION, markersize=7, zorder=4)
        name_rows(panel, names if k % columns == 0 else [""] * len(names))
        panel.axhline(len(studies) - 0.5, color=FAINT, linewidth=0.6)
        means = [100 * abs(c.difference) for c in found.values() if np.isfinite(c.difference)]
        widest = max([1.0, *means, *(map(abs, one.ci95) if one else ())])
        panel.set_xlim(-LIMITS * widest, LIMITS * widest)
        panel.set_xlabel(f"{words}, points")
    explain(panels[0, 0], "mean with 95 % interval; red: mean of all, and 95 % prediction")
    return figure
