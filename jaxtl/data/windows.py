"""Recordings of signals cut into windows, and which windows are for training and which for testing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.arrays import from_arrays
from jaxtl.data.dataset import DataSet
from jaxtl.data.group_splits import groups_held_out
from jaxtl.errors import InputError

TRAIN = 0.7  # of the windows of a recording, the first in time, where it is cut
BLOCKS = 5  # of its training windows that stand next to each other: what validation takes whole or not at all
TEST = 1 / 3  # of the recordings, where each class has several


class Recorded(NamedTuple):
    """Recordings with a class each.

    Attributes:
        name: short, for tables.
        signals: float32 [T, C] each.
        labels: int32 [R], places in `classes`.
        classes: names.
        origin: where they came from, in words.
        tested: [R] whether a recording is for testing; None where nothing is said of it.
    """

    name: str
    signals: tuple[np.ndarray, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    origin: str
    tested: np.ndarray | None = None


def windows(signal: np.ndarray, length: int) -> np.ndarray:
    """Windows one after another, none of which shares a sample, each by its own mean and deviation.

    w_k = (x_k − mean_t x_k) / std_t x_k of every channel, 0 where it does not move

    Args:
        signal: [T, C]; what does not fill a window is left out at the end.
        length: samples of a window.

    Returns:
        [T // length, length, C] float32.

    Example:
        >>> windows(np.array([[1.0], [3.0], [9.0], [9.0], [5.0]]), 2)[..., 0].tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    whole = len(signal) // length * length
    parts = np.asarray(signal[:whole], np.float64).reshape(-1, length, signal.shape[1])
    parts = parts - parts.mean(axis=1, keepdims=True)
    spread = parts.std(axis=1, keepdims=True)
    return np.divide(parts, spread, out=np.zeros_like(parts), where=spread > 0).astype(np.float32)


def in_windows(found: Recorded, length: int, seed: int = 0) -> DataSet:
    """Windows of recordings as a data set with the field "signal", in which nothing leaks from training to testing.

    Where recordings for testing are named, or every class has three recordings or more, of which a third is then for
    testing, they are so as a whole: a group is a recording.
    Otherwise every recording is cut in time: the first 70 % of its windows are for training, one is left out, the rest
    are for testing; a group is then a fifth of the training windows of a recording, which stand next to each other.

    Args:
        found: recordings.
        length: samples of a window.
        seed: which recordings are for testing.

    Returns:
        Standardised windows float32 [N, length, C] with "label", "group" and "recording", the number of theirs.

    Raises:
        InputError: recordings of several numbers of channels, or too short for a window on either side.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(2, 100, 1)).astype(np.float32)
        >>> data = in_windows(Recorded("two", (*noise,), np.arange(2), ("a", "b"), "made up"), 10)
        >>> len(data.train), len(data.test), data.train["signal"].shape[1:]
        (14, 4, (10, 1))
    """
    cut = [windows(signal, length) for signal in found.signals]
    _check(found, cut, length)
    fewest = int(np.bincount(found.labels, minlength=len(found.classes)).min())
    if found.tested is not None or fewest >= round(1 / TEST):
        held = _held(found, seed)
        parts = [(np.full(len(part), number), np.full(len(part), held[number])) for number, part in enumerate(cut)]
        groups, tested = (np.concatenate(column) for column in zip(*parts, strict=True))
        used, how = np.ones(len(tested), bool), "tested on recordings that are not trained on"
    else:
        groups, tested, used = (np.concatenate(column) for column in zip(*_in_time(cut), strict=True))
        how = f"trained on the first {TRAIN:.0%} of every recording in time and tested on the rest, one window between"
    every, recording = np.concatenate(cut), np.repeat(np.arange(len(cut)), [len(part) for part in cut])
    train, test = (np.flatnonzero(used & side) for side in (~tested, tested))
    fields = [{"signal": every[rows], "recording": recording[rows]} for rows in (train, test)]
    labels = found.labels[recording]
    given = fields[0], labels[train], fields[1], labels[test]
    own: dict[str, Any] = {"groups": groups[train], "test_groups": groups[test]}
    return from_arrays(*given, **own, classes=found.classes, name=found.name, origin=f"{found.origin}; {how}")


def pixel_rows() -> tuple[Recorded, Recorded]:
    """Stand-ins without a file: pixels of scikit-learn's digits one after another, twenty images of 64 a recording.

    Returns:
        (three recordings of each digit, three of other images and backwards in time).

    Example:
        >>> own, backwards = pixel_rows()
        >>> len(own.signals), own.signals[0].shape, backwards.classes[:2]
        (30, (1280, 1), ('0', '1'))
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    cut = [images[labels == digit][:120].reshape(6, -1, 1).astype(np.float32) for digit in range(10)]
    own, other = ([part[row] for part in cut for row in rows] for rows in ((0, 1, 2), (3, 4, 5)))
    names, origin = ("digits", "digits, backwards"), "scikit-learn's digits, pixel after pixel"
    kinds, classes = np.repeat(np.arange(10, dtype=np.int32), 3), tuple("0123456789")
    first, second = tuple(own), tuple(signal[::-1] for signal in other)
    return Recorded(names[0], first, kinds, classes, origin), Recorded(names[1], second, kinds, classes, origin)


def _held(found: Recorded, seed: int) -> np.ndarray:
    """[R] whether a recording is for testing."""
    if found.tested is not None:
        return found.tested
    numbers = np.arange(len(found.labels))
    return np.isin(numbers, groups_held_out(found.labels, round(TEST * len(numbers)), seed, numbers)[0])


def _in_time(cut: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of every recording its windows' (groups, whether they are tested, whether they are used)."""
    found = []
    for number, part in enumerate(cut):
        place, first = np.arange(len(part)), int(TRAIN * len(part))
        block = np.minimum(place * BLOCKS // first, BLOCKS)  # the last is of the windows that are tested
        found.append((number * (BLOCKS + 1) + block, place > first, place != first))
    return found


def _check(found: Recorded, cut: Sequence[np.ndarray], length: int) -> None:
    channels = {part.shape[2] for part in cut}
    if len(channels) != 1:
        what = f"recordings of {', '.join(map(str, sorted(channels)))} channels"
        raise InputError(what, where=found.origin, todo="give all the same number")
    shortest = min(range(len(cut)), key=lambda number: len(cut[number]))
    if len(cut[shortest]) < BLOCKS:
        what = f"recording {shortest} has {len(found.signals[shortest])} samples, {len(cut[shortest])} windows"
        raise InputError(what, where=found.origin, todo=f"give {BLOCKS} windows of {length} at least")
