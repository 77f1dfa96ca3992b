"""What a classifier's predictions are worth: what guessing gives, balanced accuracy, which classes are confused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxtl.errors import InputError

UNEQUAL = 1.1  # the largest class is more than this many times the smallest: accuracy hides the small ones


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
