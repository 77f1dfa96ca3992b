"""Examples that two tasks have in common: what one is trained on must not choose or be drawn for the other."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from jaxtl.data.dataset import DataSet
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
    theirs, ours, tested = (_marks(part.images, dtype) for part in (source.train, target.train, target.test))
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


def _marks(images: Any, dtype: np.dtype) -> np.ndarray:
    """uint64 [N], equal for equal images; it comes from a cryptographic sum, so that others differ."""
    marks = []
    for start in range(0, len(images), BLOCK):
        block = np.ascontiguousarray(images[start : start + BLOCK], dtype)
        marks += [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in block]
    return np.frombuffer(b"".join(marks), np.uint64)


def _without(task: DataSet, leaves: np.ndarray, told: str) -> DataSet:
    train = dataclasses.replace(task.train, images=task.train.images[~leaves], labels=task.train.labels[~leaves])
    notice = f"{task.notice}; {told}" if task.notice else told
    return dataclasses.replace(task, train=train, origin=f"{task.origin}; {told}", notice=notice)
