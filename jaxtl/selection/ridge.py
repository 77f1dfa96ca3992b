"""The whole ridge path from one eigendecomposition: every λ, and every criterion to choose one by.

    minimise  1/(2n) Σ ‖y − x β − b‖²  +  λ/2 Σ_d w_d ‖β_d − anchor_d‖²,      b not penalised

λ is a rate of this library: it stands beside the *mean* of ½ squared errors, so that scikit-learn's α, and the λ of
textbooks, is n·λ. In code, `alpha` is always n·λ.

Why float64, and when the Gram matrix is not enough. At small λ both the residual and 1 − leverage are small
differences of numbers near 1, and the leave-one-out error is their ratio: float32 has nothing left there. So all runs
in float64, the products over examples through XLA with x64 switched on around them alone. An eigenvalue of the Gram
matrix is known to about 10⁻¹⁶ of the largest. Where the smallest n·λ comes closer than 10⁻¹⁰ of the largest, singular
values of the features themselves, which are known to the same fraction before squaring, take its place (much slower);
of them, what is below rounding counts as zero, so that a column that is constant or there twice reaches nothing.
With no more examples than features, and with up to 1024 examples where λ is so small, residual and 1 − leverage are
summed from λ/(s + λ) and never as differences, in units of the largest of these, so that no λ is too small. Otherwise
they are differences from 1: leave-one-out of an example that alone has some feature keeps 16 + log₁₀(nλ/s) digits.

Source: Hoerl and Kennard, Ridge regression (1970); Golub, Heath and Wahba, Generalized cross-validation (1979);
MacKay, Bayesian interpolation (1992).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.selection.bases import left_singular, reflect, squares, without_rounding
from jaxtl.selection.inputs import (
    Targets,
    checked_anchor,
    checked_features,
    checked_rates,
    checked_targets,
    checked_weights,
)

GRAM_RESOLUTION = 1e-10  # the smallest n·λ, as a part of the largest eigenvalue, that a Gram matrix is trusted with
LARGEST_BASIS = 1024  # examples, of which a full basis is made where λ is smaller than that
CHUNK = 2**22  # numbers in the largest array of a pass over the examples: 32 MB


class RidgePath(NamedTuple):
    """One entry per λ, in the order given; float64 NumPy arrays. L λs, D features, C targets, n examples.

    Attributes:
        coef: [L, D, C].
        intercept: [L, C]; zeros without an intercept.
        df: [L] effective degrees of freedom of one target, Σ s/(s + nλ), plus 1 for the intercept.
        loo: [L, C] mean squared error of predicting each example from the others (same n·λ, anchor and weights).
        gcv: [L] n RSS/(n − df)², generalised cross-validation; like all below summed over targets.
        aic, aicc, bic: [L] n ln(RSS/n) + 2 df; that + 2 df (df + 1)/(n − df − 1), infinite where n <= df + 1;
            n ln(RSS/n) + ln(n) df.
        log_evidence: [L] log density of the targets under β ~ N(anchor, σ²/(nλ w)), with σ² at its maximum.
        loo_accuracy: [L] share of examples whose own class is the largest leave-one-out prediction; None in regression.
    """

    coef: np.ndarray
    intercept: np.ndarray
    df: np.ndarray
    loo: np.ndarray
    gcv: np.ndarray
    aic: np.ndarray
    aicc: np.ndarray
    bic: np.ndarray
    log_evidence: np.ndarray
    loo_accuracy: np.ndarray | None


def ridge_path(
    x: ArrayLike,
    y: ArrayLike,
    lams: ArrayLike,
    anchor: ArrayLike | None = None,
    fit_intercept: bool = True,
    *,
    penalty_weights: ArrayLike | None = None,
    classes: int | None = None,
    judged: int | None = None,
) -> RidgePath:
    """Solve ridge regression for every λ, with leave-one-out, GCV, AIC, AICc, BIC and evidence (module docstring).

    Args:
        x: [n, D] features.
        y: [n] or [n, C] targets; with `classes`, integer labels [n], which become one target 0 or 1 per class.
        lams: [L] rates > 0 in any order, beside the mean loss: scikit-learn's α is n·λ.
        anchor: [D, C] (or [D] for one target) what the coefficients are drawn to; None: 0.
        fit_intercept: add an intercept, never penalised.
        penalty_weights: [D] > 0, multiplies λ per feature: transferred and new columns at rates of their own.
        classes: number of classes for classification by one-hot targets; None: regression.
        judged: of many examples, so many drawn by lot stand for all in every sum over examples that a criterion has, so
            that a hundred thousand with a thousand classes take seconds; None: all. Coefficients are of all examples.

    Returns:
        A `RidgePath`. For classification `path.loo_accuracy.argmax()` chooses λ from the labelled examples alone.

    Raises:
        InputError: shapes that do not fit, values that are not finite, λ or weights <= 0, labels outside 0..classes−1,
            fewer than 2 examples, a target without any variation, which no criterion can judge.

    Example:
        >>> path = ridge_path([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1.0, 2.0, 2.0], [1 / 3], fit_intercept=False)
        >>> path.coef[0, :, 0].round(6).tolist(), path.df.round(6).tolist(), path.gcv.round(5).tolist()
        ([0.625, 1.125], [1.25], [0.94898])
    """
    features, rates = checked_features(x, "ridge_path"), checked_rates(lams, "ridge_path")
    targets = checked_targets(y, len(features), classes, fit_intercept, "ridge_path")
    start = checked_anchor(anchor, features.shape[1], targets.width, "ridge_path")
    scale = checked_weights(penalty_weights, features.shape[1], "ridge_path") ** -0.5
    mean = features.mean(axis=0, dtype=np.float64) if fit_intercept else np.zeros(features.shape[1])
    wanted = targets if anchor is None else targets.less(features @ start)
    centre = wanted.mean() if fit_intercept else np.zeros(targets.width)
    problem = _Problem(features, mean, scale, wanted, centre, targets, rates * len(features), fit_intercept)
    some = _by_lot(len(features), judged)
    with jax.enable_x64(True):
        factors = _dual(problem) if problem.rank_of_rows <= features.shape[1] else _primal(problem)
        loo, rss, right = (sums * (len(features) / len(some)) for sums in _row_sums(problem, factors, some))
    coef = _combine(factors.directions, factors.projected, factors.shrink)
    criteria = _criteria(problem, factors, rss, np.square(coef).sum(axis=1))
    coef = coef * scale[:, None]
    accuracy = None if classes is None else right / len(features)
    return RidgePath(coef + start, centre - mean @ coef, loo=loo / len(features), loo_accuracy=accuracy, **criteria)


class _Problem(NamedTuple):
    """Features as given, and how to centre and scale them; targets less what the anchor predicts, and their centre."""

    x: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    wanted: Targets
    centre: np.ndarray
    targets: Targets
    alphas: np.ndarray
    fit_intercept: bool

    @property
    def rank_of_rows(self) -> int:
        """Dimensions of the space of residuals: the intercept takes one of the n."""
        return len(self.x) - self.fit_intercept

    def features(self) -> np.ndarray:
        return (self.x - self.mean) * self.scale

    def y(self, part: slice | np.ndarray) -> np.ndarray:
        return self.wanted.rows(part) - self.centre

    def codes(self, part: slice | np.ndarray) -> np.ndarray | None:
        return None if self.targets.classes is None else self.targets.rows(part)

    def chunks(self, count: int) -> Iterator[slice]:
        """Of so many examples, as many at a time as one pass may hold."""
        width = max(self.x.shape[1], self.wanted.width * len(self.alphas))
        size = max(1, CHUNK // width)
        return (slice(start, start + size) for start in range(0, count, size))


class _Factors(NamedTuple):
    """One factorisation for all λ.

    With Λ = diag(gains[:, l]), the fit at λ_l is A Λ Aᵀy; with `complement` that is the residual over unit[l] instead.

    s: [k] squared singular values of the centred and scaled features.
    rows: a slice of the examples -> A there, [B, k].
    projected: [k, C] Aᵀy.
    gains: [k, L] in [0, 1].
    directions, shrink: [D, k], [k, L]: the coefficients are directions · diag(shrink[:, l]) · projected.
    unit: [L] what residuals, and 1 − leverage, are multiples of; 1 without `complement`.
    """

    s: np.ndarray
    rows: Callable[[slice | np.ndarray], jax.Array]
    projected: np.ndarray
    gains: np.ndarray
    directions: np.ndarray
    shrink: np.ndarray
    unit: np.ndarray
    complement: bool


def _primal(problem: _Problem) -> _Factors:
    """More examples than features: A = X V/√(s + α₀) with the smallest α₀, so that gains (s + α₀)/(s + α) <= 1."""
    gram, cross = 0.0, 0.0
    for part in problem.chunks(len(problem.x)):
        products = _products(problem.x[part], problem.mean, problem.scale, problem.y(part))
        gram, cross = gram + products[0], cross + products[1]
    smallest = problem.alphas.min()
    s, v = np.linalg.eigh(np.asarray(gram))
    if smallest < GRAM_RESOLUTION * s[-1]:
        if len(problem.x) <= LARGEST_BASIS:
            return _dual(problem)
        _, singular, transposed = np.linalg.svd(np.linalg.qr(problem.features(), mode="r"))
        s, v = squares(singular, len(problem.x)), transposed.T
    s = np.maximum(s, 0.0)  # rounding leaves some just below
    directions = np.where(s > 0, v / np.sqrt(s + smallest), 0.0)
    gains = (s + smallest)[:, None] / (s[:, None] + problem.alphas)
    scaled = jnp.asarray(problem.scale[:, None] * directions)

    def rows(part: slice | np.ndarray) -> jax.Array:
        return _centred_product(problem.x[part], problem.mean, scaled)

    return _Factors(s, rows, directions.T @ np.asarray(cross), gains, directions, gains, np.ones(gains.shape[1]), False)


def _dual(problem: _Problem) -> _Factors:
    """No more examples than features, or few: A = U, a basis of everything but the constant, with gains α/(s + α)."""
    x = problem.features()
    reduced = reflect(x)[1:] if problem.fit_intercept else x
    s, u = np.linalg.eigh(np.asarray(_gram(reduced)))
    exact = problem.alphas.min() < GRAM_RESOLUTION * s[-1]
    if exact:
        u, s = left_singular(reduced)
    s = np.maximum(s, 0.0)
    if problem.fit_intercept:
        u = reflect(np.concatenate([np.zeros((1, len(s))), u]))
    if exact:
        u = without_rounding(u, s)
    least = s.min() + problem.alphas
    shrink = 1 / (s[:, None] + problem.alphas)
    directions, projected = np.where(s > 0, x.T @ u, 0.0), u.T @ problem.y(slice(None))
    unit = problem.alphas / least
    return _Factors(s, lambda part: jnp.asarray(u[part]), projected, least * shrink, directions, shrink, unit, True)


def _combine(directions: np.ndarray, projected: np.ndarray, shrink: np.ndarray) -> np.ndarray:
    """directions · diag(shrink[:, l]) · projected for every l: [L, D, C]."""
    weighted = shrink[:, None, :] * projected[:, :, None]
    product = directions @ weighted.reshape(len(shrink), -1)
    return product.reshape(-1, *weighted.shape[1:]).transpose(2, 0, 1)


def _by_lot(n: int, judged: int | None) -> np.ndarray:
    """[m] ascending examples that stand for all n."""
    if judged is None or judged >= n:
        return np.arange(n)
    if judged < 1:
        raise InputError(f"{judged} examples to judge by", where="ridge_path, judged", todo="give 1 at least, or None")
    return np.sort(np.random.default_rng(0).choice(n, judged, replace=False))


def _row_sums(problem: _Problem, factors: _Factors, some: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over some examples: squared leave-one-out errors [L, C], squared residuals [L, C], right predictions [L]."""
    # Gains at neighbouring λ nearly repeat each other: 100 λ over ten decades have rank 30 or so. The dual lives on
    # ratios of tiny gains, which a low rank would not keep; it is small anyway.
    basis, mixture = (factors.gains, np.eye(len(problem.alphas))) if factors.complement else _low_rank(factors.gains)
    share = problem.rank_of_rows / len(problem.x)
    # 1 - leverage is never below this, except by rounding.
    floors = share * problem.alphas / (factors.s.max() + problem.alphas) / factors.unit
    fixed = jax.tree.map(jnp.asarray, (factors.projected, basis, mixture, share, floors))
    parts = [
        _chunk_sums(
            factors.rows(part),
            problem.y(part),
            problem.codes(part),
            *fixed,
            complement=factors.complement,
        )
        for part in (_rows_of(some[chunk]) for chunk in problem.chunks(len(some)))
    ]
    loo, rss, right = (np.sum([np.asarray(a) for a in column], axis=0) for column in zip(*parts, strict=True))
    return loo.T, rss.T, right


