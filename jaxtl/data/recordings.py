"""Recordings of spoken words, of several speakers and takes: an .npz of samples one after another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxtl.data.files import WRITTEN, entries
from jaxtl.data.npz import opened_npz
from jaxtl.errors import InputError
from jaxtl.files import expanded, open_regular

LARGEST = 2**30  # bytes of an archive that is read whole
KEYS = ("samples", "offsets", "labels", "speakers", "takes", "sample_rate")


class Recordings(NamedTuple):
    """Spoken words, each scaled by its peak.

    Attributes:
        name: short, for tables.
        signal: float32 [N, T]; longer recordings are cut at T, and 0 stands behind shorter ones.
        label, speaker, take: int32 [N].
        rate: samples a second.
        classes, speakers: names of the numbers.
        origin: where they came from, in words.
    """

    name: str
    signal: np.ndarray
    label: np.ndarray
    speaker: np.ndarray
    take: np.ndarray
    rate: int
    classes: tuple[str, ...]
    speakers: tuple[str, ...]
    origin: str


def load_recordings(path: str | os.PathLike[str], seconds: float = 1.0) -> Recordings:
    """Recordings of an .npz, such as those of the Free Spoken Digit Dataset.

    Peaks are made equal because speakers differ in loudness by far more than words do.

    Args:
        path: of an archive with "samples" (integers or floats, all recordings one after another), "offsets" (one more
            than recordings), "labels", "speakers", "takes" (integers [N]), "sample_rate", and "label_names" and
            "speaker_names" if there are any.
        seconds: that are kept of each.

    Raises:
        InputError: no such archive, keys missing, contents that do not fit together.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as room:
        ...     cut = {"samples": np.array([1, -2, 3, 4, 0, 1], np.int16), "offsets": [0, 2, 6], "labels": [0, 1]}
        ...     np.savez(f"{room}/words.npz", **cut, speakers=[0, 0], takes=[0, 1], sample_rate=3)
        ...     load_recordings(f"{room}/words.npz").signal.tolist()
        [[0.5, -1.0, 0.0], [0.75, 1.0, 0.0]]

    Source of such: Jackson et al., "Free Spoken Digit Dataset", 2018, CC BY-SA 4.0.
    """
    place = expanded(os.fspath(path))
    open_regular(place).close()
    with opened_npz(place, LARGEST, "recordings") as archive:
        samples, offsets, labels, speakers, takes, rate = entries(archive, place, *KEYS)
        names = [_names(archive, f"{what}_names") for what in ("label", "speaker")]
    cuts = offsets.astype(np.int64) if offsets.dtype.kind in "ui" and offsets.ndim == 1 else np.zeros(0, np.int64)
    rising = len(cuts) > 1 and cuts[0] == 0 and bool((cuts[1:] > cuts[:-1]).all()) and cuts[-1] == samples.size
    if not rising or samples.ndim != 1 or samples.dtype.kind not in "iuf" or not np.isfinite(samples).all():
        raise InputError("the offsets do not cut the samples into recordings", where=place, todo=WRITTEN)
    if rate.shape != () or rate.dtype.kind not in "ui" or not 0 < seconds * int(rate) < LARGEST:
        raise InputError(f"sample_rate is {rate}", where=place, todo="give whole samples a second")
    count = len(cuts) - 1
    label, speaker, take = (
        _numbers(what, one, count, place) for what, one in zip(KEYS[2:5], (labels, speakers, takes), strict=True)
    )
    classes, known = _named(names[0], label, "labels", place), _named(names[1], speaker, "speakers", place)
    signal = np.zeros((count, max(1, round(seconds * int(rate)))), np.float32)
    for row, start, end in zip(signal, cuts[:-1], cuts[1:], strict=True):
        word = samples[start:end].astype(np.float32)
        row[: len(word)] = word[: len(row)] / max(float(np.abs(word).max()), 1e-9)
    return Recordings(place.stem, signal, label, speaker, take, int(rate), classes, known, str(place))


def late(signal: np.ndarray, samples: int) -> np.ndarray:
    """Signals [N, T] that begin so many samples later; what goes beyond the end is cut.

    Example:
        >>> late(np.array([[1.0, 2.0, 3.0]]), 1).tolist()
        [[0.0, 1.0, 2.0]]
    """
    moved = np.zeros_like(signal)
    moved[:, samples:] = signal[:, : signal.shape[1] - samples]
    return moved


def _names(archive: Mapping[str, np.ndarray], key: str) -> tuple[str, ...]:
    return tuple(str(name) for name in archive[key].ravel()) if key in archive else ()


def _named(names: tuple[str, ...], numbers: np.ndarray, what: str, where: object) -> tuple[str, ...]:
    """The names that are given, or the numbers; all that occur have one."""
    names = names or tuple(str(number) for number in range(int(numbers.max()) + 1))
    if numbers.max() >= len(names):
        raise InputError(f"{what} up to {numbers.max()}, and {len(names)} names", where=where, todo="name them all")
    return names


def _numbers(what: str, numbers: np.ndarray, count: int, where: object) -> np.ndarray:
    if numbers.dtype.kind not in "ui" or numbers.shape != (count,):
        told = f"{what} are {numbers.dtype} {list(numbers.shape)} for {count} recordings"
        raise InputError(told, where=where, todo="give an integer from 0 on for each")
    wide = numbers.astype(np.int64)
    if wide.min() < 0 or wide.max() >= 2**31:
        raise InputError(f"{what} run from {wide.min()} to {wide.max()}", where=where, todo="number them from 0 on")
    return wide.astype(np.int32)
