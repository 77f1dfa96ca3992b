"""The official files of CIFAR and of MNIST and its relatives, packed or not, and what is never read: pickles."""

from __future__ import annotations

import dataclasses
import math
import os
import struct
import tarfile
from pathlib import Path

import numpy as np

from jaxtl.data.arrays import assembled
from jaxtl.data.dataset import DataSet
from jaxtl.data.files import AGAIN, reported, start_of, tar_files, unpacked
from jaxtl.errors import InputError
from jaxtl.files import open_regular

BINARY = "take the binary version, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz"
OTHERS = f"{BINARY}; unpack an archive of your own and give its directory"
MARGIN = 2**24  # bytes that other files in an archive of CIFAR may take
OWN = "write a set of your own as an npz or as one folder of images for each class"


def refuse_pickle(path: Path) -> None:
    """Pickles run code when they are loaded, so the python versions of CIFAR are named and left alone."""
    inside = path / "data_batch_1" if path.is_dir() else path
    start = start_of(inside, 2) if inside.is_file() else b""
    pickled = len(start) == 2 and start[0] == 0x80 and start[1] <= 5  # PROTO, then the number of the protocol
    if pickled or path.name.startswith(("cifar-10-python", "cifar-100-python", "cifar-10-batches-py")):
        raise InputError("holds pickles, which can run code and are never read", where=path, todo=BINARY)


