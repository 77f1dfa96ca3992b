"""Recordings of signals in folders, a class a folder: .npy, .wav and .csv files, looked at before they are believed."""

from __future__ import annotations

import io
import math
import os
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtl.archives import HEADERS
from jaxtl.data.files import decoded, kind_of, reported
from jaxtl.data.folders import list_folders
from jaxtl.data.listing import Listing
from jaxtl.data.windows import Recorded
from jaxtl.errors import InputError
from jaxtl.files import content, expanded

ENDINGS = (".npy", ".wav", ".csv")
LARGEST = 2**28  # bytes of a file: an hour of 16 bits at 32 kHz
CHANNELS = 64  # at most
NUMBERS = "give numbers, [samples] or [samples, channels]"


class Signal(NamedTuple):
    """What a file holds.

    Attributes:
        samples: float32 [T, C].
        rate: samples a second; 0 where the file does not say.
    """

    samples: np.ndarray
    rate: int


def is_signal(path: Path) -> bool:
    """Whether a file is called like a recording."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def holds_signals(directory: Path) -> bool:
    """Whether there are recordings in folders here, at any depth that `list_folders` looks into."""
    if not directory.is_dir():
        return False
    for above, folders, names in os.walk(directory):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        if above != os.fspath(directory) and any(is_signal(Path(name)) for name in names):
            return True
    return False


def read_signal(path: Path) -> Signal:
    """One recording.

    Args:
        path: .npy of numbers [T] or [T, C]; .wav of 8 to 32 bits; .csv of a line for each sample and a column for each
            channel, whose first line may name them.

    Raises:
        InputError: no such file, another format, numbers that are NaN or infinite, more channels than `CHANNELS`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as room:
        ...     place = Path(room, "one.csv")
        ...     _ = place.write_text("x,y\\n1,2\\n3,4.5\\n")
        ...     read_signal(place).samples.tolist()
        [[1.0, 2.0], [3.0, 4.5]]
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError("is no recording", where=path, todo=f"give {', '.join(ENDINGS)}")
    raw = content(path, LARGEST)
    with reported(path, wave.Error):
        found, rate = {".npy": _of_numpy, ".wav": _of_wave, ".csv": _of_text}[ending](raw, path)
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or not found.size or found.shape[1] > CHANNELS:
        what = f"holds {list(found.shape)} numbers"
        raise InputError(what, where=path, todo=f"{NUMBERS}, {CHANNELS} channels at most")
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused next
        samples = found.astype(np.float32)
    if not np.isfinite(samples).all():
        raise InputError("has numbers that are NaN or infinite", where=path, todo="mend them, or leave the file out")
    return Signal(samples, rate)


def _of_numpy(raw: bytes, path: Path) -> tuple[np.ndarray, int]:
    """Numbers alone, as many as the header says; nothing is unpickled."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"npy version {version}")
    shape, by_column, dtype = HEADERS[version](file)
    if dtype.kind not in "iuf":
        raise InputError(f"holds {'Python objects' if dtype.hasobject else dtype}", where=path, todo=NUMBERS)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw) - file.tell():
        raise ValueError(f"announces {list(shape)} {dtype} and has {len(raw) - file.tell()} bytes")
    flat = np.frombuffer(raw, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if by_column else "C"), 0


def _of_wave(raw: bytes, path: Path) -> tuple[np.ndarray, int]:
    """Whole numbers of 8 to 32 bits, as parts of the largest."""
    with wave.open(io.BytesIO(raw)) as file:
        channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
        data = file.readframes(file.getnframes())
    if not 1 <= width <= 4 or not 1 <= channels <= CHANNELS:
        raise ValueError(f"{8 * width} bits, {channels} channels")
    data = data[: len(data) // (width * channels) * width * channels]
    found: np.ndarray
    if width == 1:  # the only one without a sign
        found = np.frombuffer(data, np.uint8).astype(np.float32) - 128
    elif width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        found = wide.view("<i4")[:, 0].astype(np.float32) / 256
    else:
        found = np.frombuffer(data, f"<i{width}").astype(np.float32)
    return found.reshape(-1, channels) / 2.0 ** (8 * width - 1), rate


def _of_text(raw: bytes, path: Path) -> tuple[np.ndarray, int]:
    """A line for each sample; columns parted by commas, semicolons, tabs or spaces."""
    if kind := kind_of(raw[:64]):
        raise InputError(f"is {kind}, no table of numbers", where=path, todo=NUMBERS)
    text = decoded(raw, path)
    first, _, rest = text.lstrip().partition("\n")
    comma = next((mark for mark in (",", ";", "\t") if mark in first), None)
    try:
        [float(word) for word in (first.split(comma) if comma else first.split())]
        rest = text
    except ValueError:
        pass  # names of columns
    if not rest.strip():
        raise InputError("holds no numbers", where=path, todo=NUMBERS)
    return np.loadtxt(io.StringIO(rest), dtype=np.float64, delimiter=comma, ndmin=2), 0


def list_signals(directory: Path) -> Listing:
    """The recordings of class folders, before any is opened; other files are passed over, which is said.

    Raises:
        InputError: see `list_folders`; a class without a recording.
    """
    found = list_folders(directory, every=True)
    rows = np.array([row for row, file in enumerate(found.files) if is_signal(file)], int)
    lost = sorted({*range(len(found.classes))} - {*found.labels[rows].tolist()})
    if lost:
        what = f"class {found.classes[lost[0]]} has no recording"
        raise InputError(what, where=directory, todo=f"put {', '.join(ENDINGS)} files into its folder")
    other = len(found.files) - len(rows)
    remarks = [*found.remarks, *([f"not read: {other} files that are no recordings"] if other else [])]
    return found.kept(rows)._replace(remarks=remarks)


def recorded(path: str | os.PathLike[str], memory: float = math.inf) -> Recorded:
    """All recordings of a directory.

    Args:
        path: a folder for each class, perhaps below parts for training and testing.
        memory: bytes that the samples may take.

    Raises:
        InputError: no such directory, files that cannot be read, several rates, more than the memory holds.
    """
    place = expanded(os.fspath(path))
    found = list_signals(place)
    signals, rates, needed = [], {}, 0
    for file in found.files:
        signals.append(read_signal(file))
        needed += signals[-1].samples.nbytes
        if needed > memory:
            what = f"recordings take more than {memory / 1e9:.3g} GB"
            raise InputError(what, where=place, todo="give fewer or shorter ones, or allow more memory")
        rates[signals[-1].rate] = file
    if len(rates) > 1:
        told = " and ".join(f"{rate or 'unknown'} ({file.name})" for rate, file in list(rates.items())[:2])
        raise InputError(f"recordings of several rates: {told}", where=place, todo="bring all to one rate")
    tested = found.tested if found.tested.any() else None
    samples = tuple(signal.samples for signal in signals)
    return Recorded(place.name, samples, found.labels.astype(np.int32), tuple(found.classes), str(place), tested)
