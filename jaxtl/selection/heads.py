"""Linear heads on features of a frozen trunk: the bar to beat, in seconds. λ is chosen within the examples.

All are fitted by (x [n, D], labels [n, ...], outputs C, groups [n] or None, seed) -> ({"kernel": [D, C], "bias": [C]},
λ); `groups` are never parted where folds choose λ, and `seed` deals the folds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxtl import bounds
from jaxtl.data import stratified_folds
from jaxtl.selection.logistic import COPIES, logistic_path
from jaxtl.selection.probes import RIDGE, most_right
from jaxtl.selection.ridge import ridge_path

COARSE = 4  # of many examples with many classes every so many of these: all of them would take minutes
JUDGES = 10_000  # of such, that λ is chosen by
LOGISTIC = np.logspace(-4, 1, 11)
FOLDS = 5
RATE = 7e6  # numbers that the logistic path goes through a second on one core, measured on 500 and 1,000 examples
SHARE = 0.25  # of the memory, for the logits of all folds
MOST_FITS = 1e10  # numbers that all λ of a ridge path go through, from where on they are fewer

Head = dict[str, np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray, int, np.ndarray | None, int], tuple[Head, float]]


# ---------------------------------------------------------------- a class each


def ridge(x: np.ndarray, labels: np.ndarray, outputs: int, groups: np.ndarray | None, seed: int) -> tuple[Head, float]:
    """The head of ridge regression to one-hot labels, and its λ.

    λ has the largest leave-one-out accuracy, of equals the least leave-one-out error; with groups, the largest accuracy
    over folds that keep them together.
    """
    lams, judged = _ridge_rates(x, outputs)
    path = ridge_path(x, labels, lams, classes=outputs, judged=judged)
    assert path.loo_accuracy is not None
    right, error = path.loo_accuracy, path.loo.sum(axis=1)
    folds, groups = affordable(labels, groups)
    if groups is not None:
        right = np.zeros(len(lams))
        for train, out in stratified_folds(labels, folds, seed, groups=groups, rare=True):
            own = ridge_path(x[train], labels[train], lams, classes=outputs, judged=judged and 1)
            for k, (coef, intercept) in enumerate(zip(own.coef, own.intercept, strict=True)):
                right[k] += ((x[out] @ coef + intercept).argmax(axis=1) == labels[out]).sum()
        error = np.arange(len(lams), 0, -1)  # of equals the strongest
    best = most_right(right, error)
    return _head(path.coef[best], path.intercept[best]), float(lams[best])


def logistic(
    x: np.ndarray, labels: np.ndarray, outputs: int, groups: np.ndarray | None, seed: int, adjusted: bool = False
) -> tuple[Head, float]:
    """The head of logistic regression, and its λ: the least log-loss over folds.

    Args:
        x, labels, outputs, groups, seed: see the module.
        adjusted: take the logarithm of each class's share off its logit, so that none is favoured for being frequent
            (Menon et al., Long-tail learning via logit adjustment, 2021).
    """
    lams = _scaled(LOGISTIC, x)
    folds, groups = affordable(labels, groups)
    path = logistic_path(x, labels, lams, folds, seed=seed, groups=groups, rare=True)
    best = int(_fold_loss(path.fold_loss).argmin())
    shares = np.bincount(labels, minlength=outputs) / len(labels)
    shift = np.log(shares * outputs) if adjusted else 0.0
    return _head(path.coef[best], path.intercept[best] - shift), float(lams[best])


def logistic_adjusted(
    x: np.ndarray, labels: np.ndarray, outputs: int, groups: np.ndarray | None, seed: int
) -> tuple[Head, float]:
    """`logistic`, adjusted."""
    return logistic(x, labels, outputs, groups, seed, adjusted=True)


# ---------------------------------------------------------------- numbers, and several labels


def ridge_numbers(
    x: np.ndarray, labels: np.ndarray, outputs: int, groups: np.ndarray | None, seed: int
) -> tuple[Head, float]:
    """The head of ridge regression to numbers [n, C], and its λ: the least leave-one-out error.

    With groups the least error over folds that keep them together. A column that is the same for all has its value as
    bias: there is nothing to explain.
    """
    (lams, judged), some = _ridge_rates(x, outputs), np.ptp(labels, axis=0) > 0
    kernel, bias = np.zeros((x.shape[1], outputs)), labels[0].astype(np.float64)
    if not some.any():
        return _head(kernel, bias), float(lams[-1])
    path = ridge_path(x, labels[:, some], lams, judged=judged)
    error = path.loo.sum(axis=1)
    if groups is not None and (folds := min(FOLDS, len(np.unique(groups)))) >= 2:
        error = np.zeros(len(lams))
        for train, out in stratified_folds(np.zeros(len(x), int), folds, seed, groups=groups, rare=True):
            own = np.ptp(labels[train], axis=0) > 0
            if own.any():
                fitted = ridge_path(x[train], labels[train][:, own], lams)
                missed = x[out] @ fitted.coef + fitted.intercept[:, None] - labels[out][:, own]
                error += np.square(missed).sum(axis=(1, 2))
    best = int(error.argmin())
    kernel[:, some], bias[some] = path.coef[best], path.intercept[best]
    return _head(kernel, bias), float(lams[best])


def ridge_several(
    x: np.ndarray, labels: np.ndarray, outputs: int, groups: np.ndarray | None, seed: int
) -> tuple[Head, float]:
    """`ridge_numbers` to −1 and 1 for each of several labels, so that 0 is as near to one as to the other."""
    return ridge_numbers(x, 2.0 * labels - 1, outputs, groups, seed)


def logistic_several(
    x: np.ndarray, labels: np.ndarray, outputs: int, groups: np.ndarray | None, seed: int
) -> tuple[Head, float]:
    """Logistic regression of each label against its absence, with one λ for all: the least log-loss over folds.

    A label that fewer than two have, or lack, is given how frequent it is: log((n₁ + ½) / (n₀ + ½)).
    """
    lams, counts = _scaled(LOGISTIC, x), labels.sum(axis=0)
    kernel, bias = np.zeros((x.shape[1], outputs)), np.log((counts + 0.5) / (len(x) - counts + 0.5))
    paths, losses = {}, []
    for column in np.flatnonzero((counts >= 2) & (counts <= len(x) - 2)):
        own = labels[:, column].astype(int)
        folds, together = affordable(own, groups)
        paths[column] = logistic_path(x, own, lams, folds, seed=seed, groups=together, rare=True)
        losses.append(_fold_loss(paths[column].fold_loss))
    best = int(np.sum(losses, axis=0).argmin()) if losses else len(lams) - 1
    for column, path in paths.items():
        kernel[:, column] = path.coef[best, :, 1] - path.coef[best, :, 0]
        bias[column] = path.intercept[best, 1] - path.intercept[best, 0]
    return _head(kernel, bias), float(lams[best])


# ---------------------------------------------------------------- what they share


def logistic_seconds(examples: int, features: int, *, classes: int, cores: int) -> float:
    """About what `logistic` takes on a CPU: a step goes through this many numbers for every λ.

    Example:
        >>> round(logistic_seconds(500, 1280, classes=50, cores=1))
        11
    """
    return float(examples) * min(examples, features) * classes * (FOLDS + 1) / (RATE * cores)


def too_much_for_logistic(examples: int, features: int, *, classes: int, cores: int, fits: int, seconds: float) -> bool:
    """Whether so many fits of `logistic` would take more than some seconds, or one of them much of the memory."""
    logits_of_all_folds = float(examples) * classes * (FOLDS + 1)
    too_large = 4 * COPIES * logits_of_all_folds > SHARE * bounds.memory()
    return too_large or fits * logistic_seconds(examples, features, classes=classes, cores=cores) > seconds


def logits(head: Head, x: np.ndarray) -> np.ndarray:
    """[n, C] of features [n, D]."""
    return x @ head["kernel"] + head["bias"]


def affordable(labels: np.ndarray, groups: np.ndarray | None) -> tuple[int, np.ndarray | None]:
    """(folds, groups) for so few examples: groups count where two can be told apart, and are dealt no finer."""
    most = min(FOLDS, int(np.bincount(labels).max()))
    if groups is not None and min(most, len(np.unique(groups))) >= 2:
        return min(most, len(np.unique(groups))), groups
    return max(2, most), None


def _fold_loss(losses: np.ndarray) -> np.ndarray:
    """[L] mean over the folds [L, F] that something was dealt to; where none was, the middle λ has the least."""
    if np.isfinite(losses).any():
        return np.nanmean(losses, axis=1)
    return np.abs(np.arange(len(losses)) - len(losses) // 2).astype(float)


def _scaled(rates: np.ndarray, x: np.ndarray) -> np.ndarray:
    return rates * float(np.mean(np.square(x - x.mean(axis=0))))


def _ridge_rates(x: np.ndarray, outputs: int) -> tuple[np.ndarray, int | None]:
    """(every λ that is tried, how many examples judge them)."""
    many = float(len(x)) * outputs * len(RIDGE) * min(x.shape) > MOST_FITS
    return (_scaled(RIDGE[::COARSE], x), JUDGES) if many else (_scaled(RIDGE, x), None)


def _head(kernel: np.ndarray, bias: np.ndarray) -> Head:
    return {"kernel": kernel.astype(np.float32), "bias": np.asarray(bias, np.float32)}
