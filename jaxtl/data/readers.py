"""File formats: a reader takes a path and gives a checked `DataSet`, or says in one line what is wrong with the file.

No reader executes what it reads: NumPy archives open without pickles, and a tar is read in place, by member name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import itertools
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxtl.data.dataset import DataSet, assembled
from jaxtl.errors import InputError, suggest

AGAIN = "get the file again: it is truncated, damaged or not what its name says"
BINARY = "take the binary version, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz"
DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@contextlib.contextmanager
def reported(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """What a library says about a file that cannot be read becomes an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except (*DAMAGE, *errors) as error:
        said = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"cannot be read ({said[0]})", where=path, todo=AGAIN) from error


def refuse_pickle(path: Path) -> None:
    """Pickles run code when they are loaded, so the python versions of CIFAR are named and left alone."""
    inside = path / "data_batch_1" if path.is_dir() else path
    start = b""
    if inside.is_file():
        with reported(path), inside.open("rb") as file:
            start = file.read(2)
    pickled = len(start) == 2 and start[0] == 0x80 and start[1] <= 5  # PROTO, then the number of the protocol
    if pickled or path.name.startswith(("cifar-10-python", "cifar-100-python", "cifar-10-batches-py")):
        raise InputError("holds pickles, which can run code and are never read", where=path, todo=BINARY)


def read_npz(path: Path, name: str, prefix: str = "", memory: float = math.inf) -> DataSet:
    """A NumPy archive: `train_images`, `train_labels`, `test_images`, `test_labels`, or mosaics of encoded images.

    Args:
        path: of the archive. Mosaics are `train_blob` (encoded images of many tiles, one after another),
            `train_offsets`, `train_labels`, the same for test, and `columns` (tiles in a row). `label_names` is
            optional.
        name: of the data set.
        prefix: for keys like `usps_train_images`; without it such an archive must hold only one.
        memory: bytes that an archive may unpack to.

    Raises:
        InputError: no archive, one that does not fit into the memory, keys missing or ambiguous, or contents that do
            not fit together.
    """
    if not zipfile.is_zipfile(path):
        raise InputError("is no complete npz archive", where=path, todo=AGAIN)
    with reported(path, RuntimeError), zipfile.ZipFile(path) as members:  # of a flag or a password it cannot use
        unpacked = sum(member.file_size for member in members.infolist())
    if unpacked > memory:
        what = f"unpacks to {unpacked / 1e9:.3g} GB, but images may take {memory / 1e9:.3g} GB"
        todo = "an npz is not read in parts: allow more memory, or write it as one folder of images for each class"
        raise InputError(what, where=path, todo=todo)
    with reported(path, RuntimeError), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if "train_blob" in archive and not prefix:
            arrays, coding = [], []
            for part in ("train", "test"):
                images, how = _decoded_mosaics(archive, path, part)
                arrays += [images, *_entries(archive, path, f"{part}_labels")]
                coding.append(f"{part} images {how}")
            names, origin = "label_names", f"{path} ({'; '.join(coding)})"
        else:
            stem = _key_stem(archive, path, prefix)
            keys = (f"{stem}{part}_{what}" for part in ("train", "test") for what in ("images", "labels"))
            arrays = _entries(archive, path, *keys)
            name = stem.rstrip("_") or name
            names, origin = f"{stem}label_names", f"{path}#{prefix}" if prefix else str(path)
        classes = archive[names].tolist() if names in archive else None
    return assembled(*arrays, classes=classes, name=name, origin=origin, where=path)


def _entries(archive: Mapping[str, np.ndarray], path: Path, *keys: str) -> list[np.ndarray]:
    missing = [key for key in keys if key not in archive]
    if missing:
        held = sorted(archive)
        more = f" and {len(held) - 6} more" if len(held) > 6 else ""
        raise InputError(f"has no {', '.join(missing)}", where=path, todo=f"it holds {', '.join(held[:6])}{more}")
    return [archive[key] for key in keys]


def _key_stem(archive: Mapping[str, np.ndarray], path: Path, prefix: str) -> str:
    """What stands before `train_images` in the keys: "" or "usps_"."""
    stems = [key.removesuffix("train_images") for key in archive if f"_{key}".endswith("_train_images")]
    known = [stem.rstrip("_") for stem in stems]
    if prefix:
        if prefix not in known:
            raise InputError(f"has no {prefix}_train_images", where=path, todo=suggest(prefix, known))
        return f"{prefix}_"
    if len(stems) > 1 and "" not in stems:
        listed = ", ".join(f"{path.name}#{stem}" for stem in sorted(known))
        raise InputError(f"holds {len(stems)} data sets", where=path, todo=f"say which: {listed}")
    if not stems:
        _entries(archive, path, "train_images")
    return "" if "" in stems else stems[0]