def _rows_of(some: np.ndarray) -> np.ndarray | slice:
    """Examples that follow each other as a slice, which copies nothing."""
    return slice(some[0], some[-1] + 1) if some[-1] - some[0] == len(some) - 1 else some


def _low_rank(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[k, r] and [r, L] with the product `gains` (all in [0, 1]) to rounding."""
    left, values, right = np.linalg.svd(gains, full_matrices=False)
    rank = int((values > np.finfo(float).eps * values[0]).sum())
    return left[:, :rank] * values[:rank], right[:rank]


@jax.jit
def _products(x: jax.Array, mean: jax.Array, scale: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    z = (x - mean[None]) * scale[None]
    return z.T @ z, z.T @ y


@jax.jit
def _centred_product(x: jax.Array, mean: jax.Array, scaled: jax.Array) -> jax.Array:
    return (x - mean[None]) @ scaled


@jax.jit
def _gram(x: jax.Array) -> jax.Array:
    return x @ x.T


@functools.partial(jax.jit, static_argnames="complement")
def _chunk_sums(
    rows: jax.Array,
    y: jax.Array,
    codes: jax.Array | None,
    projected: jax.Array,
    basis: jax.Array,
    mixture: jax.Array,
    share: jax.Array,
    floors: jax.Array,
    *,
    complement: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    leverage = rows**2 @ basis @ mixture
    weighted = projected[:, :, None] * basis[:, None, :]
    fit = (rows @ weighted.reshape(len(basis), -1)).reshape(-1, len(mixture)) @ mixture
    fit = fit.reshape(*y.shape, -1)
    residual = fit if complement else y[:, :, None] - fit
    remaining = jnp.maximum(leverage if complement else share - leverage, floors[None])
    left_out = residual / remaining[:, None]
    right = jnp.zeros(len(floors))
    if codes is not None:
        right = jnp.sum(jnp.argmax(codes[:, :, None] - left_out, 1) == jnp.argmax(codes, 1)[:, None], 0)
    return jnp.sum(left_out**2, 0), jnp.sum(residual**2, 0), right


def _criteria(problem: _Problem, factors: _Factors, rss: np.ndarray, squares: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that follows from residual sums over unit² and from squared scaled coefficients, [L, C] each."""
    n, rows, targets = len(problem.x), problem.rank_of_rows, rss.shape[1]
    alphas, s = problem.alphas[:, None], factors.s[factors.s > 0]
    df = problem.fit_intercept + (s / (s + alphas)).sum(axis=1)
    # n - df without its cancellation: what is left of each direction, and directions that the features do not reach.
    # In the parentheses are whole numbers: added one by one they would swallow what is left, which may be tiny.
    part, empty = (alphas / (s + alphas)).sum(axis=1), rows - len(s)
    left = factors.gains.sum(axis=0) if factors.complement else part + empty
    above = part + (empty - 1)
    with np.errstate(divide="ignore"):  # a perfect fit: minus infinity
        log_rss = np.log(rss) + 2 * np.log(factors.unit)[:, None]
        paid = np.logaddexp(log_rss, np.log(alphas) + np.log(squares))
        correction = np.where(above > 0, 2 * df * (df + 1) / above, np.inf)
    likelihood = n * (log_rss - np.log(n)).sum(axis=1)
    variance = np.log(2 * np.pi) + paid - np.log(rows)
    determinant = np.logaddexp(0, np.log(s) - np.log(alphas)).sum(axis=1)
    return {
        "df": df,
        "gcv": n * (rss / left[:, None] ** 2).sum(axis=1),
        "aic": likelihood + targets * 2 * df,
        "aicc": likelihood + targets * (2 * df + correction),
        "bic": likelihood + targets * np.log(n) * df,
        "log_evidence": -0.5 * (rows * (variance + 1) + determinant[:, None]).sum(axis=1),
    }
