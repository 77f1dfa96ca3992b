"""What the outputs of a model mean: how sure to be, in what unit, within what interval; of examples left out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

COVERAGE = 0.9  # of the interval of a number


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
