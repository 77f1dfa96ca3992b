"""Linear models along λ as others solve and judge them: what descent is held against, and what criteria are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxtl.selection.ridge import RidgePath, ridge_path

CRITERIA = ("LOO", "GCV", "AIC", "AICc", "BIC", "evidence")
UNPENALISED, BEST = "least squares", "best λ"  # bounds that nobody chooses by


def ridge_coefficients(x: np.ndarray, y: np.ndarray, lams: np.ndarray) -> np.ndarray:
    """Coefficients of ridge regression in closed form.

    Args:
        x: [n, D] features.
        y: [n] targets.
        lams: [L] rates.

    Returns:
        [L, D], without an intercept.

    Example:
        >>> ridge_coefficients(np.array([[1.0], [-1.0]]), np.array([2.0, -2.0]), np.array([1.0])).round(6).tolist()
        [[1.0]]
    """
    return ridge_path(x, y, lams, fit_intercept=False).coef[:, :, 0]


def elastic_net_path(x: np.ndarray, y: np.ndarray, lams: np.ndarray, l1_ratio: float) -> np.ndarray:
    """Coefficients by scikit-learn's coordinate descent; its `alpha` is our rate, and its objective the same.

    Args:
        x: [n, D] features.
        y: [n] targets.
        lams: [L] rates, ascending.
        l1_ratio: 1 is the lasso.

    Returns:
        [L, D], without an intercept.

    Example:
        >>> elastic_net_path(np.array([[1.0], [-1.0]]), np.array([2.0, -2.0]), np.array([0.5, 3.0]), 1.0).tolist()
        [[1.5], [0.0]]
    """
    from sklearn.linear_model import enet_path

    falling = lams[::-1]
    _, theirs, _ = enet_path(x, y, l1_ratio=l1_ratio, alphas=falling, tol=1e-12, max_iter=1_000_000, precompute=True)
    return theirs.T[::-1]


def group_lasso_violation(
    x: np.ndarray, y: np.ndarray, lams: np.ndarray, coefficients: np.ndarray, sizes: Sequence[int]
) -> float:
    """How far coefficients are from a minimum of the group lasso: 0 there, and nowhere else.

    Xᵀr/n has to be λ√g·w/‖w‖ where a group stays, and within λ√g where it went.

    Args:
        x: [n, D] features, group by group.
        y: [n] targets.
        lams: [L] rates.
        coefficients: [L, D].
        sizes: how many features each group has.

    Returns:
        The largest violation of any group at any λ.

    Example:
        >>> x, y = np.array([[1.0], [-1.0]]), np.array([2.0, -2.0])
        >>> [group_lasso_violation(x, y, np.array([0.5]), np.array([[w]]), [1]) for w in (1.5, 1.0, 0.0)]
        [0.0, 0.5, 1.5]
    """
    slopes = (y - coefficients @ x.T) @ x / len(x)
    largest, start = 0.0, 0
    for size in sizes:
        part = slice(start, start + size)
        w, slope, price = coefficients[:, part], slopes[:, part], lams * size**0.5
        norm = np.linalg.norm(w, axis=1)
        direction = w / np.where(norm > 0, norm, 1.0)[:, None]
        stays = np.abs(slope - price[:, None] * direction).max(axis=1)
        went = np.maximum(np.linalg.norm(slope, axis=1) - price, 0.0)
        largest, start = max(largest, float(np.where(norm > 0, stays, went).max())), part.stop
    return largest


def ridge_criteria(path: RidgePath) -> dict[str, np.ndarray]:
    """What can be known of a single target without other examples, by `CRITERIA`: [L] each, smaller is better.

    Example:
        >>> path = ridge_path(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [1.0], [2.0]]), [0.01, 1.0])
        >>> {name: int(values.argmin()) for name, values in ridge_criteria(path).items()}["LOO"]
        0
    """
    values = (path.loo[:, 0], path.gcv, path.aic, path.aicc, path.bic, -2 * path.log_evidence)
    return dict(zip(CRITERIA, values, strict=True))


def judge_ridge(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, lams: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Let every criterion choose λ on some examples, and judge its choice by others.

    Args:
        x: [n, D] features, which are scaled by their spread in `train`.
        y: [n] targets.
        train, test: indices of examples.
        lams: [L] rates to choose among.

    Returns:
        {criterion: (R² on `test`, λ)}; beside `CRITERIA` the λ that is best on `test`, and least squares without any.
    """
    spread = x[train].std(axis=0)
    scaled = x / np.where(spread > 0, spread, 1.0)
    path = ridge_path(scaled[train], y[train], lams)
    variance = np.mean((y[test] - y[test].mean()) ** 2)

    def r2(coefficients: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        errors = y[test] - coefficients @ scaled[test].T - intercept
        return 1 - np.mean(errors**2, axis=-1) / variance

    along = r2(path.coef[:, :, 0], path.intercept)
    chosen = {name: int(np.argmin(values)) for name, values in ridge_criteria(path).items()}
    chosen[BEST] = int(np.argmax(along))
    found = {name: (float(along[k]), float(lams[k])) for name, k in chosen.items()}
    solution = np.linalg.lstsq(np.column_stack([scaled[train], np.ones(len(train))]), y[train])[0]
    return found | {UNPENALISED: (float(r2(solution[:-1], solution[-1])), 0.0)}
