"""Examples that two tasks have in common: what one is trained on must not choose or be drawn for the other."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet, Split
from jaxtl.data.on_disk import Stored
from jaxtl.errors import InputError

BLOCK = 256  # images read at a time


def apart(source: DataSet, target: DataSet) -> tuple[DataSet, DataSet]:
    """Two tasks whose training parts have no example in common, and none of the source's is tested by the target.

    Of what both training parts hold, the source keeps one half of each target class and the target the other, an odd
    one included; copies of an example stay together. What the target is tested on is taken out of the source's training
    part. An example is known by its pixels, not by the name of its file or set, and the halves by a checksum of them:
    two copies of a set under two names are divided as one set is. All images are read once.

    Args:
        source, target: tasks, perhaps of one data set.

    Returns:
        (source, target); the same objects if they have nothing in common, else `notice` and `origin` say what was done.
        Test parts stay whole.

    Raises:
        InputError: a source class of which nothing is left to train on.

    Example:
        >>> from jaxtl.data import load
        >>> digits = load("digits")
        >>> source, target = apart(digits, digits)
        >>> len(digits.train), len(source.train), len(target.train)
        (1438, 717, 721)
    """
    if source.train.images.shape[1:] != target.train.images.shape[1:]:
        return source, target
    dtype = np.result_type(source.train.images.dtype, target.train.images.dtype)
    theirs, ours, tested = (_marks([part.images], dtype) for part in (source.train, target.train, target.test))
    common, first = np.unique(ours, return_index=True)
    shared = np.isin(common, theirs)
    common, labels = common[shared], target.train.labels[first[shared]]
    halves = [common[labels == label] for label in np.unique(labels)]
    given = np.concatenate([half[: len(half) // 2] for half in halves] or [common])
    leaves = np.isin(theirs, np.concatenate([np.setdiff1d(common, given), tested]))
    goes = np.isin(ours, given)
    if not (leaves.any() or goes.any()):
        return source, target
    kept = np.unique(source.train.labels[~leaves])
    for label, name in enumerate(source.classes):
        if label not in kept:
            what = f"no training image of class '{name}' is left for the source: the target has or tests them all"
            raise InputError(what, where=source.name, todo="give more images, or name the class on one side only")
    told = (
        f"images that both tasks have are in one of them only: the source model is trained without {leaves.sum():,} "
        f"of its {len(leaves):,}, the target has {goes.sum():,} of its {len(goes):,} less"
    )
    return _without(source, leaves, told), _without(target, goes, told)


def without_copies(data: DataSet) -> DataSet:
    """A set that trains on each example once, on none that it is tested on, and on nothing of a group that is tested.

    Of several copies in the training part the first stays. An example is known by its inputs, byte for byte; labels are
    not looked at, nor is a single number such as the laboratory. The test part stays whole.

    Args:
        data: any set whose arrays are in memory.

    Returns:
        The same object if nothing has to go, else `notice` and `origin` say how many did, and why.

    Raises:
        InputError: a class of which nothing is left to train on.

    Example:
        >>> from jaxtl.data import from_arrays
        >>> images = np.arange(5)[:, None].repeat(4, axis=1)
        >>> found = from_arrays(images[[0, 1, 1, 2, 3]], [0, 1, 1, 0, 1], images[[3, 4]], [0, 1])
        >>> data = without_copies(found)
        >>> len(data.train), data.notice.rpartition(": ")[2]
        (3, '1 repeats another, 1 is tested')
    """
    inputs = [name for name in data.train.names if name != "label" and data.train[name].ndim > 1]
    ours, tested = (_marks([part[name] for name in inputs]) for part in (data.train, data.test))
    again = np.ones(len(ours), bool)
    again[np.unique(ours, return_index=True)[1]] = False
    leaked = np.isin(ours, tested)
    whose, theirs = data.train.groups, data.test.groups
    grouped = np.zeros(len(ours), bool) if whose is None or theirs is None else np.isin(whose, theirs)
    leaves = again | leaked | grouped
    if not leaves.any():
        return data
    for label, name in enumerate(data.classes):
        if label in data.train.labels and label not in data.train.labels[~leaves]:
            what = f"all training examples of class '{name}' are tested too"
            raise InputError(what, where=data.name, todo="give others, or another split")
    why = [(again & ~leaked, "repeats another", "repeat others"), (leaked, "is tested", "are tested")]
    why += [(grouped & ~(again | leaked), "is of a group that is tested", "are of groups that are tested")]
    parts = [f"{mask.sum():,} {one if mask.sum() == 1 else many}" for mask, one, many in why if mask.any()]
    told = f"trained without {leaves.sum():,} of {len(ours):,} examples: {', '.join(parts)}"
    return _without(data, leaves, told)


def copies(train: Split, test: Split) -> str:
    """How many test examples are byte for byte training examples too, in a line; "" for none.

    Labels and groups are not looked at, and what is `Stored` is not read for this.
    """
    inputs = [name for name in train.names if name in test and name not in ("label", "group")]
    if any(isinstance(part[name], Stored) for part in (train, test) for name in inputs):
        return ""
    ours, theirs = (_marks([part[name] for name in inputs]) for part in (train, test))
    count = int(np.isin(theirs, ours).sum())
    return f"{count:,} of {len(test):,} test examples are training examples too, byte for byte" if count else ""


def _marks(arrays: Sequence[Any], dtype: np.dtype | None = None) -> np.ndarray:
    """uint64 [N], equal for equal examples; it comes from a cryptographic sum, so that others differ."""
    marks = []
    for start in range(0, len(arrays[0]), BLOCK):
        blocks = [np.ascontiguousarray(array[start : start + BLOCK], dtype) for array in arrays]
        rows = zip(*blocks, strict=True)
        marks += [hashlib.blake2b(b"".join(field.tobytes() for field in row), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(marks), np.uint64)


def _without(task: DataSet, leaves: np.ndarray, told: str) -> DataSet:
    return dataclasses.replace(task, train=task.train.take(~leaves), origin=f"{task.origin}; {told}").told(told)