def _decoded_mosaics(archive: Mapping[str, np.ndarray], path: Path, part: str) -> tuple[np.ndarray, str]:
    """Images uint8 [N, tile, tile, 3], and how they were encoded, in words."""
    from PIL import Image

    keys = (f"{part}_blob", f"{part}_offsets", f"{part}_labels", "columns")
    blob, offsets, labels, columns = _entries(archive, path, *keys)
    where, cuts = f"{path}, {part}", offsets.ravel().tolist()
    if offsets.dtype.kind not in "ui" or cuts != sorted(cuts) or cuts[:1] != [0] or cuts[-1] != blob.size:
        raise InputError("the offsets do not cut the blob into mosaics", where=where, todo=AGAIN)
    if columns.shape != () or columns.dtype.kind not in "ui" or columns < 1:
        raise InputError(f"columns is {columns}, not the number of tiles in a row", where=where, todo=AGAIN)
    across, tiles, how = int(columns), [], "encoded without loss"
    for start, end in itertools.pairwise(cuts):
        coded = blob[start:end].tobytes()
        with reported(path, Image.DecompressionBombError), Image.open(io.BytesIO(coded)) as image:
            if image.format != "PNG" and coded[12:16] != b"VP8L":  # VP8L is WebP without loss
                how = f"re-encoded as {image.format}, not the original pixels"
            mosaic = np.asarray(image.convert("RGB"))
        tile = mosaic.shape[1] // across
        if not tile or mosaic.shape[0] % tile or mosaic.shape[1] % across:
            what = f"a mosaic of {mosaic.shape[1]}x{mosaic.shape[0]} pixels has no {across} square tiles in a row"
            raise InputError(what, where=where, todo=AGAIN)
        grid = mosaic.reshape(-1, tile, across, tile, 3)
        tiles.append(grid.swapaxes(1, 2).reshape(-1, tile, tile, 3))
    with reported(path):
        images = np.concatenate(tiles)
    if not 0 <= len(images) - len(labels) < len(tiles[-1]):
        raise InputError(f"{len(labels)} labels for {len(images)} tiles", where=where, todo=AGAIN)
    return images[: len(labels)], how


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
    return any((directory / layout.train[0]).is_file() for layout in (CIFAR_10, CIFAR_100))


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
    layout = CIFAR_10 if (path / CIFAR_10.train[0]).is_file() else CIFAR_100
    present = [path / file for file in (*layout.sizes(), layout.names) if (path / file).is_file()]
    for file in present:
        _check_size(file.name, file.stat().st_size, layout, path)
    return layout, {file.name: file.read_bytes() for file in present}


def _files_in_tar(path: Path) -> tuple[CifarLayout, dict[str, bytes]]:
    """The expected members only, read in one pass without extracting; no other name is ever touched."""
    wanted = {
        f"{layout.folder}/{file}": (layout, file)
        for layout in (CIFAR_10, CIFAR_100)
        for file in (*layout.sizes(), layout.names)
    }
    found: dict[CifarLayout, dict[str, bytes]] = {}
    with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.name in wanted else None
            if content is not None:
                layout, file = wanted[member.name]
                _check_size(file, member.size, layout, path)
                found.setdefault(layout, {})[file] = content.read()
        while stream.read(2**20):  # on to the end, where gzip compares its checksum
            pass
    if not found:
        raise InputError("holds no file of the binary CIFAR archives", where=path, todo=BINARY)
    return max(found.items(), key=lambda item: len(item[1]))


def _unpacked(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix in (".gz", ".tgz") else path.open("rb")


def _check_size(file: str, size: int, layout: CifarLayout, path: Path) -> None:
    expected = layout.sizes().get(file, min(size, 2**16))  # the names of the classes: any size that is sane
    if size != expected:
        raise InputError(f"{file} has {size} bytes instead of {expected}", where=path, todo=AGAIN)


IDX_PARTS = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}  # file name, axes


def holds_idx(directory: Path) -> bool:
    """Whether the files of MNIST, or of a set in its format, are here."""
    return any(file.is_file() for file in _idx_candidates(directory, "train-images"))


def read_idx(directory: Path, name: str) -> DataSet:
    """MNIST and its relatives: four idx files, plain or gzipped; classes are numbers.

    Args:
        directory: with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`,
            `t10k-labels-idx1-ubyte`, each perhaps with `.gz`.
        name: of the data set.

    Raises:
        InputError: a file is missing, has another magic number or not the size that its header says.
    """
    arrays = []
    for part in IDX_PARTS:
        found = [file for file in _idx_candidates(directory, part) if file.is_file()]
        if not found:
            raise InputError(f"has no {_idx_candidates(directory, part)[0].name}", where=directory, todo=AGAIN)
        arrays.append(_read_idx_file(found[0], IDX_PARTS[part]))
    origin = f"{directory} (idx files)"
    return assembled(*arrays, classes=None, name=name, origin=origin, where=directory)


def _idx_candidates(directory: Path, part: str) -> list[Path]:
    stem = f"idx{IDX_PARTS[part]}-ubyte"
    return [directory / f"{part}{dot}{stem}{packed}" for packed in ("", ".gz") for dot in ("-", ".")]


def _read_idx_file(path: Path, axes: int) -> np.ndarray:
    with reported(path), _unpacked(path) as file:
        content = file.read()
    header = 4 + 4 * axes
    if len(content) < header or content[:4] != bytes([0, 0, 8, axes]):  # 8 is uint8
        what = f"starts with {content[:4].hex() or 'nothing'} instead of the magic number 00000{800 + axes}"
        raise InputError(what, where=path, todo=AGAIN)
    shape = struct.unpack(f">{axes}I", content[4:header])
    if len(content) - header != math.prod(shape):
        what = f"has {len(content) - header} bytes of data; its header says {list(shape)}"
        raise InputError(what, where=path, todo=AGAIN)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
