"""How well classes are told apart in the features of a source model: H-score, TransRate.

Both are of the n labelled target examples alone; nothing is trained. Larger is better. All in float64, through singular
values of the features and never through an inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.methods.transferability.inputs import checked_features

EPSILON = 1e-4  # of TransRate: the squared distortion up to which features are coded


def h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """How much of the features' variance, in units of itself, lies between classes: tr(cov(f)⁺ · cov(E[f|y])).

    Both covariances are ÷ n, so that 0 <= H <= min(C − 1, D): with f = U S Vᵀ, centred, it is Σ_c n_c ‖mean_c(U)‖². Any
    invertible linear map of the features leaves it as it is. With no fewer features than examples it is C − 1 whatever
    they are, and close to it with few more: then ask `regularized_h_score`. (Popular code divides one covariance by n
    and the other by n − 1, which breaks the bound.)

    Args:
        features: [N, D] of the labelled target examples; N >= 2, finite.
        labels: [N] integers 0..C−1, of two classes or more.

    Returns:
        H.

    Raises:
        InputError: shapes that do not fit, NaN, one class, a class without example.

    Example:
        >>> round(h_score([[0.0, 1.0], [0.0, -1.0], [3.0, 1.0], [3.0, -1.0]], [0, 0, 1, 1]), 6)
        1.0

    Source: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning", 2019.
    """
    explained, _ = _explained(*checked_features(features, labels, "h_score"))
    return float(explained.sum())


def regularized_h_score(features: ArrayLike, labels: ArrayLike) -> float:
    """The H-score with a covariance that few examples can bear: (1 − a) tr(Σ_a⁻¹ · cov(E[f|y])).

    Σ_a = (1 − a) cov(f) + a tr(cov(f))/D · I, a by Ledoit and Wolf; covariances are ÷ n. 0 <= it <= `h_score`.
    Rotations and one scale for all features leave it as it is. (Popular code mixes ÷ n and ÷ (n − 1).)

    Args:
        features: [N, D] of the labelled target examples; N >= 2, finite.
        labels: [N] integers 0..C−1, of two classes or more.

    Returns:
        The score.

    Raises:
        InputError: shapes that do not fit, NaN, one class, a class without example.

    Example:
        >>> f = [[0.0, 2.0, 1.0], [1.0, -2.0, 0.0], [9.0, 2.0, 1.0], [8.0, -2.0, 0.0]]
        >>> round(regularized_h_score(f, [0, 0, 1, 1]), 4)
        0.8514

    Source: Ibrahim, Ponomareva and Mazumder, "Newer is Not Always Better: Rethinking Transferability Metrics, Their
    Peculiarities, Stability and Performance", 2021; Ledoit and Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices", 2004.
    """
    given, codes, rounding = checked_features(features, labels, "regularized_h_score")
    explained, squares = _explained(given, codes, rounding)
    shrinkage = ledoit_wolf(given)
    kept = (1 - shrinkage) * squares
    return float(explained @ (kept / (kept + shrinkage * squares.sum() / given.shape[1])))


def transrate(features: ArrayLike, labels: ArrayLike) -> float:
    """Nats that coding the features takes, less what it takes within classes: R(Z) − Σ_c n_c/n R(Z_c).

    R(Z) = ½ log det(I + ZᵀZ/(n ε)), ε = 1e-4, Z less its mean over all examples. Never negative. It grows with the
    scale of the features: compare models by it whose features have one scale. (Popular code gives every class the same
    weight, however many examples it has.)

    Args:
        features: [N, D] of the labelled target examples; N >= 2, finite.
        labels: [N] integers 0..C−1, of two classes or more.

    Returns:
        The score.

    Raises:
        InputError: shapes that do not fit, NaN, one class, a class without example.

    Example:
        >>> round(transrate([[1.0], [1.0], [-1.0], [-1.0]], [0, 0, 1, 1]), 6)  # one direction, of no use within classes
        0.0
        >>> round(transrate([[1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], [0, 0, 1, 1]), 4)
        1.9561

    Source: Huang et al., "Frustratingly Easy Transferability Estimation", 2022.
    """
    given, codes, _ = checked_features(features, labels, "transrate")
    centred = given - given.mean(axis=0)
    within = [len(own) * _rate(own) for own in (centred[code > 0] for code in codes.T)]
    return _rate(centred) - sum(within) / len(centred)


def ledoit_wolf(features: np.ndarray) -> float:
    """How far the covariance of [N, D] features is drawn to a multiple of the identity, 0 to 1.

    a = min(b², d²)/d², with d² = ‖Σ − μI‖²/D and b² = Σ_i ‖f_i f_iᵀ − Σ‖²/(n² D); 0 where Σ is a multiple of I itself.

    Example:
        >>> ledoit_wolf(np.array([[1.0], [2.0], [4.0]]))
        0.0

    Source: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.
    """
    n, dimensions = features.shape
    centred = features - features.mean(axis=0)
    covariance = centred.T @ centred / n
    length = float(np.sum(covariance**2))
    spread = length - np.trace(covariance) ** 2 / dimensions
    noise = (float(np.sum(np.sum(centred**2, axis=1) ** 2)) / n - length) / n
    if spread <= dimensions * np.finfo(float).eps * length:
        return 0.0
    return min(max(noise, 0.0) / spread, 1.0)


def _explained(features: np.ndarray, codes: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """By direction of the centred features, [R] each: the share of its variance between classes, and that variance."""
    left, singular, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    # The mean of equal numbers may be off by a bit: what is small beside the features themselves is rounding, too.
    real = singular > rounding * max(singular[0], float(np.abs(features).max()))
    sums = codes.T @ left[:, real]
    return np.sum(sums**2 / codes.sum(axis=0)[:, None], axis=0), singular[real] ** 2 / len(features)


def _rate(z: np.ndarray) -> float:
    """½ log det(I + ZᵀZ/(n ε)) of [n, D], by the smaller of ZᵀZ and ZZᵀ."""
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    return float(0.5 * np.linalg.slogdet(np.eye(len(gram)) + gram / (len(z) * EPSILON))[1])
