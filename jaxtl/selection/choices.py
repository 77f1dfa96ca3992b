"""What criteria choose among settings that were all trained on the same draws, and what their choices are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.protocol import Contrast, paired
from jaxtl.selection.validation import regret


class Choice(NamedTuple):
    """What one criterion came to.

    Attributes:
        picked: [draws] the setting that it chose on each draw.
        test: [draws] test accuracy of that setting.
        worth: that less the test accuracy of the best fixed setting, paired by draw.
    """

    picked: np.ndarray
    test: np.ndarray
    worth: Contrast


def judge_choices(scores: Mapping[str, ArrayLike], test: ArrayLike, best: str = "best fixed") -> dict[str, Choice]:
    """Let every criterion choose a setting on every draw, and hold it against the best setting that is fixed.

    Of equals the first is chosen. So scores that are all 0 choose the first setting, the mean of `test` over draws
    chooses the best fixed one, and `test` itself the best of every draw.

    Args:
        scores: criterion -> [draws, K], or [K] for all draws, larger is better; what is not finite is never chosen.
        test: [draws, K] test accuracies of the same runs. They judge, and have no part in a choice.
        best: what the best fixed setting is called in contrasts.

    Returns:
        {criterion: Choice}, without those that have no finite score on some draw.

    Example:
        >>> found = judge_choices({"aic": [[-8.0, -7.0], [-7.0, -8.0]], "bic": [np.nan, np.nan]}, [[0.5, 0.75]] * 2)
        >>> {name: (one.picked.tolist(), one.test.tolist(), one.worth.difference) for name, one in found.items()}
        {'aic': ([1, 0], [0.75, 0.5], -0.125)}
    """
    accuracies = np.asarray(test, np.float64)
    found = {}
    for name, values in scores.items():
        known = np.broadcast_to(np.asarray(values, np.float64), accuracies.shape)
        known = np.where(np.isfinite(known), known, -np.inf)
        if np.isfinite(known).any(axis=1).all():
            picked = known.argmax(axis=1)
            chosen = accuracies[np.arange(len(accuracies)), picked]
            found[name] = Choice(picked, chosen, paired(name, best, -regret(known, accuracies)))
    return found


def ranked(*scores: ArrayLike) -> np.ndarray:
    """One score that goes by several: by the first, where it is equal by the second, and so on.

    Args:
        scores: [..., K] each, larger is better; −inf for a setting that diverged.

    Returns:
        [..., K] integers from 0, larger is better, equal where all scores are.

    Raises:
        InputError: no score, shapes that differ, NaN.

    Example:
        >>> ranked([0.5, 0.5, 0.25, 0.5], [-2.0, -1.0, 0.0, -1.0]).tolist()
        [1, 2, 0, 2]
    """
    values = [np.asarray(score, np.float64) for score in scores]
    if not values or len({one.shape for one in values}) != 1 or not values[0].size:
        raise InputError(f"scores {[list(one.shape) for one in values]}", where="ranked", todo="give all [..., K]")
    if any(np.isnan(one).any() for one in values):
        raise InputError("scores are NaN", where="ranked", todo="score a setting that diverged −inf")
    order = np.lexsort(values[::-1], axis=-1)
    placed = np.stack([np.take_along_axis(one, order, axis=-1) for one in values])
    rises = np.concatenate([np.zeros_like(order[..., :1]), (placed[..., 1:] != placed[..., :-1]).any(axis=0)], axis=-1)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.cumsum(rises, axis=-1), axis=-1)
    return found


def random_search(scores: ArrayLike, worth: ArrayLike, tried: int) -> np.ndarray:
    """What the best of so many settings at random is worth in the mean, Σ_j C(j − 1, m − 1) / C(K, m) worth_(j).

    The j-th worst of K settings by score is the best of m of them, drawn without replacement, in C(j − 1, m − 1) of
    C(K, m) ways: exact, where drawing searches would only come near. Settings of one score are chosen equally often.

    Args:
        scores: [..., K] that choose, larger is better; −inf for a setting that diverged.
        worth: [..., K] what judges: test accuracies.
        tried: m, 1 to K; K is the choice among all, 1 the mean.

    Returns:
        [...] float64.

    Raises:
        InputError: shapes that differ, NaN, a worth that is not finite, more tried than there are.

    Example:
        >>> [random_search([1.0, 2.0, 3.0], [0.5, 0.8, 0.65], m).round(3).item() for m in (1, 2, 3)]
        [0.65, 0.7, 0.65]
    """
    value, judged = ranked(scores), np.asarray(worth, np.float64)
    count = value.shape[-1]
    if value.shape != judged.shape or not np.isfinite(judged).all():
        what = f"scores {list(value.shape)}, worth {list(judged.shape)}, or not finite"
        raise InputError(what, where="random_search", todo="give both [..., settings]")
    if not 1 <= tried <= count:
        raise InputError(f"{tried} of {count} settings", where="random_search", todo=f"try 1 to {count}")
    ways = np.array([math.comb(j, tried - 1) / math.comb(count, tried) for j in range(count)])  # worst first
    rows = np.arange(value.size // count).reshape(*value.shape[:-1], 1)
    groups = np.sort(value, axis=-1) + count * rows  # of equals in one row
    together = np.bincount(groups.ravel(), np.broadcast_to(ways, groups.shape).ravel())
    shared = together / np.maximum(np.bincount(groups.ravel()), 1)  # each of them has the mean of their ways
    return np.sum(judged * shared[value + count * rows], axis=-1)
