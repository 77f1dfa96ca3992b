"""Labelled recordings of one's own as windows to learn from, all windows of a file on one side of every split."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import Split
from jaxtl.data.folders import holds_folders
from jaxtl.data.labelled import Labelled, unlabelled
from jaxtl.data.listing import Listing
from jaxtl.data.on_disk import memory_budget
from jaxtl.data.signal_files import holds_signals, list_signals, read_signal
from jaxtl.data.windows import windows
from jaxtl.errors import InputError
from jaxtl.files import expanded

LEAST = 2  # recordings of a class: one to learn from, one to be judged by


def holds_recordings(path: Path) -> bool:
    """Whether there are labelled recordings here, rather than pictures."""
    return holds_signals(path) and not holds_folders(path)


@functools.lru_cache(maxsize=1)
def in_file(path: Path, length: int) -> tuple[np.ndarray, int]:
    """(windows [N, length, C] of one recording, its rate); the last file that was asked for is kept.

    Raises:
        InputError: what `read_signal` refuses, or less than a window.
    """
    signal = read_signal(path)
    if len(signal.samples) < length:
        what = f"has {len(signal.samples)} samples, and a window {length}"
        raise InputError(what, where=path, todo="give longer recordings, or shorter windows (--size)")
    return windows(signal.samples, length), signal.rate


def labelled_signals(data: str | os.PathLike[str], length: int, skip_bad: bool = False) -> Labelled:
    """Windows of all recordings of a directory, a folder for each class.

    Args:
        data: above the classes, or above parts for training and testing.
        length: samples of a window.
        skip_bad: leave out files that cannot be read, instead of refusing all.

    Returns:
        Splits with the fields "signal", "label" and "group", the number of a recording.

    Raises:
        InputError: nothing that can be learned from, recordings of several rates or numbers of channels, a class with
            one recording.
    """
    place = expanded(os.fspath(data))
    found, skipped, room = list_signals(place), list[tuple[str, str]](), memory_budget()
    cut, kept, rates, needed = [], [], dict[tuple[int, int], str](), 0
    for row, file in enumerate(found.files):
        name = str(file.relative_to(place))
        try:
            own, rate = in_file(file, length)
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append((name, error.what))
            continue
        if (needed := needed + own.nbytes) > room:
            what = f"windows take more than the {room / 1e9:.3g} GB that there are"
            raise InputError(what, where=place, todo="give fewer recordings")
        rates.setdefault((rate, own.shape[2]), name)
        cut.append(own)
        kept.append(row)
    if len(rates) > 1:
        kinds = [
            f"{channels} channels at {f'{rate} a second' if rate else 'an unknown rate'} ({name})"
            for (rate, channels), name in rates.items()
        ]
        raise InputError(f"recordings differ: {', '.join(kinds[:2])}", where=place, todo="bring all to one form")
    return _split(place, found.kept(np.array(kept, int)), cut, skipped)


def _split(place: Path, found: Listing, cut: list[np.ndarray], skipped: list[tuple[str, str]]) -> Labelled:
    counts = np.bincount(found.labels[~found.tested], minlength=len(found.classes))
    if counts.min() < LEAST:
        what = f"class {found.classes[int(counts.argmin())]} has {counts.min()} recordings to learn from"
        todo = f"give {LEAST} at least: windows of one recording stay together, and none would judge them"
        raise InputError(what, where=place, todo=todo)
    recording = np.repeat(np.arange(len(cut)), [len(own) for own in cut])
    place_in = np.concatenate([np.arange(len(own)) for own in cut])
    every, labels, tested = np.concatenate(cut), found.labels[recording].astype(np.int32), found.tested[recording]
    names = [window_of(str(found.files[k].relative_to(place)), n) for k, n in zip(recording, place_in, strict=True)]

    def part(rows: np.ndarray) -> Split:
        return Split(signal=every[rows], label=labels[rows], group=recording[rows].astype(np.int32))

    train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    notices = [*found.remarks, f"{len(cut)} recordings in windows of {every.shape[1]} samples"]
    called, test_called = ([names[row] for row in rows] for rows in (train, test))
    return Labelled(
        place.name,
        part(train),
        part(test) if len(test) else None,
        tuple(found.classes),
        found.origin,
        notices,
        called,
        test_called,
        skipped,
        {},
    )


def window_of(name: str, number: int) -> str:
    """What a window is called.

    Example:
        >>> window_of("good/a.wav", 2)
        'good/a.wav, window 2'
    """
    return f"{name}, window {number}"


def unlabelled_windows(path: str, length: int) -> tuple[list[str], list[tuple[Path, int]]]:
    """(what each is called, (file, number of the window)) of all that is to be predicted; one of a file that is bad.

    Raises:
        InputError: there is nothing.
    """
    directory, files = unlabelled(path)
    called, found = list[str](), list[tuple[Path, int]]()
    for file in files:
        name = str(file.relative_to(directory))
        try:
            count = len(in_file(file, length)[0])
        except InputError:
            called, found = [*called, name], [*found, (file, 0)]  # reading it says why
            continue
        called += [window_of(name, k) for k in range(count)]
        found += [(file, k) for k in range(count)]
    return called, found
