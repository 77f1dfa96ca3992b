"""LogME: how probable labels are under a linear model of features whose coefficients are integrated out."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.methods.transferability.inputs import checked_features

DECADES = (-60, 20)  # of α/β beside the largest squared singular value, in which the maximum is looked for
STEPS = 4  # points a decade; then each class closes in on its best
ROUNDS, POINTS = 9, 17  # of closing in, each time to an eighth


def logme(features: ArrayLike, labels: ArrayLike) -> float:
    """Log evidence per example, mean over the classes as one-against-rest targets, at its maximum over α and β.

    log p(y | F, α, β) = n/2 log β + D/2 log α − n/2 log 2π − β/2 ‖F m − y‖² − α/2 ‖m‖² − ½ log det(αI + βFᵀF),
    y ~ N(F w, 1/β), w ~ N(0, 1/α), m the mean of w. Of β the maximum is known for each α/β; over α/β, where there may
    be several, the highest is taken. Rotations and one scale for all features leave it as it is; features are not
    centred, and there is no intercept. Infinite where fewer directions than examples fit the labels exactly. (Popular
    code adds 1e-5 here and there and stops after eleven steps of a fixed point: its value depends on the scale of the
    features.)

    Args:
        features: [N, D] of the labelled target examples; N >= 2, finite.
        labels: [N] integers 0..C−1, of two classes or more.

    Returns:
        The score; larger is better.

    Raises:
        InputError: shapes that do not fit, NaN, one class, a class without example.

    Example:
        >>> features = [[1.0], [0.8], [-0.9], [-1.1]]
        >>> logme(features, [0, 0, 1, 1]) > logme(features, [0, 1, 0, 1])
        True

    Source: You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", 2021; MacKay,
    "Bayesian Interpolation", 1992.
    """
    given, codes, rounding = checked_features(features, labels, "logme")
    left, singular, _ = np.linalg.svd(given, full_matrices=False)
    real = singular > rounding * singular[0]
    if not real.any():
        return float(np.mean(_without(codes)))
    squares, inner = (singular[real] / singular[0]) ** 2, left[:, real].T @ codes  # the scale of features falls out
    outside = np.sum((codes - left[:, real] @ inner) ** 2, axis=0)
    outside = np.where(outside <= rounding**2 * codes.sum(axis=0), 0.0, outside)
    if len(squares) < len(given) and not outside.all():
        return math.inf
    ratios = math.log(10) * np.linspace(*DECADES, STEPS * (DECADES[1] - DECADES[0]) + 1)
    best = ratios[_evidence(ratios, squares, inner**2, outside, len(given)).argmax(axis=0)]
    found = [
        _highest(centre, squares, own[:, None] ** 2, rest, len(given))
        for centre, own, rest in zip(best, inner.T, outside, strict=True)
    ]
    return float(np.mean(np.maximum(found, _without(codes))))


def _evidence(ratios: np.ndarray, squares: np.ndarray, inner: np.ndarray, outside: np.ndarray, n: int) -> np.ndarray:
    """[L, C] per example, at log(α/β) [L] and the β that is best there; squares [R], inner [R, C], outside [C]."""
    ratio = np.exp(ratios)[:, None]
    shrunk = ratio / (ratio + squares[None])  # [L, R]
    error = outside + shrunk @ inner
    volume = np.sum(np.log(shrunk), axis=1)[:, None]
    return 0.5 * (math.log(n / (2 * math.pi)) - 1 - np.log(error) + volume / n)


def _highest(centre: float, squares: np.ndarray, inner: np.ndarray, outside: float, n: int) -> float:
    """The maximum for one class, near the best point of a grid."""
    reach, value = math.log(10) / STEPS, -math.inf
    for _ in range(ROUNDS):
        ratios = centre + reach * np.linspace(-1, 1, POINTS)
        values = _evidence(ratios, squares, inner, np.array([outside]), n)[:, 0]
        centre, value, reach = float(ratios[values.argmax()]), float(values.max()), 2 * reach / (POINTS - 1)
    return value


def _without(codes: np.ndarray) -> np.ndarray:
    """[C] the evidence of no coefficients at all, α → ∞."""
    return 0.5 * (-np.log(codes.mean(axis=0)) - math.log(2 * math.pi) - 1)
