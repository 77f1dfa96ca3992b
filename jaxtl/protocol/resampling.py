"""Intervals by drawing again: what a figure would have been on other people, or other groups of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError

RESAMPLES = 1000


def bootstrap_interval(
    score: Callable[[np.ndarray], float], groups: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % of a figure over groups that are drawn again with replacement, each with all of its examples.

    Pictures of one patient are alike, and many of them say less than as many patients would; so it is patients that are
    drawn. With a group for every example it is the interval over examples.

    Args:
        score: rows [M] of the examples, with repetition -> the figure; NaN where it has none, which is left out.
        groups: [N], the same label for all examples of a group.
        resamples: how often.
        seed: of the draws.

    Returns:
        The 2.5th and 97.5th percentile; (NaN, NaN) of one group alone, and where no resample has a figure.

    Raises:
        InputError: no groups [N], no resample.

    Example:
        >>> heights = np.arange(50.0)
        >>> low, high = bootstrap_interval(lambda rows: heights[rows].mean(), np.arange(50))
        >>> bool(low < heights.mean() < high)
        True

    Source: Efron, Bootstrap methods: another look at the jackknife (1979); Field and Welsh, Bootstrapping clustered
    data (2007).
    """
    labels = np.asarray(groups)
    if labels.ndim != 1 or not len(labels) or resamples < 1:
        what = f"groups of shape {list(labels.shape)}, {resamples} resamples"
        raise InputError(what, where="bootstrap_interval", todo="give a group for each example, and 1 resample or more")
    known, place = np.unique(labels, return_inverse=True)
    if (count := len(known)) < 2:
        return math.nan, math.nan
    order = np.argsort(place, kind="stable")
    sizes = np.bincount(place)
    starts = np.cumsum(sizes) - sizes
    rng, values = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = rng.integers(0, count, count)
        of_each = sizes[drawn]
        within = np.arange(of_each.sum()) - np.repeat(np.cumsum(of_each) - of_each, of_each)
        values.append(score(order[np.repeat(starts[drawn], of_each) + within]))
    finite = [value for value in values if math.isfinite(value)]
    low, high = np.percentile(finite, [2.5, 97.5]) if finite else (math.nan, math.nan)
    return float(low), float(high)
