"""Features, labels, rates and anchors as the closed-form and convex paths take them: checked once, float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError


def checked_features(x: ArrayLike, where: str) -> np.ndarray:
    """x as an [n >= 2, D >= 1] float array without NaN or infinity; float32 stays float32."""
    features = np.asarray(x)
    if features.ndim != 2 or len(features) < 2 or not features.shape[1] or features.dtype.kind not in "fiu":
        what = f"features {features.dtype} {list(features.shape)}"
        raise InputError(what, where=where, todo="give numbers [examples, features], at least 2 examples")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        what = f"features of example {int(finite.argmin())} are not finite"
        raise InputError(what, where=where, todo="remove or repair NaN and infinity first")
    return features if features.dtype in (np.float32, np.float64) else features.astype(np.float64)


def checked_rates(lams: ArrayLike, where: str) -> np.ndarray:
    """lams as [L >= 1] float64, each positive and finite."""
    rates = np.asarray(lams, np.float64)
    if rates.ndim != 1 or not len(rates) or not ((rates > 0) & np.isfinite(rates)).all():
        what = f"lams of shape {list(rates.shape)}, smallest {rates.min() if rates.size else None}"
        raise InputError(
            what, where=where, todo="give a list of rates, each > 0 and finite, such as np.logspace(-6, 2)"
        )
    return rates


def checked_labels(labels: ArrayLike, n: int, classes: int | None, where: str) -> np.ndarray:
    """labels as [n] integers 0..classes-1 in which every class occurs; classes None: the largest label + 1."""
    values = np.asarray(labels)
    if values.shape != (n,) or values.dtype.kind not in "iu":
        what = f"labels {values.dtype} {list(values.shape)} for {n} examples"
        raise InputError(what, where=where, todo="give one integer per example")
    count = int(values.max()) + 1 if classes is None else classes
    if count < 2 or values.min() < 0 or values.max() >= count:
        what = f"labels {values.min()}..{values.max()} for {count} classes"
        raise InputError(what, where=where, todo="use labels 0..C-1 of at least 2 classes")
    absent = np.flatnonzero(np.bincount(values, minlength=count) == 0)
    if len(absent):
        what = f"class {absent[0]} of {count} has no example"
        raise InputError(what, where=where, todo="give an example of each class, or renumber the labels")
    return values


def checked_anchor(anchor: ArrayLike | None, features: int, targets: int, where: str) -> np.ndarray:
    """anchor as [D, C] float64; None: zeros."""
    if anchor is None:
        return np.zeros((features, targets))
    values = np.asarray(anchor, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.shape != (features, targets) or not np.isfinite(values).all():
        what = f"anchor {list(values.shape)}, coefficients [{features}, {targets}]"
        raise InputError(what, where=where, todo="give a finite anchor of the shape of the coefficients")
    return values


class Targets(NamedTuple):
    """Targets in float64, one-hot codes of classes made when they are asked for: all of many classes are gigabytes.

    Attributes:
        values: [n, C] numbers, or [n] labels.
        classes: C of labels; None of numbers.
    """

    values: np.ndarray
    classes: int | None

    @property
    def width(self) -> int:
        """C."""
        return self.values.shape[1] if self.classes is None else self.classes

    def rows(self, part: slice | np.ndarray) -> np.ndarray:
        """[B, C] float64 of some examples."""
        return self.values[part] if self.classes is None else np.eye(self.classes)[self.values[part]]

    def mean(self) -> np.ndarray:
        """[C] over the examples."""
        if self.classes is None:
            return self.values.mean(axis=0)
        return np.bincount(self.values, minlength=self.classes) / len(self.values)

    def less(self, predicted: np.ndarray) -> Targets:
        """What is left of them as numbers."""
        return Targets(self.rows(slice(None)) - predicted, None)


def checked_targets(y: ArrayLike, n: int, classes: int | None, fit_intercept: bool, where: str) -> Targets:
    """Targets that are finite, with some variation; or labels of all classes."""
    if classes is not None:
        return Targets(checked_labels(y, n, classes, where), classes)
    targets = np.asarray(y)
    if targets.ndim not in (1, 2) or len(targets) != n or not targets.size or targets.dtype.kind not in "fiu":
        what = f"targets {targets.dtype} {list(targets.shape)} for {n} examples"
        raise InputError(what, where=where, todo="give numbers [examples] or [examples, targets]")
    targets = targets.reshape(n, -1).astype(np.float64)
    if not np.isfinite(targets).all():
        raise InputError("targets are not finite", where=where, todo="remove or repair NaN and infinity first")
    same = (targets == (targets[:1] if fit_intercept else 0.0)).all(axis=0)
    if same.any():
        what = f"target {int(same.argmax())} is {targets[0, same.argmax()]} for every example"
        raise InputError(what, where=where, todo="leave it out: there is nothing to explain")
    return Targets(targets, None)


def checked_weights(weights: ArrayLike | None, features: int, where: str) -> np.ndarray:
    """weights as [D] float64, each positive and finite; None: ones."""
    values = np.ones(features) if weights is None else np.asarray(weights, np.float64)
    if values.shape != (features,) or not ((values > 0) & np.isfinite(values)).all():
        what = f"penalty_weights of shape {list(values.shape)} for {features} features, or not all > 0"
        raise InputError(what, where=where, todo="give one weight > 0 per feature; 1e-6 is nearly unpenalised")
    return values
