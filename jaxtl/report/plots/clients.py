"""How clients fare: round by round, and from the one that is served worst to the one that is served best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxtl.report.plots.style import PALETTE, PERCENT, explain, legend_outside, new_figure, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLES = ("-", "--", ":", "-.")  # as many times the colours of the palette


class Line(NamedTuple):
    """Of a method, fractions: rounds, its clients there in the mean and in the worst tenth; at the end, sorted."""

    rounds: np.ndarray
    mean: np.ndarray
    worst: np.ndarray
    by_client: np.ndarray


def by_round_and_client(title: str, methods: Mapping[str, Line]) -> Figure:
    """Three panels: the mean and the worst tenth by round on held-out examples, all clients on test examples.

    Args:
        title: of the figure.
        methods: by name.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10.5, 4.2, title)
    panels = figure.subplots(1, 3, sharey=True)
    looks: dict[str, dict[str, Any]] = {
        method: {"color": PALETTE[k % len(PALETTE)], "linestyle": STYLES[k // len(PALETTE) % len(STYLES)]}
        for k, method in enumerate(methods)
    }
    for method, line in methods.items():
        share = 100 * np.arange(1, len(line.by_client) + 1) / max(1, len(line.by_client))
        for panel, x, y in zip(
            panels,
            (line.rounds, line.rounds, share),
            (line.mean, line.worst, line.by_client),
            strict=True,
        ):
            panel.plot(x, 100 * y, linewidth=1.5, **looks[method])
    for panel, words in zip(panels, ("mean over clients", "worst tenth of clients", "clients at the end"), strict=True):
        explain(panel, words)
        panel.set_ylim(within(PERCENT, panel.get_ylim()))
    for panel in panels[:2]:
        panel.set_xlabel("round")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[2].set_xlabel("clients, the worst served first, %")
    panels[0].set_ylabel("accuracy, %")
    legend_outside(figure, [Line2D([], [], linewidth=1.8, **look) for look in looks.values()], list(looks))
    return figure
