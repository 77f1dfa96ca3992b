"""The multinomial logistic path: every λ and every fold of a cross-validation in one program.

    minimise  1/n Σ CE(softmax(x W + b), label)  +  λ/2 ‖W − anchor‖²,      b not penalised

λ is a rate of this library, beside the mean loss: scikit-learn's C is 1/(n·λ), and 2/(n·λ) for two classes, where it
has one column of coefficients in the place of two opposite ones.

How it is solved. The Hessian is never above that of ½‖x W‖²/n (Böhning's bound), whose eigenvectors do not depend on
W, λ or, but for a factor, on the fold. In their basis a diagonal step descends without a line search, so that all folds
and the fit to all examples take their steps in one matrix product, accelerated by momentum that restarts where it
points uphill. λ runs from the largest to the smallest and each starts where the one before has ended.

Source: D. Böhning, Multinomial logistic regression algorithm (1992); O'Donoghue and Candès, Adaptive restart for
accelerated gradient schemes (2015); Rad and Maleki, A scalable estimate of the out-of-sample prediction error via
approximate leave-one-out cross-validation (2020).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from jaxtl import bounds
from jaxtl.data.splits import stratified_folds
from jaxtl.errors import InputError
from jaxtl.selection.inputs import checked_anchor, checked_features, checked_labels, checked_rates

RESOLUTION = 1e-13  # directions with less than this part of the largest variance stay at the anchor
TOLERANCE = 5e-6  # stop where no more than this of the objective is left to gain,
RELATIVE_TOLERANCE = 1e-3  # nor more than this part of the mean probability of a mistake
MOST_STEPS = 10_000
FARTHEST = 1e25  # beyond that, and below its inverse, λ over a variance changes no fit, but float32 could not hold it
COPIES = 5  # of the logits of all fits, in float32, that a step holds
LARGEST_HESSIAN = 8192  # rows: half a gigabyte


class LogisticPath(NamedTuple):
    """One entry per λ, in the order given; NumPy arrays. L λs, D features, C classes, F folds.

    Attributes:
        coef: [L, D, C] of the fit to all examples.
        intercept: [L, C] of the same fit.
        loss: [L] its mean cross-entropy on the examples themselves, without the penalty.
        fold_loss: [L, F] mean cross-entropy of each fold under the fit to the others.
        fold_accuracy: [L, F] share of each fold that the fit to the others gets right.
        steps: [L] accelerated gradient steps taken.
        converged: [L] whether each fit is within 5e-6 of its least objective (closer where nearly all is right); False
            after the most steps, 10,000, which happens at the smallest λ where the classes can be separated.
    """

    coef: np.ndarray
    intercept: np.ndarray
    loss: np.ndarray
    fold_loss: np.ndarray
    fold_accuracy: np.ndarray
    steps: np.ndarray
    converged: np.ndarray


class LogisticCriteria(NamedTuple):
    """What the fits to all examples say of themselves: one entry per λ, [L] float64.

    Attributes:
        df: effective degrees of freedom tr[(H + nΛ)⁻¹ H] with the Hessian H of the summed loss; intercepts count C − 1.
        aic: 2 n loss + 2 df.
        bic: 2 n loss + ln(n) df.
        loo_loss: approximate leave-one-out mean cross-entropy.
        loo_accuracy: share of examples that the approximate fit to the others gets right.
    """

    df: np.ndarray
    aic: np.ndarray
    bic: np.ndarray
    loo_loss: np.ndarray
    loo_accuracy: np.ndarray


def logistic_path(
    x: ArrayLike,
    labels: ArrayLike,
    lams: ArrayLike,
    folds: int = 5,
    anchor: ArrayLike | None = None,
    *,
    seed: int = 0,
    groups: np.ndarray | None = None,
    rare: bool = False,
) -> LogisticPath:
    """Fit multinomial logistic regression for every λ, to all examples and to all but each fold (module docstring).

    Args:
        x: [n, D] features.
        labels: [n] integers 0..C-1; every class has at least `folds` examples, or `rare` is set.
        lams: [L] rates > 0 in any order, beside the mean loss: scikit-learn's C is 1/(n·λ).
        folds: stratified parts, >= 2. A fold's fit has the same λ beside the mean over its fewer examples.
        anchor: [D, C] what the coefficients are drawn to; None: 0.
        seed: deals the examples to the folds.
        groups, rare: as for `stratified_folds`; a fold that nothing was dealt to has the loss and accuracy NaN.

    Returns:
        A `LogisticPath`; `path.fold_loss.mean(1).argmin()` chooses λ.

    Raises:
        InputError: shapes that do not fit, values that are not finite, λ <= 0, labels that skip a class, more folds
            than a class has examples, logits of all fits that no memory holds.

    Example:
        >>> x = np.concatenate([np.eye(3) + shift for shift in (0.0, 0.1, 0.2, 0.3)])
        >>> path = logistic_path(x, [0, 1, 2] * 4, [10.0, 0.01], folds=4)
        >>> path.fold_accuracy.mean(1).tolist(), bool(path.fold_loss[1].mean() < path.fold_loss[0].mean())
        ([1.0, 1.0], True)
    """
    features, rates = checked_features(x, "logistic_path"), checked_rates(lams, "logistic_path")
    classes = checked_labels(labels, len(features), None, "logistic_path")
    start = checked_anchor(anchor, features.shape[1], int(classes.max()) + 1, "logistic_path")
    if not isinstance(folds, int):
        raise InputError(f"{folds!r}", where="logistic_path, folds", todo="give an integer >= 2")
    _refuse_too_many(len(features), int(classes.max()) + 1, folds)
    codes = np.eye(classes.max() + 1)[classes]
    held_out = np.zeros((len(classes), max(folds, 0)), bool)
    for fold, (_, validation) in enumerate(stratified_folds(classes, folds, seed, groups=groups, rare=rare)):
        held_out[validation, fold] = True
    mean = features.mean(axis=0, dtype=np.float64)
    directions, variances, white = _whitened(features - mean)
    order = np.argsort(-rates)
    used = np.concatenate([np.ones((len(classes), 1)), ~held_out], axis=1)
    least, largest = variances.max(initial=0) / FARTHEST, variances.min(initial=np.inf) * FARTHEST
    held = np.clip(rates[order], least, min(largest, FARTHEST))
    arguments = (white, features @ start, codes, used / used.sum(axis=0), held_out, 1 / variances, held)
    solved = _solve(*(np.asarray(argument, np.float32) for argument in arguments))
    results = [np.empty_like(a) for a in map(np.asarray, solved)]
    for result, a in zip(results, solved, strict=True):
        result[order] = a
    weights, loss, fold_loss, fold_accuracy, steps, converged = results
    moved = (directions / np.sqrt(variances)) @ weights[:, 1:].astype(np.float64)
    return LogisticPath(moved + start, weights[:, 0] - mean @ moved, loss, fold_loss, fold_accuracy, steps, converged)


def _refuse_too_many(examples: int, classes: int, folds: int) -> None:
    what = f"logits of {examples:,} examples and {classes:,} classes under {folds + 1} fits, {COPIES} times,"
    todo = "use ridge, which goes through the examples by parts, or fewer folds or examples"
    bounds.refuse_beyond_memory(4.0 * COPIES * examples * classes * (folds + 1), what, where="logistic_path", todo=todo)


def _whitened(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions [D, r], their variances [r], and the centred x in them, scaled to variance 1, [n, r]."""
    n, tall = len(x), len(x) > x.shape[1]
    with jax.enable_x64(True):
        s, vectors = np.linalg.eigh(np.asarray(_gram(x if tall else x.T)) / n)
        kept = s > RESOLUTION * max(s[-1], np.finfo(float).tiny)
        s, vectors = s[kept], vectors[:, kept]
        if tall:
            return vectors, s, np.asarray(_product(x, vectors / np.sqrt(s)))
        return np.asarray(_product(x.T, vectors / np.sqrt(n * s))), s, vectors * np.sqrt(n)


