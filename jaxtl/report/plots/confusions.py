"""What an accuracy hides: which classes are taken for which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxtl.report.plots.style import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = 12  # classes up to which a confusion is drawn with numbers
NAMED = 40  # classes up to which each has its name on the axes
LONGEST = 18  # characters of a name on an axis
MOST = 3  # confusions in words
SLANTED: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}


def shares(confusions: Sequence[np.ndarray]) -> np.ndarray:
    """[C, C] shares of each class (row), of all draws together; NaN for a class without test examples."""
    counts = np.sum(confusions, axis=0, dtype=np.float64)
    of_class = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, of_class, out=np.full(counts.shape, np.nan), where=of_class > 0)


def in_words(confusions: Sequence[np.ndarray], names: Sequence[str]) -> str:
    """The largest shares off the diagonal.

    Example:
        >>> in_words([np.array([[8, 2], [1, 9]])], ["cat", "dog"])
        'cat taken for dog (20 %), dog for cat (10 %)'
    """
    found = np.nan_to_num(shares(confusions))
    np.fill_diagonal(found, 0.0)
    order = np.argsort(-found, axis=None, kind="stable")[:MOST]
    pairs = [divmod(int(k), len(names)) for k in order if found.flat[k] > 0]
    words = [f"{names[i]} taken for {names[j]} ({100 * found[i, j]:.0f} %)" for i, j in pairs]
    return ", ".join([*words[:1], *(one.replace(" taken for ", " for ", 1) for one in words[1:])]) or "none"


def confusion_maps(title: str, names: Sequence[str], of: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """A panel per method: the share of each true class (row) that is taken for each class (column), on one scale.

    Args:
        title: of the figure.
        names: of the C classes.
        of: method -> its confusions [C, C], one for each draw.
    """
    size = min(5.4, max(2.6, 0.34 * len(names) + 0.9))
    figure = new_figure(1.5 + size * len(of), 1.1 + size, title)
    panels = figure.subplots(1, len(of), sharey=True, squeeze=False)[0]
    shown = _shortened(names)
    ticks = list(range(len(names))) if len(names) <= NAMED else []
    for axis, (method, confusions) in zip(panels, of.items(), strict=True):
        found = 100 * shares(confusions)
        image = axis.imshow(found, cmap="Blues", vmin=0, vmax=100)
        axis.grid(visible=False)
        for row, column in np.argwhere(found >= 0.5) if len(names) <= NUMBERS else ():
            colour = "white" if found[row, column] > 60 else INK
            axis.text(column, row, f"{found[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_title(method, loc="left", fontweight="bold")
        axis.set_xticks(ticks, [shown[k] for k in ticks], fontsize=7, **(SLANTED if max(map(len, shown)) > 3 else {}))
        axis.set_yticks(ticks, [shown[k] for k in ticks], fontsize=7)
        axis.tick_params(length=0)
        axis.set_xlabel("taken for")
    panels[0].set_ylabel("class")
    figure.colorbar(image, ax=list(panels), label="of the class, %", shrink=0.8)
    return figure


def _shortened(names: Sequence[str]) -> list[str]:
    """Beginning and end of what is too long for an axis, with their numbers where that makes two alike."""
    shown = [name if len(name) <= LONGEST else f"{name[: LONGEST - 8]}…{name[-7:]}" for name in names]
    return shown if len(set(shown)) == len(set(names)) else [f"{k}: {name}" for k, name in enumerate(shown)]
