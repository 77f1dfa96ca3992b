"""What predictions are worth: what a comparison may measure, what guessing gives, which classes are confused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError
from jaxtl.protocol.decisions import roc_auc

BINS = 15  # of confidences, in the calibration error
UNEQUAL = 1.1  # the largest class is more than this many times the smallest: accuracy hides the small ones


class Measure(NamedTuple):
    """What test data are asked, and how the answer is told.

    Attributes:
        name: in words.
        score: (labels [N, ...], outputs [N, ...]) -> number. Of classes, outputs are logits [N, C] and labels integers
            [N]; of several labels logits and 0 or 1, both [N, C]; of numbers both [N, K]. What does not fit is refused.
        larger: whether a larger value is the better one.
        bounds: no value lies outside.
        failed: what a draw counts as on which training diverged.
        margin: effects smaller than this do not matter.
        percent: it is told in %, and differences in points; otherwise as it is.
    """

    name: str
    score: Callable[[np.ndarray, np.ndarray], float]
    larger: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    failed: float = 0.0
    margin: float = 0.01
    percent: bool = True

    @property
    def scale(self) -> float:
        """What a value is multiplied by when it is told."""
        return 100.0 if self.percent else 1.0

    @property
    def pattern(self) -> str:
        """Of a value that is told."""
        return ".1f" if self.percent else ".3f"

    @property
    def difference_pattern(self) -> str:
        """Of a difference that is told."""
        return ".2f" if self.percent else ".3f"

    @property
    def told_bounds(self) -> tuple[float, float]:
        """The bounds as values are told."""
        low, high = self.bounds
        return self.scale * low, self.scale * high

    @property
    def of_differences(self) -> tuple[float, float]:
        """The bounds of differences, as they are told."""
        width = self.scale * (self.bounds[1] - self.bounds[0])
        return -width, width

    @property
    def heading(self) -> str:
        """With its unit: "accuracy, %"."""
        return f"{self.name}, %" if self.percent else self.name

    @property
    def points(self) -> str:
        """The unit of a difference, behind a number: " points", or nothing."""
        return " points" if self.percent else ""

    @property
    def key(self) -> str:
        """As a flag or a file has it: "balanced_accuracy"."""
        return next((key for key, one in MEASURES.items() if one.name == self.name), self.name.replace(" ", "_"))

    def shown(self, value: float) -> str:
        """A value as it is told, without its unit."""
        return number(self.scale * value, self.pattern)

    def better(self, value: float) -> float:
        """The value with the sign that makes larger better, for choosing by it."""
        return value if self.larger else -value


class Truth(NamedTuple):
    """The test examples as they are: labels [N], and the names of the C classes."""

    labels: np.ndarray
    names: Sequence[str]

    @property
    def counts(self) -> np.ndarray:
        """[C] examples of each class."""
        return np.bincount(self.labels, minlength=len(self.names))

    @property
    def majority(self) -> float:
        """What always answering with the most frequent class would reach."""
        return float(self.counts.max() / len(self.labels))

    @property
    def chance(self) -> float:
        """What answering at random would reach, and the balanced accuracy of any constant answer."""
        return 1 / len(self.names)

    @property
    def unequal(self) -> bool:
        """Whether classes differ so much in size that an accuracy of its own is owed to each."""
        present = self.counts[self.counts > 0]
        return bool(present.max() > UNEQUAL * present.min())

    @property
    def sentence(self) -> str:
        """What an accuracy is to be held against."""
        name = self.names[int(self.counts.argmax())]
        return (
            f"Majority class: always '{name}', the most frequent of {len(self.names)} classes, is right for "
            f"{100 * self.majority:.1f} %; by chance {100 * self.chance:.1f} %."
        )


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> np.ndarray:
    """How many examples of every class (row) are taken for every class (column).

    Args:
        labels: [N] integers 0..C-1.
        predicted: [N] integers 0..C-1.
        classes: C.

    Returns:
        [C, C] integers that add up to N.

    Raises:
        InputError: shapes that do not fit, integers out of range.

    Example:
        >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    true = checked_classes(np.asarray(labels), np.size(labels), classes, "confusion_matrix")
    found = checked_classes(np.asarray(predicted), len(true), classes, "confusion_matrix")
    return np.bincount(classes * true + found, minlength=classes**2).reshape(classes, classes)


def balanced_accuracy(confusion: ArrayLike) -> float:
    """Mean over the classes that occur of the share of their examples that are right; 1/C for a constant answer.

    Args:
        confusion: [C, C] counts, a row for each true class.

    Example:
        >>> balanced_accuracy([[8, 0], [1, 1]])  # 90 % are right
        0.75

    Source: Brodersen, Ong, Stephan and Buhmann, The balanced accuracy and its posterior distribution (2010).
    """
    counts = np.asarray(confusion, np.float64)
    of_class = counts.sum(axis=1)
    return float(np.mean(counts.diagonal()[of_class > 0] / of_class[of_class > 0]))


def checked_classes(labels: np.ndarray, n: int, classes: int, where: str) -> np.ndarray:
    """Labels as [n] integers 0..classes-1; a class may be without example, as in what is held out."""
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or classes < 2:
        what = f"labels {labels.dtype} {list(labels.shape)} for {n} examples and {classes} classes"
        raise InputError(what, where=where, todo="give one integer per example, and at least 2 classes")
    if labels.min() < 0 or labels.max() >= classes:
        what = f"labels {labels.min()}..{labels.max()} for {classes} classes"
        raise InputError(what, where=where, todo="use labels 0..C-1")
    return labels.astype(np.int64)


