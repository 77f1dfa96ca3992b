"""Effects of many studies as one: their mean, how much they differ beyond their errors, and where another would lie."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.protocol.power import t_p, t_quantile


class Pooled(NamedTuple):
    """Effects that differ from study to study: y_i = μ + u_i + e_i, u ~ N(0, τ²), e_i ~ N(0, s_i²).

    Attributes:
        mean: μ.
        error: standard error of μ, by how far the effects are from it.
        ci95: 95 % t interval of μ.
        p: two-sided p value of μ = 0.
        tau: standard deviation τ of true effects.
        prediction95: where the true effect of another such study lies, with 95 %.
        heterogeneity: I², the share of all variance that is between studies.
        studies: how many.
    """

    mean: float
    error: float
    ci95: tuple[float, float]
    p: float
    tau: float
    prediction95: tuple[float, float]
    heterogeneity: float
    studies: int


def random_effects(effects: ArrayLike, errors: ArrayLike) -> Pooled:
    """μ = Σ w_i y_i / Σ w_i,  w_i = 1 / (s_i² + τ²), with τ² of the greatest restricted likelihood.

    The error of μ is √(Σ w_i (y_i − μ)² / ((k − 1) Σ w_i)) and its t has k − 1 degrees: it goes by how far the effects
    are from μ, so that errors s_i that are themselves known from few repetitions, and a τ that is known from few
    studies, do not make it too small. The interval of another study's effect is μ ± t √(τ² + error²), k − 2 degrees.

    Args:
        effects: y [k], at least 2.
        errors: s [k], the standard error of each, positive.

    Returns:
        A `Pooled`; with 2 studies, without degrees of freedom, where another one lies is not known: NaN.

    Raises:
        InputError: fewer than two effects, another number of errors, values that are not finite, errors not above 0.

    Example:
        >>> pooled = random_effects([0.1, 0.3, 0.2, 0.6], [0.1, 0.1, 0.2, 0.1])
        >>> round(pooled.mean, 3), round(pooled.tau, 3), [round(end, 2) for end in pooled.ci95]
        (0.31, 0.199, [-0.05, 0.67])

    Source: Harville, "Maximum Likelihood Approaches to Variance Component Estimation", 1977, for τ; Hartung and Knapp,
    "A Refined Method for the Meta-Analysis of Controlled Clinical Trials with Binary Outcome", 2001, for the error;
    Higgins, Thompson and Spiegelhalter, "A Re-evaluation of Random-Effects Meta-Analysis", 2009, for the prediction.
    """
    y, s = np.asarray(effects, np.float64), np.asarray(errors, np.float64)
    where = "random_effects"
    if y.ndim != 1 or len(y) < 2 or y.shape != s.shape:
        raise InputError(f"effects {list(y.shape)}, errors {list(s.shape)}", where=where, todo="give [k] each, k ≥ 2")
    if not (np.isfinite(y).all() and np.isfinite(s).all() and (s > 0).all()):
        raise InputError("values that are not finite, or errors not above 0", where=where, todo="leave those out")
    k, tau2 = len(y), _between(y, s**2)
    w = 1 / (s**2 + tau2)
    mean = float(w @ y / w.sum())
    error = math.sqrt(w @ (y - mean) ** 2 / ((k - 1) * w.sum()))
    typical = (k - 1) * (1 / s**2).sum() / ((1 / s**2).sum() ** 2 - (1 / s**4).sum())
    half = t_quantile(k) * error
    spread = t_quantile(k - 1) * math.sqrt(tau2 + error**2) if k > 2 else math.nan
    sd = math.sqrt(k) * error
    p = min(1.0, 2 * min(t_p(mean, sd, k), t_p(-mean, sd, k)))
    return Pooled(
        *(mean, error, (mean - half, mean + half), p, math.sqrt(tau2), (mean - spread, mean + spread)),
        heterogeneity=float(tau2 / (tau2 + typical)),
        studies=k,
    )


def _between(y: np.ndarray, variances: np.ndarray) -> float:
    """τ² where the derivative of the restricted log likelihood is 0; 0 where it falls from there on.

    2 dl/dτ² = Σ w² (y − μ)² − Σ w + Σ w² / Σ w
    """

    from scipy.optimize import brentq

    def slope(tau2: float) -> float:
        w = 1 / (variances + tau2)
        residuals = y - w @ y / w.sum()
        return float(w**2 @ residuals**2 - w.sum() + (w**2).sum() / w.sum())

    if slope(0.0) <= 0:
        return 0.0
    high = float(np.ptp(y) ** 2 + variances.max())
    while slope(high) > 0:
        high *= 2
    return float(brentq(slope, 0.0, high, rtol=1e-12))
