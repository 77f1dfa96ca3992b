"""What a classifier says of examples it has not seen: how sure it is and how right, and where it is surely wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.protocol.measures import Measure
from jaxtl.protocol.results import interval_of_mean
from jaxtl.report.plots.style import BLUE, FAINT, INK, beside, explain, mark, name_rows, new_figure, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10
ACROSS = 6  # pictures in a row
MOST_POINTS = 3000  # of a scatter: more hide each other
LONGEST = 22  # characters of a name under a picture


def tried(values: Mapping[str, np.ndarray], measure: Measure, kept: str) -> Figure:
    """A row per method: a point for each draw, the mean and its 95 % interval.

    Args:
        values: method -> the measure by draw.
        measure: what it is.
        kept: the method that was chosen.
    """
    figure = new_figure(7.4, 1.2 + 0.34 * len(values), f"What was tried: {measure.name} on examples left out")
    axis = figure.subplots()
    name_rows(axis, list(values))
    for y, (name, own) in enumerate(values.items()):
        interval = interval_of_mean(list(own)) if len(own) > 1 else (float(own[0]), float(own[0]))
        mark(axis, y, float(own.mean()), interval, BLUE if name == kept else INK, name == kept, measure.scale)
        heights = y + np.linspace(-0.25, 0.25, len(own)) if len(own) > 1 else [y]
        axis.scatter(measure.scale * own, heights, s=9, color=INK, alpha=0.6, linewidths=0, zorder=3)
        beside(axis, y, f"{measure.shown(float(own.mean()))}{'  kept' if name == kept else ''}")
    axis.set_xlim(within(measure.told_bounds, axis.get_xlim()))
    axis.set_xlabel(measure.heading)
    explain(axis, "a point per draw, the same examples left out in every row; mean with 95 % interval")
    return figure


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean confidence, share that is right, how many) of every bin of confidence that holds an example.

    Args:
        probabilities: [N, C].
        labels: [N].

    Example:
        >>> bins = reliability_bins(np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45]]), np.array([0, 1, 0]))
        >>> [part.round(2).tolist() for part in bins]
        [[0.55, 0.95], [1.0, 0.5], [1, 2]]
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    some = count > 0
    sums = [np.bincount(place, weights, minlength=BINS)[some] for weights in (confidence, right.astype(float))]
    return sums[0] / count[some], sums[1] / count[some], count[some]


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Figure:
    """How often answers of each confidence are right: on the diagonal a probability means what it says."""
    confidence, right, count = reliability_bins(probabilities, labels)
    figure = new_figure(5.2, 4.6, "Does a probability mean what it says?")
    axis = figure.subplots()
    axis.plot([0, 100], [0, 100], color=FAINT, linewidth=0.9, linestyle="--")
    half = 196 * np.sqrt(right * (1 - right) / count)
    axis.errorbar(100 * confidence, 100 * right, half, fmt="none", ecolor=BLUE, elinewidth=1.2)
    axis.scatter(100 * confidence, 100 * right, s=20 + 180 * count / count.max(), color=BLUE, zorder=3)
    axis.set_xlim(0, 102)
    axis.set_ylim(-2, 102)
    axis.set_xlabel("probability of the answer, %")
    axis.set_ylabel("of such answers right, %")
    explain(axis, "examples left out; size: how many; 95 % interval")
    return figure


def predicted(truth: np.ndarray, value: np.ndarray, half: float) -> Figure:
    """A point per example: what is predicted against what is true, with the band that is to hold nine of ten.

    Args:
        truth, value: [N].
        half: of the interval around a prediction.
    """
    figure = new_figure(5.2, 4.8, "Predicted against true")
    axis = figure.subplots()
    ends = np.array([min(truth.min(), value.min()), max(truth.max(), value.max())])
    axis.fill_between(ends, ends - half, ends + half, color=BLUE, alpha=0.12, linewidth=0)
    axis.plot(ends, ends, color=FAINT, linewidth=0.9, linestyle="--")
    some = np.linspace(0, len(truth) - 1, min(len(truth), MOST_POINTS)).astype(int)
    axis.scatter(truth[some], value[some], s=12, color=BLUE, alpha=0.5, linewidths=0, zorder=3)
    axis.set_xlabel("true")
    axis.set_ylabel("predicted")
    explain(axis, "pictures that the model has not seen; band: the interval of a prediction")
    return figure


def surely_wrong(images: np.ndarray, captions: Sequence[tuple[str, str]]) -> Figure:
    """Pictures with what was said of them.

    Args:
        images: uint8 [n, H, W, 3].
        captions: two lines for each.
    """
    rows = -(-len(images) // ACROSS)
    figure = new_figure(9.0, 0.5 + 2.0 * rows, "The most wrong")
    panels = figure.subplots(rows, ACROSS, squeeze=False).flatten()
    for axis in panels:
        axis.set_axis_off()
    for axis, image, lines in zip(panels, images, captions, strict=False):
        axis.imshow(image)
        shown = [line if len(line) <= LONGEST else f"{line[: LONGEST - 8]}…{line[-7:]}" for line in lines]
        axis.set_title("\n".join(shown), fontsize=7, color=INK)
    return figure