@dataclasses.dataclass(frozen=True)
class CifarLayout:
    """The official binary archive: records of label bytes (the last one counts) and 3 planes of 32x32 pixels."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    records: int  # of a train file
    test_records: int = 10_000

    def sizes(self) -> dict[str, int]:
        """The bytes of each file of records."""
        record = self.label_bytes + 3 * 32 * 32
        return dict.fromkeys(self.train, self.records * record) | {self.test: self.test_records * record}


CIFAR_10 = CifarLayout(
    "cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test="test_batch.bin",
    names="batches.meta.txt",
    label_bytes=1,
    records=10_000,
)
CIFAR_100 = CifarLayout(
    "cifar-100-binary",
    train=("train.bin",),
    test="test.bin",
    names="fine_label_names.txt",
    label_bytes=2,
    records=50_000,
)


def holds_cifar(directory: Path) -> bool:
    """Whether this is an extracted binary archive."""
    return any(os.path.lexists(directory / layout.train[0]) for layout in (CIFAR_10, CIFAR_100))


def read_cifar(path: Path, name: str) -> DataSet:
    """CIFAR-10 or CIFAR-100 (fine labels) from the official binary archive, packed or extracted.

    Args:
        path: `cifar-10-binary.tar.gz`, `cifar-100-binary.tar.gz` or the directory in them.
        name: of the data set.

    Raises:
        InputError: a file is missing or has not its official size.
    """
    with reported(path):
        layout, files = _files_in_directory(path) if path.is_dir() else _files_in_tar(path)
    missing = [file for file in (*layout.train, layout.test, layout.names) if file not in files]
    if missing:
        raise InputError(f"has no {', '.join(missing)}", where=path, todo=AGAIN)

    def arrays(*members: str) -> tuple[np.ndarray, np.ndarray]:
        record = layout.label_bytes + 3 * 32 * 32
        records = np.concatenate([np.frombuffer(files[member], np.uint8) for member in members]).reshape(-1, record)
        images = records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), records[:, layout.label_bytes - 1]

    with reported(path):
        classes = files[layout.names].decode("ascii").split()
    origin = f"{path} (official binary archive)"
    parts = (*arrays(*layout.train), *arrays(layout.test))
    return assembled(*parts, classes=classes, name=name, origin=origin, where=path)


def _files_in_directory(path: Path) -> tuple[CifarLayout, dict[str, bytes]]:
    layout = CIFAR_10 if os.path.lexists(path / CIFAR_10.train[0]) else CIFAR_100
    present = [path / file for file in (*layout.sizes(), layout.names) if os.path.lexists(path / file)]
    found = {}
    for file in present:
        with open_regular(file) as opened:
            _check_size(file.name, os.fstat(opened.fileno()).st_size, layout, path)
            found[file.name] = opened.read()
    return layout, found


def _files_in_tar(path: Path) -> tuple[CifarLayout, dict[str, bytes]]:
    """The expected members only, read in one pass without extracting; no other name is ever touched."""
    expected = {
        f"{layout.folder}/{file}": (layout, file)
        for layout in (CIFAR_10, CIFAR_100)
        for file in (*layout.sizes(), layout.names)
    }

    def wanted(member: tarfile.TarInfo) -> bool:
        if member.name in expected:
            layout, file = expected[member.name]
            _check_size(file, member.size, layout, path)
        return member.name in expected

    most = max(sum(layout.sizes().values()) for layout in (CIFAR_10, CIFAR_100)) + MARGIN
    found: dict[CifarLayout, dict[str, bytes]] = {}
    for name, content in tar_files(path, wanted, most):
        layout, file = expected[name]
        found.setdefault(layout, {})[file] = content
    if not found:
        raise InputError("holds no file of the binary CIFAR archives", where=path, todo=OTHERS)
    return max(found.items(), key=lambda item: len(item[1]))


def _check_size(file: str, size: int, layout: CifarLayout, path: Path) -> None:
    expected = layout.sizes().get(file, min(size, 2**16))  # the names of the classes: any size that is sane
    if size != expected:
        whole = size % (layout.label_bytes + 3 * 32 * 32) == 0
        raise InputError(f"{file} has {size} bytes instead of {expected}", where=path, todo=OWN if whole else AGAIN)


IDX_PARTS = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}  # file name, axes
IDX_NUMBERS = {9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}  # what else an idx file may hold


def holds_idx(directory: Path) -> bool:
    """Whether the files of MNIST, or of a set in its format, are here."""
    return _idx_file(directory, "train-images") is not None


def read_idx(directory: Path, name: str, memory: float = math.inf) -> DataSet:
    """MNIST and its relatives: four idx files, plain or gzipped; classes are numbers.

    Args:
        directory: with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`,
            `t10k-labels-idx1-ubyte`, each perhaps with `.gz`.
        name: of the data set.
        memory: bytes that a file may unpack to.

    Raises:
        InputError: a file is missing, has another magic number or not the size that its header says, or does not fit
            into the memory.
    """
    arrays = []
    for part, axes in IDX_PARTS.items():
        file = _idx_file(directory, part)
        if file is None:
            todo = "put it there: a set has four files, images and labels to train and to test"
            raise InputError(f"has no {_idx_candidates(directory, part)[0].name}", where=directory, todo=todo)
        arrays.append(_read_idx_file(file, axes, memory))
    origin = f"{directory} (idx files)"
    return assembled(*arrays, classes=None, name=name, origin=origin, where=directory)


def _idx_candidates(directory: Path, part: str) -> list[Path]:
    stem = f"idx{IDX_PARTS[part]}-ubyte"
    return [directory / f"{part}{dot}{stem}{packed}" for packed in ("", ".gz") for dot in ("-", ".")]


def _idx_file(directory: Path, part: str) -> Path | None:
    """The file of a part; one that can be read before one that cannot, which is reported."""
    present = [file for file in _idx_candidates(directory, part) if os.path.lexists(file)]
    return next((file for file in present if file.is_file()), present[0] if present else None)


def _read_idx_file(path: Path, axes: int, memory: float) -> np.ndarray:
    length = 4 + 4 * axes
    with reported(path), unpacked(path) as file:
        header = file.read(length)
        if len(header) < length or header[:4] != bytes([0, 0, 8, axes]):  # 8 is uint8
            what = f"starts with {header[:4].hex() or 'nothing'} instead of the magic number 00000{800 + axes}"
            other = IDX_NUMBERS.get(header[2], "") if len(header) == length and header[:2] == b"\0\0" else ""
            todo = f"it holds {other}: bring it to uint8, or pass the arrays to from_arrays" if other else AGAIN
            raise InputError(what, where=path, todo=todo)
        shape = struct.unpack(f">{axes}I", header[4:])
        count = math.prod(shape)
        if count > memory:
            what = f"its header says {list(shape)}, {count / 1e9:.3g} GB; images may take {memory / 1e9:.3g} GB"
            raise InputError(what, where=path, todo="allow more memory, or get the file again if it is damaged")
        values = file.read(count + 1)
    if len(values) != count:
        size = f"{len(values)}" if len(values) < count else f"more than {count}"
        raise InputError(f"has {size} bytes of data; its header says {list(shape)}", where=path, todo=AGAIN)
    return np.frombuffer(values, np.uint8).reshape(shape)