@jax.jit
def _gram(x: jax.Array) -> jax.Array:
    return x.T @ x


@jax.jit
def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return x @ y


class _Momentum(NamedTuple):
    """Weights [r + 1, P, C] (intercepts first) where the last step ended and where the next starts; P problems."""

    step: jax.Array
    ended: jax.Array
    ahead: jax.Array
    age: jax.Array  # [P] Nesterov's t
    left: jax.Array  # [P] what was left to gain before the last step, in units of the tolerance


@jax.jit
def _solve(
    white: jax.Array,
    offset: jax.Array,
    codes: jax.Array,
    shares: jax.Array,
    held_out: jax.Array,
    stiffness: jax.Array,
    rates: jax.Array,
) -> tuple[jax.Array, ...]:
    """All problems for all λ (descending): the first uses all examples, the others leave a fold out.

    Args:
        white: [n, r] features, centred and white.
        offset: [n, C] logits of the anchor.
        codes: [n, C] one-hot labels.
        shares: [n, P] of each example in the mean loss of each problem; 0 where left out.
        held_out: [n, P − 1] 1 where left out.
        stiffness: [r] what λ multiplies in this basis.
        rates: [L].
    """
    n, problems, classes = len(white), shares.shape[1], codes.shape[1]
    rows = jnp.concatenate([jnp.ones((n, 1)), white], axis=1)
    # Leaving examples out raises the weight of the others, and with it the bound.
    bound = 0.5 * n * jnp.max(shares, axis=0)[None, :, None]
    ones = jnp.ones((1, problems))

    def logits_of(weights: jax.Array) -> jax.Array:
        return (rows @ weights.reshape(len(weights), -1)).reshape(n, problems, classes) + offset[:, None]

    def fit(start: jax.Array, rate: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        pull = (rate * jnp.concatenate([jnp.zeros(1), stiffness]))[:, None, None]

        def step(at: _Momentum) -> _Momentum:
            residual = _residual(logits_of(at.ahead), codes) * shares[:, :, None]
            gradient = (rows.T @ residual.reshape(n, -1)).reshape(start.shape) + pull * at.ahead
            move = gradient / (bound + pull)
            ended = at.ahead - move
            uphill = jnp.sum(gradient * (ended - at.ended), axis=(0, 2)) > 0
            age = jnp.where(uphill, 1.0, 0.5 + jnp.sqrt(0.25 + at.age**2))
            momentum = jnp.where(uphill, 0.0, (at.age - 1) / age)[None, :, None]
            # Strong convexity bounds what is left to gain; an intercept is held by its share of mistakes alone.
            mistakes = 0.5 * jnp.sum(jnp.abs(residual), axis=(0, 2))
            hold = jnp.concatenate([jnp.broadcast_to(mistakes / classes, (1, problems)), ones * pull[1:, :, 0]])
            gain = 0.5 * jnp.sum(jnp.sum(gradient**2, axis=2) / hold, axis=0)
            left = gain / jnp.minimum(TOLERANCE, RELATIVE_TOLERANCE * mistakes)
            return _Momentum(at.step + 1, ended, ended + momentum * (ended - at.ended), age, left)

        def unfinished(at: _Momentum) -> jax.Array:
            return jnp.any(at.left > 1) & (at.step < MOST_STEPS)

        first = _Momentum(jnp.int32(0), start, start, jnp.ones(problems), jnp.full(problems, jnp.inf))
        last = lax.while_loop(unfinished, step, first)
        logits = logits_of(last.ended)
        losses = -jnp.sum(jax.nn.log_softmax(logits) * codes[:, None], axis=2)
        right = jnp.argmax(logits, axis=2) == jnp.argmax(codes, axis=1)[:, None]
        sizes = jnp.sum(held_out, axis=0)
        loss = jnp.mean(losses[:, 0])
        fold_loss = jnp.sum(losses[:, 1:] * held_out, axis=0) / sizes
        fold_accuracy = jnp.sum(right[:, 1:] * held_out, axis=0) / sizes
        converged = jnp.all(last.left <= 1)
        return last.ended, (last.ended[:, 0], loss, fold_loss, fold_accuracy, last.step, converged)

    return lax.scan(fit, jnp.zeros((rows.shape[1], problems, classes)), rates)[1]


def _residual(logits: jax.Array, codes: jax.Array) -> jax.Array:
    """softmax − codes, [n, P, C], exact to the last digit also where the label's probability is nearly 1."""
    others = jax.nn.softmax(logits) * (1 - codes)[:, None]
    return others - codes[:, None] * jnp.sum(others, axis=2, keepdims=True)


def logistic_criteria(x: ArrayLike, labels: ArrayLike, lams: ArrayLike, path: LogisticPath) -> LogisticCriteria:
    """Degrees of freedom, AIC, BIC and approximate leave-one-out of a path, from the exact Hessian at each optimum.

    Leaving example i out is one Newton step with the Hessian of the others, which moves its logits by
    A (I − S A)⁻¹ (p − onehot), with A = xᵀ(H + nΛ)⁻¹x and S = diag(p) − ppᵀ.

    The Hessian has (C − 1)·(min(n, D) + 1) rows, n times their square are the operations: for few labelled examples.
    For many, the folds of `logistic_path` are cheaper, and trustworthy.

    Args:
        x, labels, lams: as given to `logistic_path`.
        path: what it returned.

    Raises:
        InputError: a path for other features, classes or rates, or a Hessian of more than 8192 rows.

    Source: module docstring; degrees of freedom: Hastie, Tibshirani and Friedman, The elements of statistical learning
    (2009), chapter 7.
    """
    features, rates = checked_features(x, "logistic_criteria"), checked_rates(lams, "logistic_criteria")
    classes = checked_labels(labels, len(features), path.intercept.shape[1], "logistic_criteria")
    if path.coef.shape[:2] != (len(rates), features.shape[1]):
        what = f"a path of {path.coef.shape[0]} rates and {path.coef.shape[1]} features"
        todo = f"give the one for these {len(rates)} rates and {features.shape[1]} features"
        raise InputError(what, where="logistic_criteria", todo=todo)
    n, count = len(features), path.intercept.shape[1]
    size = (count - 1) * (min(features.shape) + 1)
    if size > LARGEST_HESSIAN:
        what = f"the Hessian would have {size} rows, more than {LARGEST_HESSIAN}"
        raise InputError(what, where="logistic_criteria", todo="choose by path.fold_loss")
    from scipy.linalg import helmert

    # A rotation changes none of the criteria, and what no feature reaches is empty: its Hessian could not be inverted.
    left, singular, _ = np.linalg.svd(features - features.mean(axis=0, dtype=np.float64), full_matrices=False)
    reached = singular > max(features.shape) * np.finfo(float).eps * singular[0]
    centred = left[:, reached] * singular[reached]
    rows = np.concatenate([np.ones((n, 1)), centred], axis=1)
    codes, contrasts = np.eye(count)[classes], helmert(count)
    table = np.array(
        [
            _criteria(rows, features @ coef + intercept, codes, contrasts, n * rate)
            for coef, intercept, rate in zip(path.coef, path.intercept, rates, strict=True)
        ]
    )
    return LogisticCriteria(*table.T)


def _criteria(
    rows: np.ndarray, logits: np.ndarray, codes: np.ndarray, contrasts: np.ndarray, alpha: float
) -> tuple[float, ...]:
    """One row of `LogisticCriteria`. Adding the same to all logits changes nothing: `contrasts` leave that out."""
    (n, width), free = rows.shape, len(contrasts)
    probabilities = np.exp(_log_softmax(logits))
    reduced = contrasts * probabilities[:, None]  # [n, C − 1, C]
    curvature = reduced @ contrasts.T - (reduced.sum(2)[:, :, None] * reduced.sum(2)[:, None])
    hessian = np.empty((free, width, free, width))
    for a in range(free):
        for b in range(a + 1):
            hessian[a, :, b] = hessian[b, :, a] = rows.T @ (curvature[:, a, b, None] * rows)
    penalty = np.tile(np.r_[0.0, np.full(width - 1, alpha)], free)
    inverse = np.linalg.inv(hessian.reshape(free * width, -1) + np.diag(penalty))
    df = len(penalty) - np.diag(inverse) @ penalty
    blocks = inverse.reshape(free, width, free, width)
    influence = np.empty((n, free, free))
    for a in range(free):
        for b in range(a + 1):
            influence[:, a, b] = influence[:, b, a] = ((rows @ blocks[a, :, b]) * rows).sum(axis=1)
    surprise = (probabilities - codes) @ contrasts.T
    shift = np.linalg.solve(np.eye(free) - curvature @ influence, surprise[:, :, None])
    left_out = logits + (influence @ shift)[:, :, 0] @ contrasts
    twice = -2 * (_log_softmax(logits) * codes).sum()
    loo_loss = -(_log_softmax(left_out) * codes).sum() / n
    right = (left_out.argmax(axis=1) == codes.argmax(axis=1)).mean()
    return df, twice + 2 * df, twice + np.log(n) * df, loo_loss, right


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
