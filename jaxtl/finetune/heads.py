"""Linear heads on features of a frozen trunk: the bar to beat, in seconds. λ is chosen within the examples."""

from __future__ import annotations

import numpy as np

from jaxtl.data import stratified_folds
from jaxtl.selection import logistic_path, ridge_path

RIDGE = np.logspace(-5, 2, 29)  # λ in units of the mean square of a feature
LOGISTIC = np.logspace(-4, 1, 11)
FOLDS = 5
RATE = 7e6  # of `logistic_work` a second on one core, measured on 500 and 1,000 examples

Head = dict[str, np.ndarray]


def ridge(x: np.ndarray, labels: np.ndarray, classes: int, groups: np.ndarray | None, seed: int) -> tuple[Head, float]:
    """The head of ridge regression to one-hot labels, and its λ.

    λ has the largest leave-one-out accuracy, of equals the least leave-one-out error; with groups, the largest accuracy
    over folds that keep them together.

    Args:
        x: [n, D] features.
        labels: [n] integers.
        classes: C.
        groups: [n] or None.
        seed: deals folds.

    Returns:
        ({"kernel": [D, C], "bias": [C]}, λ).
    """
    lams = RIDGE * float(np.mean(np.square(x - x.mean(axis=0))))
    path = ridge_path(x, labels, lams, classes=classes)
    assert path.loo_accuracy is not None
    right, error = path.loo_accuracy, path.loo.sum(axis=1)
    folds, groups = _affordable(labels, groups)
    if groups is not None:
        right = np.zeros(len(lams))
        for train, out in stratified_folds(labels, folds, seed, groups=groups, rare=True):
            own = ridge_path(x[train], labels[train], lams, classes=classes)
            answers = (x[out] @ own.coef + own.intercept[:, None]).argmax(axis=-1)
            right += (answers == labels[out]).sum(axis=1)
        error = np.arange(len(lams), 0, -1)  # of equals the strongest
    best = int(np.lexsort((error, -right))[0])
    return _head(path.coef[best], path.intercept[best]), float(lams[best])


def logistic(
    x: np.ndarray, labels: np.ndarray, classes: int, groups: np.ndarray | None, seed: int, adjusted: bool = False
) -> tuple[Head, float]:
    """The head of logistic regression, and its λ: the least log-loss over folds.

    Args:
        x, labels, classes, groups, seed: as for `ridge`.
        adjusted: take the logarithm of each class's share off its logit, so that none is favoured for being frequent
            (Menon et al., Long-tail learning via logit adjustment, 2021).
    """
    lams = LOGISTIC * float(np.mean(np.square(x - x.mean(axis=0))))
    folds, groups = _affordable(labels, groups)
    path = logistic_path(x, labels, lams, folds, seed=seed, groups=groups, rare=True)
    loss = (
        np.nanmean(path.fold_loss, axis=1)
        if np.isfinite(path.fold_loss).any()
        else np.abs(np.arange(len(lams)) - len(lams) // 2)
    )
    best = int(loss.argmin())
    shares = np.bincount(labels, minlength=classes) / len(labels)
    shift = np.log(shares * classes) if adjusted else 0.0
    return _head(path.coef[best], path.intercept[best] - shift), float(lams[best])


def _affordable(labels: np.ndarray, groups: np.ndarray | None) -> tuple[int, np.ndarray | None]:
    """(folds, groups) for so few examples: groups count where two can be told apart, and are dealt no finer."""
    most = min(FOLDS, int(np.bincount(labels).max()))
    if groups is not None and min(most, len(np.unique(groups))) >= 2:
        return min(most, len(np.unique(groups))), groups
    return max(2, most), None


def logistic_seconds(examples: int, features: int, *, classes: int, cores: int) -> float:
    """About what `logistic` takes on a CPU: a step goes through this many numbers for every λ.

    Example:
        >>> round(logistic_seconds(500, 1280, classes=50, cores=1))
        11
    """
    return float(examples) * min(examples, features) * classes * (FOLDS + 1) / (RATE * cores)


def logits(head: Head, x: np.ndarray) -> np.ndarray:
    """[n, C] of features [n, D]."""
    return x @ head["kernel"] + head["bias"]


def _head(kernel: np.ndarray, bias: np.ndarray) -> Head:
    return {"kernel": kernel.astype(np.float32), "bias": np.asarray(bias, np.float32)}
