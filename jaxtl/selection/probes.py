"""What linear classifiers make of features: a head with its leave-one-out accuracy, and how far two sets are apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.selection.inputs import checked_features
from jaxtl.selection.logistic import logistic_path
from jaxtl.selection.ridge import ridge_path

RIDGE = np.logspace(-5, 2, 29)  # λ in units of the mean square of a feature
LOGISTIC = np.logspace(-3, 1, 9)


class Probe(NamedTuple):
    """A linear head on frozen features.

    Attributes:
        kernel, bias: [D, C], [C] float64.
        lam: λ that was chosen, beside the mean loss.
        accuracy: leave-one-out, at that λ.
    """

    kernel: np.ndarray
    bias: np.ndarray
    lam: float
    accuracy: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The class [N] of features [N, D]."""
        return (features @ self.kernel + self.bias).argmax(axis=1)


def ridge_probe(features: ArrayLike, labels: ArrayLike, classes: int | None = None) -> Probe:
    """Ridge regression of one-hot labels, with λ by the largest leave-one-out accuracy, all in closed form.

    Of equals the least leave-one-out error decides. The accuracy is that of the best of 29 λ: a little too good.

    Args:
        features: [N, D]; N >= 2, finite, not all the same.
        labels: [N] integers 0..C−1, each of which occurs.
        classes: C; None: the largest label + 1.

    Returns:
        The head, and what it says of itself.

    Raises:
        InputError: shapes that do not fit, NaN, labels that skip a class, features that are all the same.

    Example:
        >>> probe = ridge_probe([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]], [0, 0, 0, 1, 1, 1])
        >>> probe.accuracy, probe.predict(np.array([[-5.0], [5.0]])).tolist()
        (1.0, [0, 1])

    Source: Hoerl and Kennard, "Ridge Regression", 1970; Allen, "The Relationship between Variable Selection and Data
    Augmentation and a Method for Prediction", 1974.
    """
    x = checked_features(features, "ridge_probe")
    lams = RIDGE * _mean_square(x, "ridge_probe")
    count = int(np.max(labels, initial=0)) + 1 if classes is None else classes
    path = ridge_path(x, labels, lams, classes=max(count, 2))
    assert path.loo_accuracy is not None
    best = most_right(path.loo_accuracy, path.loo.sum(axis=1))
    return Probe(path.coef[best], path.intercept[best], float(lams[best]), float(path.loo_accuracy[best]))


def most_right(accuracy: np.ndarray, error: np.ndarray) -> int:
    """Which λ [L] has the largest accuracy; of equals, the least error."""
    return int(np.lexsort((error, -accuracy))[0])


def a_distance(source: ArrayLike, target: ArrayLike, *, folds: int = 5, seed: int = 0) -> float:
    """How well a linear classifier tells two feature sets apart: 2 (1 − 2ε), 0 for not at all, 2 for always.

    ε is the error of logistic regression over folds, with λ by the least loss over the same folds; above ½ it counts as
    ½. Of the larger set as many examples are drawn as the smaller one has. Features are centred and brought to one
    scale each.

    Args:
        source: [N, D] features, labelled or not.
        target: [M, D] features of the same network; M and N at least `folds`.
        folds: of the cross-validation.
        seed: draws from the larger set, and deals the folds.

    Returns:
        0 to 2. Smaller is closer.

    Raises:
        InputError: shapes that do not fit, NaN, fewer examples than folds, features that are all the same.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> a_distance(rng.normal(size=(40, 2)), rng.normal(size=(40, 2)) + 10.0)
        2.0

    Source: Ben-David, Blitzer, Crammer and Pereira, "Analysis of Representations for Domain Adaptation", 2006.
    """
    sides = [checked_features(part, f"a_distance, {name}") for name, part in (("source", source), ("target", target))]
    count = min(map(len, sides))
    if sides[0].shape[1] != sides[1].shape[1] or count < folds:
        what = f"features {list(sides[0].shape)} and {list(sides[1].shape)} for {folds} folds"
        raise InputError(what, where="a_distance", todo="give features of one network, and an example for each fold")
    rng = np.random.default_rng(seed)
    x = np.concatenate([side[np.sort(rng.permutation(len(side))[:count])] for side in sides]).astype(np.float64)
    _mean_square(x, "a_distance")
    sd = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    path = logistic_path(x, np.repeat([0, 1], count), LOGISTIC, folds, seed=seed)
    right = path.fold_accuracy.mean(axis=1)[path.fold_loss.mean(axis=1).argmin()]
    return float(2 * (1 - 2 * min(1 - right, 0.5)))


def _mean_square(x: np.ndarray, where: str) -> float:
    """Of a feature, about its mean."""
    spread = float(np.mean(np.square(x - x.mean(axis=0, dtype=np.float64))))
    if not spread > 0:
        raise InputError("all examples have the same features", where=where, todo="nothing can be told apart by them")
    return spread
