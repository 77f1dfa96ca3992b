"""Boxes drawn on pictures: what is true there, and what each of a few methods found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.report.plots.style import PALETTE, legend_outside, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def drawn_boxes(
    title: str, images: np.ndarray, truth: np.ndarray, found: Mapping[str, np.ndarray], classes: Sequence[str]
) -> Figure:
    """A row with what is true, and one for each method; a column for each picture, a colour for each class.

    Args:
        title: of the figure.
        images: uint8 [N, H, W, C], grey or colour.
        truth: [N, M, 5] boxes and classes, −1 for none.
        found: {method: [N, K, 6] boxes, classes and scores, the surest first}; as many are drawn as there are true
            ones, whatever the scores.
        classes: their names.
    """
    from matplotlib.lines import Line2D

    many = (truth[..., 4] >= 0).sum(axis=1)
    surest = {
        f"surest of {name}": [own[:count] for own, count in zip(each, many, strict=True)]
        for name, each in found.items()
    }
    rows: dict[str, Any] = {"true": truth, **surest}
    height = 9.0 / len(images) * images.shape[1] / images.shape[2]
    figure = new_figure(9.2, 0.9 + (height + 0.15) * len(rows), title)
    panels = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (name, boxes) in zip(panels, rows.items(), strict=True):
        for axis, image, own in zip(line, images, boxes, strict=True):
            axis.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap=None if image.shape[-1] == 3 else "gray")
            _draw(axis, own)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
        line[0].set_ylabel(name)
    marks = [Line2D([], [], color=PALETTE[c % len(PALETTE)], linewidth=2) for c in range(len(classes))]
    legend_outside(figure, marks, list(classes))
    return figure


def precision_and_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray, int]], sure: float) -> Figure:
    """A curve per class: how many of the boxes that are believed are right, against how many of the true are found.

    Args:
        curves: class -> (scores [D], the surest first; right bool [D]; how many are true); without any true, no curve.
        sure: the score from which on boxes are believed, a point on each curve.
    """
    figure = new_figure(5.6, 4.4, "Right of what is believed, against found of what is there")
    axis = figure.subplots()
    for c, (name, (scores, right, truths)) in enumerate(curves.items()):
        if not truths or not len(scores):
            continue
        colour, hits = PALETTE[c % len(PALETTE)], np.cumsum(right)
        recall, precision = 100 * hits / truths, 100 * hits / np.arange(1, len(hits) + 1)
        axis.plot(recall, precision, color=colour, linewidth=1.3, label=name)
        if (believed := int((scores >= sure).sum())) > 0:
            axis.scatter(recall[believed - 1], precision[believed - 1], s=34, color=colour, zorder=3)
    axis.set_xlim(0, 102)
    axis.set_ylim(-2, 102)
    axis.set_xlabel("found of what is there, %")
    axis.set_ylabel("right of what is believed, %")
    handles, labels = axis.get_legend_handles_labels()
    legend_outside(figure, handles, labels)
    return figure


def _draw(axis: Axes, boxes: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1, label in boxes[boxes[:, 4] >= 0, :5]:
        colour = PALETTE[int(label) % len(PALETTE)]
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.1))
