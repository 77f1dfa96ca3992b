"""Several numbers as one cell of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxtl.protocol.results import compact, number
from jaxtl.report.tables import DASH

GIVEN_CHOICE = (
    "Conditional: intervals and verdicts are over draws, given one source model and what was chosen once for all of "
    "them."
)


def percent(values: Sequence[float] | np.ndarray, pattern: str = ".1f") -> str:
    """Mean ± sd of fractions, in percent; what is NaN is left out.

    Example:
        >>> percent([0.5, 0.75, math.nan])
        '62.5 ± 17.7'
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return DASH
    sd = f" ± {100 * np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return number(100 * float(np.mean(known)), pattern) + sd


def span(values: Sequence[float] | np.ndarray) -> str:
    """The smallest and the largest, where they differ.

    Example:
        >>> span([0.3, 2.0, 0.1]), span([2.0, 2.0])
        ('0.10 to 2.0', '2.0')
    """
    return " to ".join(dict.fromkeys(compact(float(end)) for end in (np.min(values), np.max(values))))


def without_farthest(values: np.ndarray) -> float:
    """The mean of all values but the one that is farthest from it.

    Example:
        >>> without_farthest(np.array([1.0, 2.0, -30.0]))
        1.5
    """
    return float(np.delete(values, np.abs(values - values.mean()).argmax()).mean())