# ---------------------------------------------------------------- measures


def number(value: float, pattern: str) -> str:
    """A formatted number with a true minus sign, none before what is rounded to 0, and a dash for NaN.

    Example:
        >>> number(-0.04, ".1f"), number(-0.04, "+.1f"), number(-0.06, ".1f"), number(math.nan, ".1f")
        ('0.0', '+0.0', '−0.1', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = format(value, pattern)
    return format(0.0, pattern) if float(text) == 0 else text.replace("-", "−")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax of [N, C] in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    odds = np.exp(shifted)
    return odds / odds.sum(axis=1, keepdims=True)


def _check_shapes(labels: np.ndarray, outputs: np.ndarray, expected: tuple[int, ...], where: str) -> None:
    """Labels [N, 1] beside answers [N] would be compared each with each, and still give a number."""
    if np.shape(labels) != expected:
        what = f"labels {list(np.shape(labels))} beside outputs {list(np.shape(outputs))}"
        raise InputError(what, where=where, todo="of classes [N] and [N, C], of numbers and several labels one shape")


def _accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    _check_shapes(labels, logits, np.shape(logits)[:-1], "accuracy")
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def _balanced(labels: np.ndarray, logits: np.ndarray) -> float:
    return balanced_accuracy(confusion_matrix(labels, np.argmax(logits, axis=-1), logits.shape[-1]))


def f1_by_label(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of every one of several labels, said to be true where its logit is > 0.

    Args:
        labels: [N, C], 0 or 1.
        logits: [N, C].

    Returns:
        [C]; NaN of a label that is neither true nor said to be.

    Raises:
        InputError: shapes that differ.

    Example:
        >>> f1_by_label(np.array([[1, 0], [1, 0]]), np.array([[2.0, -1.0], [-2.0, -1.0]])).round(3).tolist()
        [0.667, nan]
    """
    _check_shapes(labels, logits, np.shape(logits), "f1_by_label")
    said, true = np.asarray(logits) > 0, np.asarray(labels) > 0
    total = said.sum(axis=0) + true.sum(axis=0)
    return np.divide(2 * (said & true).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)


def _macro_f1(labels: np.ndarray, logits: np.ndarray) -> float:
    """Over the classes or labels that occur, as labels or as answers."""
    if np.ndim(labels) == 2:
        found = f1_by_label(labels, logits)
        return _mean(found[np.isfinite(found)].tolist())
    counts = confusion_matrix(labels, np.argmax(logits, axis=-1), logits.shape[-1])
    total = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.mean(2 * counts.diagonal()[total > 0] / total[total > 0]))


def _one_against_rest(labels: np.ndarray, outputs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(0 or 1 [N], score [N]) of every label that occurs on some examples and not on all."""
    if np.ndim(labels) == 1:
        scores = softmax(outputs)
        labels = np.eye(scores.shape[1], dtype=int)[labels]
        if scores.shape[1] == 2:  # the second class says it all
            labels, scores = labels[:, 1:], scores[:, 1:]
    else:
        scores = np.asarray(outputs)
    return [(own, score) for own, score in zip(labels.T, scores.T, strict=True) if 0 < own.sum() < len(own)]


def _roc_auc(labels: np.ndarray, outputs: np.ndarray) -> float:
    return _mean([roc_auc(*one) for one in _one_against_rest(labels, outputs)])


def _average_precision(labels: np.ndarray, outputs: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return _mean([average_precision_score(*one) for one in _one_against_rest(labels, outputs)])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _calibration_error(labels: np.ndarray, logits: np.ndarray) -> float:
    """Σ_bins share · |accuracy − confidence|, of bins of equal width."""
    _check_shapes(labels, logits, np.shape(logits)[:-1], "calibration error")
    probabilities = softmax(logits)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(place, weights, minlength=BINS) for weights in (right.astype(float), confidence)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(labels))


def _log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    own = np.take_along_axis(shifted, np.asarray(labels)[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - own))


def _r2(targets: np.ndarray, predicted: np.ndarray) -> float:
    """1 − squared error / variance, mean over the columns."""
    targets, predicted = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (targets, predicted))
    _check_shapes(targets, predicted, predicted.shape, "R²")
    return float(np.mean(1 - np.mean((targets - predicted) ** 2, axis=0) / np.var(targets, axis=0)))


ACCURACY = Measure("accuracy", _accuracy)
R2 = Measure("R²", _r2, bounds=(-math.inf, 1.0), failed=-1.0, percent=False)
MEASURES = {
    "accuracy": ACCURACY,
    "balanced_accuracy": Measure("balanced accuracy", _balanced),
    "macro_f1": Measure("macro F1", _macro_f1),
    "roc_auc": Measure("ROC-AUC", _roc_auc),
    "average_precision": Measure("average precision", _average_precision),
    # Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017
    "calibration_error": Measure("calibration error", _calibration_error, larger=False, failed=1.0),
    "log_loss": Measure(
        "log-loss", _log_loss, larger=False, bounds=(0.0, math.inf), failed=-math.log(2.0**-23), percent=False
    ),
    "r2": R2,
}
