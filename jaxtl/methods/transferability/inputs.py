"""Features, class labels and source probabilities as the scores take them: checked once, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError


def checked_labels(labels: ArrayLike, n: int, where: str) -> np.ndarray:
    """Labels as [n] integers 0..C-1 of two classes or more, each of which occurs.

    Raises:
        InputError: another shape or dtype, a negative label, one class only, a class without example.
    """
    values = np.asarray(labels)
    if values.shape != (n,) or values.dtype.kind not in "iu":
        what = f"labels {values.dtype} {list(values.shape)} for {n} examples"
        raise InputError(what, where=where, todo="give one integer per example")
    if values.min() < 0:
        raise InputError(f"label {values.min()} is negative", where=where, todo="use labels 0..C-1")
    present = np.unique(values)
    if len(present) < 2:
        what = f"all {n} labels are {present[0]}"
        raise InputError(what, where=where, todo="give examples of two classes or more")
    if present[-1] >= len(present):
        absent = int(np.argmax(present != np.arange(len(present))))
        what = f"labels 0..{present[-1]}, and class {absent} has no example"
        raise InputError(what, where=where, todo="give an example of each class, or renumber the labels")
    return values.astype(np.int64)


def checked_features(features: ArrayLike, labels: ArrayLike, where: str) -> tuple[np.ndarray, np.ndarray, float]:
    """(features [N, D] float64, codes [N, C] 0 or 1, below which part of the largest a singular value is rounding).

    Raises:
        InputError: not two examples, no numbers, NaN or infinity, and what `checked_labels` refuses.
    """
    given = np.asarray(features)
    if given.ndim != 2 or len(given) < 2 or not given.shape[1] or given.dtype.kind not in "fiu":
        what = f"features {given.dtype} {list(given.shape)}"
        raise InputError(what, where=where, todo="give numbers [examples, features], at least 2 examples")
    finite = np.isfinite(given).all(axis=1)
    if not finite.all():
        what = f"features of example {int(finite.argmin())} are not finite"
        raise InputError(what, where=where, todo="remove or repair NaN and infinity first")
    classes = checked_labels(labels, len(given), where)
    precision = np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps
    codes = np.eye(classes.max() + 1)[classes]
    return given.astype(np.float64), codes, float(max(given.shape) * precision)


def checked_probabilities(probabilities: ArrayLike, where: str) -> np.ndarray:
    """Probabilities as [N >= 2, C >= 1] float64 whose rows add up to 1.

    Raises:
        InputError: another shape, a number outside [0, 1], rows that do not add up to 1.
    """
    given = np.asarray(probabilities)
    todo = "give the source model's probabilities [examples, source classes]: softmax of its logits"
    if given.ndim != 2 or len(given) < 2 or not given.shape[1] or given.dtype.kind not in "fiu":
        raise InputError(f"probabilities {given.dtype} {list(given.shape)}", where=where, todo=todo)
    values = given.astype(np.float64)
    wrong = ~((values >= 0).all(axis=1) & (np.abs(values.sum(axis=1) - 1) < 1e-3))  # NaN compares false
    if wrong.any():
        what = f"those of example {int(wrong.argmax())} are no probabilities, or do not add up to 1"
        raise InputError(what, where=where, todo=todo)
    return values
