"""A data set: images and labels of a train and a test part, checked once where they come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data.on_disk import Stored
from jaxtl.data.splits import hold_out
from jaxtl.errors import InputError

CHANNELS = (1, 3, 4)  # of grey and colour images, and of those with transparency


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one part: images uint8 (or float32 for features of your own) [N, ...], labels int32 [N].

    Images that would take too much memory are `Stored`: `np.asarray(split.images[index])` reads some of them.
    """

    images: Any  # np.ndarray | Stored
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """A train and a test part with the names of their classes.

    Attributes:
        name: short, for tables.
        train: the training part; every class occurs in it.
        test: the test part, with images like those of `train`.
        classes: the class names; label i is classes[i].
        origin: where it came from, in words that can stand next to a result.
        notice: a line to show when this is not what was asked for first; else "".
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    origin: str
    notice: str = ""

    @property
    def content(self) -> tuple[Any, ...]:
        """All its arrays: images and labels of both parts."""
        return self.train.images, self.train.labels, self.test.images, self.test.labels


def from_arrays(
    images: Any,
    labels: Any,
    test_images: Any = None,
    test_labels: Any = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    origin: str = "arrays in memory",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataSet:
    """Your own data as a `DataSet`.

    Args:
        images: [N, H, W, C], grey images [N, H, W] (they become [N, H, W, 1]) or features [N, D]. uint8 stays uint8;
            other integers and floats become float32.
        labels: integers [N] or [N, 1] in 0..C-1; every class must occur.
        test_images: like `images`; without a test part, a stratified one is split off.
        test_labels: integers in 0..C-1; a class may be missing here.
        classes: the C names; by default "0", "1", ... as many as the training labels use.
        name: short, for tables.
        origin: where the data came from, in words.
        test_fraction: the part to split off, in (0, 1); read only if no test part is given.
        seed: of that split.

    Returns:
        The data set; the arrays given are not changed.

    Raises:
        InputError: empty parts, lengths that differ, channels in front of the pixels, pixels that are NaN or infinite,
            labels that are no integers or outside 0..C-1, a class without a training example, shapes or dtypes that
            differ between train and test.

    Example:
        >>> data = from_arrays(np.zeros((10, 8, 8), np.uint8), np.arange(10) % 2, classes=["cat", "dog"])
        >>> data.train.images.shape, len(data.test)
        ((8, 8, 8, 1), 2)
    """
    if (test_images is None) != (test_labels is None):
        raise InputError("only one of test_images and test_labels is given", where=name, todo="give both or neither")
    if test_images is None:
        everything = _checked_split(images, labels, where=name)
        if not 0 < test_fraction < 1:
            raise InputError(f"test_fraction is {test_fraction}", where=name, todo="use a fraction between 0 and 1")
        count = max(1, round(test_fraction * len(everything)))
        held, rest = hold_out(everything.labels, count, seed)
        images, test_images = everything.images[rest], everything.images[held]
        labels, test_labels = everything.labels[rest], everything.labels[held]
    return assembled(images, labels, test_images, test_labels, classes=classes, name=name, origin=origin, where=name)


def assembled(
    images: Any,
    labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    classes: Sequence[str] | None,
    name: str,
    origin: str,
    where: object,
) -> DataSet:
    """Two parts as a checked `DataSet`; the arguments are those of `from_arrays`, and errors name `where`."""
    train = _checked_split(images, labels, where=f"{where}, train")
    test = _checked_split(test_images, test_labels, where=f"{where}, test")
    names = _class_names(train.labels, classes, where=f"{where}, train")
    _check_test(train, test, names, where=f"{where}, test")
    return DataSet(name, train, test, names, origin)


def _checked_split(images: Any, labels: Any, *, where: str) -> Split:
    images, labels = _checked_images(images, where), _checked_labels(labels, where)
    if len(images) != len(labels):
        last = images.ndim == 4 and images.shape[3] == len(labels)  # as MATLAB has them
        todo = "they come last here: np.moveaxis(images, -1, 0)" if last else "give one label per image"
        raise InputError(f"{len(images)} images but {len(labels)} labels", where=where, todo=todo)
    return Split(images, labels)


def _as_array(values: Any, what: str, where: str) -> np.ndarray:
    todo = "give one array of numbers, every example of one shape"
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"the {what} are ragged", where=where, todo=todo) from error
    if array.dtype.hasobject:
        raise InputError(f"the {what} are Python objects", where=where, todo=todo)
    return array


def _checked_images(images: Any, where: str) -> np.ndarray | Stored:
    if isinstance(images, Stored) and len(images):
        return images
    images = _as_array(images, "images", where)
    if images.ndim < 2 or images.size == 0:
        todo = "give [N, H, W, C], grey [N, H, W] or features [N, D]"
        raise InputError(f"images of shape {list(images.shape)}", where=where, todo=todo)
    if images.dtype.kind not in "uif":
        raise InputError(f"images are {images.dtype}", where=where, todo="give uint8 or float32")
    if images.ndim == 4 and images.shape[1] in CHANNELS and images.shape[3] not in CHANNELS:
        what = f"images of shape {list(images.shape)} have their channels in front"
        raise InputError(what, where=where, todo="give [N, H, W, C]: images.transpose(0, 2, 3, 1)")
    if images.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused next
            images = images.astype(np.float32)
        bad = ~np.isfinite(images.reshape(len(images), -1)).all(axis=1)
        if bad.any():
            what = f"{bad.sum()} images have pixels that are NaN or infinite, the first is number {bad.argmax()}"
            raise InputError(what, where=where, todo="remove or repair them")
    return images[..., None] if images.ndim == 3 else images


def _checked_labels(labels: Any, where: str) -> np.ndarray:
    labels = _as_array(labels, "labels", where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.size == 0:
        raise InputError(f"labels of shape {list(labels.shape)}", where=where, todo=_one_label_each(labels))
    if labels.dtype.kind not in "ui":
        raise InputError(f"labels are {labels.dtype}", where=where, todo=_as_integers(labels))
    low, high = labels.min(), labels.max()
    if low < 0 or high >= 2**31:
        unlabelled = f"; leave the {np.sum(labels < 0):,} out that have none: labels >= 0" if low == -1 else ""
        todo = f"number the classes 0..C-1{unlabelled}"
        raise InputError(f"labels run from {low} to {high}", where=where, todo=todo)
    return labels.astype(np.int32)


def _one_label_each(labels: np.ndarray) -> str:
    """What to do with labels of several axes, or none."""
    todo = "give one integer per example, [N]"
    if labels.size and labels.size == max(labels.shape, default=0):
        return f"{todo}: labels.ravel()"
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "uifb":
        return todo
    if np.allclose(labels.sum(axis=1), 1, atol=1e-3) and np.all(labels >= 0):
        return f"{todo}; of one-hot rows or probabilities that is labels.argmax(axis=1)"
    if np.all((labels == 0) | (labels == 1)):
        return f"{todo}; these rows name none or several classes, and one of them must be chosen"
    return todo


def _as_integers(labels: np.ndarray) -> str:
    """What to do with labels [N] of another dtype."""
    todo = "give integers 0..C-1"
    if labels.dtype.kind in "US":
        return f"{todo}: classes, labels = np.unique(labels, return_inverse=True)"
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        return f"{todo}; leave the {np.isnan(labels).sum():,} out that are NaN"
    if labels.dtype.kind == "b" or (labels.dtype.kind == "f" and np.all(labels == np.round(labels))):
        return f"{todo}: labels.astype(int)"
    return f"{todo}; numbers to be predicted are no classes"


def _class_names(labels: np.ndarray, classes: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The names of the classes, each of which has an example."""
    present = np.unique(labels)
    if classes is None:
        names, count = None, int(present[-1]) + 1
    else:
        names = tuple(str(name) for name in classes)
        count = len(names)
        if len(set(names)) != count:
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"a class name occurs twice: '{twice}'", where=where, todo="name each class once")
        if present[-1] >= count:
            what = f"label {present[-1]}, but the {count} class names are for 0..{count - 1}"
            from_one = present[0] == 1 and present[-1] == count
            todo = "number the classes 0..C-1 and name them all" + (", not from 1: labels - 1" if from_one else "")
            raise InputError(what, where=where, todo=todo)
    if len(present) < count:
        first = next(label for label in range(count) if label >= len(present) or present[label] != label)
        called = "" if names is None else f" ({names[first]})"
        what = f"{count - len(present)} of {count} classes have no example, the first is class {first}{called}"
        from_one = present[0] == 1 and len(present) == count - 1
        todo = "number the classes that occur 0..C-1" + (", not from 1: labels - 1" if from_one else "")
        raise InputError(what, where=where, todo=todo)
    return names or tuple(map(str, range(count)))


def _check_test(train: Split, test: Split, names: tuple[str, ...], where: str) -> None:
    if test.labels.max() >= len(names):
        what = f"label {test.labels.max()}, but the classes of the training part are 0..{len(names) - 1}"
        raise InputError(what, where=where, todo="test only on classes that were trained")
    kinds = [f"{split.images.dtype}{list(split.images.shape[1:])}" for split in (train, test)]
    if kinds[0] != kinds[1]:
        what = f"an image is {kinds[1]}, a training image {kinds[0]}"
        raise InputError(what, where=where, todo="bring both parts to one shape and dtype")
