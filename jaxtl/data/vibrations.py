"""Recordings of rolling bearings on several machines, at several loads and speeds, with faults: an .npz of samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.files import WRITTEN, entries
from jaxtl.data.npz import opened_npz
from jaxtl.data.windows import Recorded
from jaxtl.errors import InputError, suggest
from jaxtl.files import expanded, open_regular

LARGEST = 2**30  # bytes of an archive that is read whole
NUMBERS = ("rig", "rpm", "load_hp", "labels", "part")
NAMES = ("label_names", "part_names", "rig_names")


class Vibrations(NamedTuple):
    """Recordings of one accelerometer each.

    Attributes:
        signals: float32 [T, 1] each.
        rig, rpm, load_hp: [R] of the machine, its speed, its load (-1 where it is not known).
        labels, part: [R] the fault with how grave it is, and without.
        label_names, part_names, rig_names: of the numbers.
        origin: where they came from, in words.
    """

    signals: tuple[np.ndarray, ...]
    rig: np.ndarray
    rpm: np.ndarray
    load_hp: np.ndarray
    labels: np.ndarray
    part: np.ndarray
    label_names: tuple[str, ...]
    part_names: tuple[str, ...]
    rig_names: tuple[str, ...]
    origin: str

    def of_rig(self, name: str) -> np.ndarray:
        """[R] which recordings are of a machine.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.rig_names:
            raise InputError(f"no machine '{name}'", where=self.origin, todo=suggest(name, self.rig_names))
        return self.rig == self.rig_names.index(name)

    def some(self, rows: np.ndarray, name: str, *, parts: bool = False, without: str = "") -> Recorded:
        """The recordings of a mask [R], with the faults that occur among them as classes.

        Args:
            rows: which.
            name: of what they are.
            parts: ask where the fault is and not how grave it is.
            without: a class that is left out.

        Raises:
            InputError: fewer than two classes.
        """
        labels, names = (self.part, self.part_names) if parts else (self.labels, self.label_names)
        known = sorted({*labels[rows].tolist()} - ({names.index(without)} if without in names else set()))
        if len(known) < 2:
            what = f"{name}: {len(known)} classes of faults"
            raise InputError(what, where=self.origin, todo="give two at least")
        chosen = np.flatnonzero(rows & np.isin(labels, known))
        own = np.searchsorted(known, labels[chosen]).astype(np.int32)
        signals = tuple(self.signals[row] for row in chosen)
        return Recorded(name, signals, own, tuple(names[k] for k in known), self.origin)


def load_vibrations(path: str | os.PathLike[str]) -> Vibrations:
    """Recordings of an .npz.

    Args:
        path: of an archive with "samples" (all recordings one after another), "offsets" (one more than recordings),
            "scale" (what samples are multiplied by), "rig", "rpm", "load_hp", "labels", "part" (integers [R]) and the
            names "label_names", "part_names", "rig_names".

    Raises:
        InputError: no such archive, keys missing, contents that do not fit together.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as room:
        ...     numbers = {key: np.array([0, 1]) for key in NUMBERS}
        ...     names = {key: np.array(["one", "two"]) for key in NAMES}
        ...     cut = {"samples": np.arange(6, dtype=np.int16), "offsets": np.array([0, 2, 6]), "scale": np.ones(2)}
        ...     np.savez(f"{room}/machines.npz", **cut, **numbers, **names)
        ...     [signal[:, 0].tolist() for signal in load_vibrations(f"{room}/machines.npz").signals]
        [[0.0, 1.0], [2.0, 3.0, 4.0, 5.0]]
    """
    place = expanded(os.fspath(path))
    open_regular(place).close()
    with opened_npz(place, LARGEST, "recordings") as archive:
        samples, offsets, scale = entries(archive, place, "samples", "offsets", "scale")
        numbers = dict(zip(NUMBERS, entries(archive, place, *NUMBERS), strict=True))
        names = dict(zip(NAMES, entries(archive, place, *NAMES), strict=True))
    cuts = offsets.astype(np.int64) if offsets.dtype.kind in "ui" and offsets.ndim == 1 else np.zeros(0, np.int64)
    rising = len(cuts) > 1 and cuts[0] == 0 and bool((cuts[1:] > cuts[:-1]).all()) and cuts[-1] == samples.size
    if not rising or samples.ndim != 1 or samples.dtype.kind not in "if" or not np.isfinite(samples).all():
        raise InputError("the offsets do not cut the samples into recordings", where=place, todo=WRITTEN)
    _check(place, len(cuts) - 1, scale, numbers, names)
    signals = tuple(
        (samples[start:end].astype(np.float32) * np.float32(factor))[:, None]
        for start, end, factor in zip(cuts[:-1], cuts[1:], scale, strict=True)
    )
    words: dict[str, Any] = {key: tuple(str(name) for name in array.ravel()) for key, array in names.items()}
    given: dict[str, Any] = {key: array.astype(np.int32) for key, array in numbers.items()}
    return Vibrations(signals, **given, **words, origin=str(place))


def _check(
    place: Path, count: int, scale: np.ndarray, numbers: dict[str, np.ndarray], names: dict[str, np.ndarray]
) -> None:
    for key, array in {"scale": scale, **numbers}.items():
        kinds = "f" if key == "scale" else "ui"
        if array.shape != (count,) or array.dtype.kind not in kinds or not np.isfinite(array).all():
            what = f"{key} is {array.dtype} {list(array.shape)} for {count} recordings"
            raise InputError(what, where=place, todo="give a number for each")
    for key, of in zip(("labels", "part", "rig"), NAMES, strict=True):
        if numbers[key].min() < 0 or numbers[key].max() >= names[of].size:
            what = f"{key} from {numbers[key].min()} to {numbers[key].max()}, and {names[of].size} {of}"
            raise InputError(what, where=place, todo="name them all")
