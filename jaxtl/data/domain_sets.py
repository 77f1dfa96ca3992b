"""Two domains out of one set, or of other classes on either side: what adaptation is asked on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.errors import InputError

UNKNOWN = "unknown"  # the class of what the source has no class for


def halved(data: DataSet, change: Callable[[np.ndarray], np.ndarray], words: str) -> tuple[DataSet, DataSet]:
    """Every other training image as it is, the rest changed: no image is on both sides.

    Args:
        data: a set of images.
        change: grey levels 0..255 uint8 [N, H, W, C] -> the same, changed.
        words: what it does, for the target's name.

    Returns:
        (source, target): images as uint8 of 0..255 on both sides; the target's test images are the changed ones of the
        whole test part.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> images, labels = np.full((40, 4, 4, 1), 200, np.uint8), np.arange(40) % 2
        >>> source, target = halved(from_arrays(images, labels), lambda images: images // 2, "darker")
        >>> len(source.train) == len(target.train), int(target.train.images.max()), target.name
        (True, 100, 'data, darker')
    """
    level = 1.0 if int(np.max(data.train.images)) > 16 else 255 / 16  # those of small digits are 0 to 16

    def grey(part: Split) -> Split:
        return part.having(image=np.asarray(part.images * level).round().astype(np.uint8))

    def changed(part: Split) -> Split:
        return part.having(image=change(grey(part).images))

    own, other = data.train.take(slice(0, None, 2)), data.train.take(slice(1, None, 2))
    source = dataclasses.replace(data, train=grey(own), test=grey(data.test))
    target = dataclasses.replace(data, train=changed(other), test=changed(data.test), name=f"{data.name}, {words}")
    return source, target


def partial(source: DataSet, target: DataSet, shared: int) -> tuple[DataSet, DataSet]:
    """A target with the first classes of the source only; which those are, no method is told.

    Args:
        source, target: of the same classes.
        shared: how many classes the target keeps.

    Returns:
        (source, target), both with the names of all classes.

    Raises:
        InputError: no class, or all of them.
    """
    _check_shared(source, shared)
    return source, _of(target, target.train.labels < shared, target.test.labels < shared)


def open_set(source: DataSet, target: DataSet, shared: int) -> tuple[DataSet, DataSet]:
    """A source with the first classes of the target only; the rest of the target's are one class, "unknown".

    Args:
        source, target: of the same classes.
        shared: how many classes the source keeps.

    Returns:
        (source, target) of `shared` + 1 classes, the last without an example in the source.

    Raises:
        InputError: no class, or all of them.
    """
    _check_shared(source, shared)
    classes = (*source.classes[:shared], UNKNOWN)

    def known(part: Split) -> Split:
        return part.having(label=np.minimum(part.labels, shared))

    source = _of(source, source.train.labels < shared, source.test.labels < shared)
    target = dataclasses.replace(target, train=known(target.train), test=known(target.test))
    return dataclasses.replace(source, classes=classes), dataclasses.replace(target, classes=classes)


def _of(data: DataSet, train: np.ndarray, test: np.ndarray) -> DataSet:
    return dataclasses.replace(data, train=data.train.take(train), test=data.test.take(test))


def _check_shared(source: DataSet, shared: int) -> None:
    if not 0 < shared < len(source.classes):
        what = f"{shared} of {len(source.classes)} classes are shared"
        raise InputError(what, where="classes", todo=f"share 1 to {len(source.classes) - 1} of them")
