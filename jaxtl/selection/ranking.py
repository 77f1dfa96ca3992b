"""What a score is worth that ranks candidates before any is tried: agreement of ranks, and what its choice loses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.selection.validation import regret

RESAMPLES = 4000


class Ranked(NamedTuple):
    """A score held against what candidates turned out to be worth; of [targets, draws] cells each.

    Attributes:
        tau: Kendall's τ-b of score and worth over the candidates.
        weighted: the same with pairs weighted by how good their candidates are.
        regret: worth of the candidate that is best in the mean over the draws of a target, less that of the chosen one.
        chosen: worth of the chosen candidate.
    """

    tau: np.ndarray
    weighted: np.ndarray
    regret: np.ndarray
    chosen: np.ndarray


def kendall(scores: ArrayLike, worth: ArrayLike, weighted: bool = False) -> float:
    """Kendall's τ-b: Σ w_ij sign(s_i − s_j) sign(a_i − a_j) / √(Σ w_ij [s_i ≠ s_j] · Σ w_ij [a_i ≠ a_j]).

    Args:
        scores: [K], −inf and inf included.
        worth: [K] what was measured; finite.
        weighted: w_ij = 1/r_i + 1/r_j with the rank r by worth, 1 for the best (equals: the mean of their weights), so
            that it counts most to get the best right; otherwise all pairs count alike.

    Returns:
        −1 to 1; 0 where all scores, or all that was measured, are equal.

    Raises:
        InputError: shapes that do not fit, fewer than two candidates, NaN, what was measured not finite.

    Example:
        >>> kendall([1.0, 2.0, 3.0], [0.1, 0.2, 0.3]), round(kendall([1.0, 2.0, 2.0], [0.1, 0.2, 0.3]), 4)
        (1.0, 0.8165)
        >>> round(kendall([1.0, 3.0, 2.0], [0.1, 0.2, 0.3], weighted=True), 4)  # the two best in the wrong order
        0.1818

    Source: Kendall, "The Treatment of Ties in Ranking Problems", 1945; Vigna, "A Weighted Correlation Index for
    Rankings with Ties", 2015.
    """
    s, a = np.asarray(scores, np.float64), np.asarray(worth, np.float64)
    if s.ndim != 1 or s.shape != a.shape or len(s) < 2:
        what = f"scores {list(s.shape)}, worth {list(a.shape)}"
        raise InputError(what, where="kendall", todo="give both [candidates], two or more")
    if np.isnan(s).any() or not np.isfinite(a).all():
        todo = "score a candidate that has no score −inf"
        raise InputError("scores are NaN, or what was measured is not finite", where="kendall", todo=todo)
    ours = (s[:, None] > s[None]).astype(float) - (s[:, None] < s[None])
    theirs = np.sign(a[:, None] - a[None])
    own = _rank_weights(a) if weighted else np.ones(len(a))
    weights = own[:, None] + own[None]
    pairs = np.sum(weights * ours**2) * np.sum(weights * theirs**2)
    return float(np.sum(weights * ours * theirs) / np.sqrt(pairs)) if pairs > 0 else 0.0


def rank_and_choose(scores: ArrayLike, worth: ArrayLike) -> Ranked:
    """Hold a score against what candidates turned out to be worth, on every draw of every target.

    Args:
        scores: [targets, draws, K], larger is better; −inf for what has none. Of equals the first is chosen.
        worth: [targets, draws, K], such as accuracies; finite.

    Returns:
        `Ranked`.

    Raises:
        InputError: shapes that differ, and what `kendall` refuses.

    Example:
        >>> found = rank_and_choose([[[1.0, 3.0, 2.0]]], [[[0.25, 0.5, 0.75]]])
        >>> round(float(found.tau[0, 0]), 4), found.regret.tolist(), found.chosen.tolist()
        (0.3333, [[0.25]], [[0.5]])
    """
    s, a = np.asarray(scores, np.float64), np.asarray(worth, np.float64)
    if s.shape != a.shape or s.ndim != 3 or not s.size:
        what = f"scores {list(s.shape)}, worth {list(a.shape)}"
        raise InputError(what, where="rank_and_choose", todo="give both [targets, draws, candidates]")
    cells = zip(s.reshape(-1, s.shape[-1]), a.reshape(-1, s.shape[-1]), strict=True)
    taus = np.array([[kendall(x, y), kendall(x, y, weighted=True)] for x, y in cells]).T.reshape(2, *s.shape[:2])
    chosen = np.take_along_axis(a, s.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return Ranked(taus[0], taus[1], np.array([regret(*target) for target in zip(s, a, strict=True)]), chosen)


def resampled_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over targets and draws: targets are drawn anew, and in each its draws.

    It covers other targets of the kind and other draws in them, with the candidates as they are. Of few targets it is
    too short: of six by 30 %, 1.96 √(5/6) standard errors where a t interval has 2.57.

    Args:
        values: [targets, draws].
        seed: of the resampling.

    Returns:
        (2.5 %, 97.5 %) of the mean.

    Raises:
        InputError: no such array, or values that are not finite.

    Example:
        >>> resampled_interval([[0.5, 0.5], [0.5, 0.5]])
        (0.5, 0.5)

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
    """
    cells = np.asarray(values, np.float64)
    if cells.ndim != 2 or not cells.size or not np.isfinite(cells).all():
        what = f"values {list(cells.shape)}, or not finite"
        raise InputError(what, where="resampled_interval", todo="give finite numbers [targets, draws]")
    rng, (targets, draws) = np.random.default_rng(seed), cells.shape
    rows = rng.integers(targets, size=(RESAMPLES, targets))
    within = rng.integers(draws, size=(RESAMPLES, targets, draws))
    low, high = np.quantile(cells[rows[..., None], within].mean(axis=(1, 2)), (0.025, 0.975))
    return float(low), float(high)


def _rank_weights(worth: np.ndarray) -> np.ndarray:
    """1/rank [K], 1 for the best; of equals the mean of theirs."""
    order = np.argsort(-worth, kind="stable")
    weights = np.empty(len(worth))
    weights[order] = 1 / (1 + np.arange(len(worth)))
    _, same = np.unique(worth, return_inverse=True)
    return (np.bincount(same, weights) / np.bincount(same))[same]
