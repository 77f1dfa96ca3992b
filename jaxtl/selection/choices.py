"""What criteria choose among settings that were all trained on the same draws, and what their choices are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

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
