"""NumPy archives: arrays of images and labels, or mosaics of encoded images."""

from __future__ import annotations

import contextlib
import itertools
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jaxtl.archives import check_members, npy_dtype, open_zip
from jaxtl.data import decode
from jaxtl.data.arrays import assembled
from jaxtl.data.dataset import DataSet
from jaxtl.data.files import AGAIN, kind_of, listed, reported, start_of
from jaxtl.errors import InputError, suggest
from jaxtl.files import open_regular

INDEX = 2**20  # bytes of the index: ten thousand arrays
WRITTEN = "the archive was written so: write it again"


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
    with opened_npz(path, memory) as archive:
        if "train_blob" in archive and not prefix:
            arrays, coding = [], []
            for part in ("train", "test"):
                images, how = _decoded_mosaics(archive, path, part, memory)
                arrays += [images, *entries(archive, path, f"{part}_labels")]
                coding.append(f"{part} images {how}")
            names, origin = "label_names", f"{path} ({'; '.join(coding)})"
        else:
            stem = key_stem(archive, path, prefix)
            keys = (f"{stem}{part}_{what}" for part in ("train", "test") for what in ("images", "labels"))
            arrays = entries(archive, path, *keys)
            name = stem.rstrip("_") or name
            names, origin = f"{stem}label_names", f"{path}#{prefix}" if prefix else str(path)
        classes = archive[names].tolist() if names in archive else None
    return assembled(*arrays, classes=classes, name=name, origin=origin, where=path)


@contextlib.contextmanager
def opened_npz(path: Path, memory: float, noun: str = "images") -> Iterator[Mapping[str, np.ndarray]]:
    """An archive that has been looked at first, of images or other things; no pickle in it is executed.

    Raises:
        InputError: no archive, or one that does not fit into the memory; what cannot be read of it within.
    """
    _check_archive(path, memory, noun)
    with reported(path, RuntimeError), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield archive


def _check_archive(path: Path, memory: float, noun: str) -> None:
    """Whether it is one, and every array in it as large as it says and bearable."""
    with open_regular(path) as file:
        is_archive = zipfile.is_zipfile(file)
    if not is_archive:
        kind = kind_of(start_of(path))
        what = f"is {kind}, no npz archive" if kind and kind != "a zip archive" else "is no complete npz archive"
        raise InputError(what, where=path, todo=AGAIN)
    with reported(path, RuntimeError), open_regular(path) as file:  # of a flag or a password it cannot use
        archive = open_zip(file, INDEX)
        _check_memory(sum(member.file_size for member in archive.infolist()), memory, path, noun)
        check_members(archive, file)
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                npy_dtype(archive, member)


def _check_memory(needed: int, memory: float, path: Path, noun: str = "images") -> None:
    if needed > memory:
        what = f"unpacks to {needed / 1e9:.3g} GB, but {noun} may take {memory / 1e9:.3g} GB"
        todo = f"an npz is not read in parts: allow more memory, or write it as one folder of {noun} for each class"
        raise InputError(what, where=path, todo=todo)


def entries(archive: Mapping[str, np.ndarray], path: Path, *keys: str) -> list[np.ndarray]:
    missing = [key for key in keys if key not in archive]
    if missing:
        raise InputError(f"has no {', '.join(missing)}", where=path, todo=f"it holds {listed(sorted(archive))}")
    return [archive[key] for key in keys]


def key_stem(archive: Mapping[str, np.ndarray], path: Path, prefix: str, key: str = "train_images") -> str:
    """What stands before `train_images`, or another key, in the keys: "" or "usps_"."""
    stems = [one.removesuffix(key) for one in archive if f"_{one}".endswith(f"_{key}")]
    known = [stem.rstrip("_") for stem in stems]
    if prefix:
        if prefix not in known:
            raise InputError(f"has no {prefix}_{key}", where=path, todo=suggest(prefix, known))
        return f"{prefix}_"
    if len(stems) > 1 and "" not in stems:
        which = listed(f"{path.name}#{stem}" for stem in sorted(known))
        raise InputError(f"holds {len(stems)} data sets", where=path, todo=f"say which: {which}")
    if not stems:
        entries(archive, path, key)
    return "" if "" in stems else stems[0]


def _decoded_mosaics(archive: Mapping[str, np.ndarray], path: Path, part: str, memory: float) -> tuple[np.ndarray, str]:
    """Images uint8 [N, tile, tile, 3], and how they were encoded, in words."""
    keys = (f"{part}_blob", f"{part}_offsets", f"{part}_labels", "columns")
    blob, offsets, labels, columns = entries(archive, path, *keys)
    where, cuts = f"{path}, {part}", offsets.ravel().tolist()
    if offsets.dtype.kind not in "ui" or cuts != sorted(cuts) or cuts[:1] != [0] or cuts[-1] != blob.size:
        raise InputError("the offsets do not cut the blob into mosaics", where=where, todo=WRITTEN)
    if columns.shape != () or columns.dtype.kind not in "ui" or columns < 1:
        raise InputError(f"columns is {columns}, not the number of tiles in a row", where=where, todo=WRITTEN)
    coded = [blob[start:end].tobytes() for start, end in itertools.pairwise(cuts)]
    size, how = 0, "encoded without loss"
    for mosaic in coded:  # all sizes before the first pixel
        with decode.opened(mosaic, where) as image:
            size += image.width * image.height * 3
            if image.format != "PNG" and mosaic[12:16] != b"VP8L":  # VP8L is WebP without loss
                how = f"re-encoded as {image.format}, not the original pixels"
        _check_memory(size, memory, path)
    tiles = [_tiles(mosaic, int(columns), where) for mosaic in coded]
    with reported(path):
        images = np.concatenate(tiles)
    if not 0 <= len(images) - len(labels) < len(tiles[-1]):
        raise InputError(f"{len(labels)} labels for {len(images)} tiles", where=where, todo=WRITTEN)
    return images[: len(labels)], how


def _tiles(coded: bytes, across: int, where: str) -> np.ndarray:
    """The square tiles [N, tile, tile, 3] of one mosaic, row by row."""
    with decode.opened(coded, where) as image:
        mosaic = decode.pixels(image, False, {}, where)
    tile = mosaic.shape[1] // across
    if not tile or mosaic.shape[0] % tile or mosaic.shape[1] % across:
        what = f"a mosaic of {mosaic.shape[1]}x{mosaic.shape[0]} pixels has no {across} square tiles in a row"
        raise InputError(what, where=where, todo=WRITTEN)
    grid = mosaic.reshape(-1, tile, across, tile, 3)
    return grid.swapaxes(1, 2).reshape(-1, tile, tile, 3)
