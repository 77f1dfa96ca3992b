"""What examples look like: a row of grey pictures for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.report.plots.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def examples(title: str, rows: Mapping[str, np.ndarray]) -> Figure:
    """A row for each kind of pictures, each kind from its least value, black, to its largest.

    Args:
        title: of the figure.
        rows: {what they are: [N, H, W, 1]}, N >= 1.
    """
    across = max(len(pictures) for pictures in rows.values())
    figure = new_figure(9.2, 0.5 + 1.0 * len(rows), title)
    panels = figure.subplots(len(rows), across, squeeze=False)
    for line, (name, pictures) in zip(panels, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture[..., 0], cmap="gray", vmin=pictures.min(), vmax=pictures.max())
        for axis in line:
            axis.grid(visible=False)
            axis.set_xticks([])
            axis.set_yticks([])
        for axis in line[len(pictures) :]:
            axis.set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
