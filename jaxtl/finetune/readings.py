"""What the outputs of a model mean: how sure to be, in what unit, within what interval; of examples left out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxtl.selection import temperature

COVERAGE = 0.9  # of the interval of a number
MOST_CALIBRATING = 10_000  # examples: more of them move a temperature no further,
MOST_NUMBERS = 4_000_000  # nor do more logits


class Reading(NamedTuple):
    """What the outputs of a model mean.

    Attributes:
        temperature: that logits are divided by.
        mean, spread: of the numbers that were standardised.
        half: of the interval around a number.
    """

    temperature: float = 1.0
    mean: float = 0.0
    spread: float = 1.0
    half: float = 0.0

    def value(self, outputs: Any) -> Any:
        """Numbers in their own unit, of standardised ones [...]."""
        return self.mean + self.spread * outputs


def half_width(labels: np.ndarray, outputs: np.ndarray) -> float:
    """The half of an interval that holds 90 % of numbers: the ⌈0.9 (n + 1)⌉-th smallest of n errors on those left out.

    A further example, of the same kind as those, has its error at any place among theirs with equal probability. So 9
    are needed; the model that is kept learns from more than each that was judged, which makes it rather too wide.

    Args:
        labels, outputs: [n, 1] of examples left out, each once.

    Example:
        >>> half_width(np.arange(19.0)[:, None], np.zeros((19, 1)))  # the 18th of 19
        17.0

    Source: Papadopoulos, Proedrou, Vovk and Gammerman, Inductive confidence machines for regression (2002).
    """
    errors = np.sort(np.abs(np.asarray(labels, np.float64) - outputs), axis=None)
    place = math.ceil(COVERAGE * (len(errors) + 1) - 1e-9)
    return float(errors[place - 1]) if place <= len(errors) else math.inf


def calibrated(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that says how sure to be, of examples left out and of one more that is wrong.

    Where few are judged and all are right, the likeliest temperature calls every answer certain. One further example of
    the median margin, which belongs to the second class, keeps it from that: what Laplace's rule of succession adds. Of
    more than ten thousand examples as many are looked at, at equal distances.

    Args:
        logits: [N, C] of examples left out.
        labels: [N] integers.
    """
    if len(logits) > (most := min(MOST_CALIBRATING, max(1, MOST_NUMBERS // logits.shape[1]))):
        some = np.linspace(0, len(logits) - 1, most).astype(int)
        logits, labels = logits[some], labels[some]
    ranked = np.argsort(logits, axis=1)
    margins = np.take_along_axis(logits, ranked[:, -1:], 1) - np.take_along_axis(logits, ranked[:, -2:-1], 1)
    middle = int(np.argsort(margins[:, 0], kind="stable")[len(margins) // 2])
    more = np.concatenate([logits, logits[middle : middle + 1]])
    return temperature(more, np.append(labels, ranked[middle, -2]))
