"""NumPy archives: arrays of images and labels, or mosaics of encoded images."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxtl.archives import check_members, npy_dtype, open_zip
from jaxtl.data.arrays import assembled
from jaxtl.data.boxed import holds_boxes, read_boxed
from jaxtl.data.dataset import DataSet
from jaxtl.data.files import AGAIN, check_memory, entries, kind_of, listed, reported, start_of
from jaxtl.data.mosaics import decoded_mosaics, read_sheets, sheets_of
from jaxtl.errors import InputError, suggest
from jaxtl.files import open_regular

INDEX = 2**20  # bytes of the index: ten thousand arrays


def read_npz(path: Path, name: str, prefix: str = "", memory: float = math.inf) -> DataSet:
    """A NumPy archive: `train_images`, `train_labels`, `test_images`, `test_labels`, or mosaics of encoded images.

    Args:
        path: of the archive; `val_images` and `val_labels` are for training, where there are any. Mosaics are
            `train_blob` (encoded images of many tiles, one after another), `train_offsets`, `train_labels`, the same
            for test, and `columns` (tiles in a row). `label_names` is optional. Or mosaics of one set whose examples
            say themselves where they belong: `cells_blob`, `cells_offsets`, `cells_labels`, `cells_split` (places in
            `split_names`). Or pictures with boxes, see `read_boxed`.
        name: of the data set.
        prefix: for keys like `usps_train_images`; without it such an archive must hold only one.
        memory: bytes that an archive may unpack to.

    Raises:
        InputError: no archive, one that does not fit into the memory, keys missing or ambiguous, or contents that do
            not fit together.
    """
    with opened_npz(path, memory) as archive:
        if holds_boxes(archive) and not prefix:
            return read_boxed(archive, path, name, memory)
        if sheet := _sheet(archive, path, prefix):
            return read_sheets(archive, path, sheet, memory)
        if "train_blob" in archive and not prefix:
            arrays, coding = [], []
            for part in ("train", "test"):
                images, how = decoded_mosaics(archive, path, part, memory)
                arrays += [images, *entries(archive, path, f"{part}_labels")]
                coding.append(f"{part} images {how}")
            names, origin = "label_names", f"{path} ({'; '.join(coding)})"
        else:
            stem = key_stem(archive, path, prefix)
            keys = (f"{stem}{part}_{what}" for part in ("train", "test") for what in ("images", "labels"))
            arrays = entries(archive, path, *keys)
            arrays = _with_validation(archive, path, stem, arrays)
            name = stem.rstrip("_") or name
            names, origin = f"{stem}label_names", f"{path}#{prefix}" if prefix else str(path)
        classes = archive[names].tolist() if names in archive else None
    return assembled(*arrays, classes=classes, name=name, origin=origin, where=path)


def _with_validation(
    archive: Mapping[str, np.ndarray], path: Path, stem: str, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Images and labels of training and test; what is for validation is trained on, as elsewhere."""
    joined = list(arrays)
    if f"{stem}val_images" in archive:
        for place, array in enumerate(entries(archive, path, f"{stem}val_images", f"{stem}val_labels")):
            if array.shape[1:] != joined[place].shape[1:]:
                what = f"val and train have examples of {list(array.shape[1:])} and {list(joined[place].shape[1:])}"
                raise InputError(what, where=path, todo="bring both to one size")
            joined[place] = np.concatenate([joined[place], array])
    return joined


def _sheet(archive: Mapping[str, np.ndarray], path: Path, prefix: str) -> str:
    """The set of mosaics that is meant, "" where something else is."""
    sheets = sheets_of(archive)
    if not sheets or any(key.endswith(("train_images", "train_blob")) for key in archive):
        return prefix if prefix in sheets else ""
    if prefix and prefix not in sheets:
        raise InputError(f"has no {prefix}_blob", where=path, todo=suggest(prefix, sheets))
    if len(sheets) > 1 and not prefix:
        raise _several(path, sheets)
    return prefix or sheets[0]


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
        check_memory(sum(member.file_size for member in archive.infolist()), memory, path, noun)
        check_members(archive, file)
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                npy_dtype(archive, member)


def key_stem(archive: Mapping[str, np.ndarray], path: Path, prefix: str, key: str = "train_images") -> str:
    """What stands before `train_images`, or another key, in the keys: "" or "usps_"."""
    stems = [one.removesuffix(key) for one in archive if f"_{one}".endswith(f"_{key}")]
    known = [stem.rstrip("_") for stem in stems]
    if prefix:
        if prefix not in known:
            raise InputError(f"has no {prefix}_{key}", where=path, todo=suggest(prefix, known))
        return f"{prefix}_"
    if len(stems) > 1 and "" not in stems:
        raise _several(path, known)
    if not stems:
        entries(archive, path, key)
    return "" if "" in stems else stems[0]


def _several(path: Path, names: Sequence[str]) -> InputError:
    which = listed(f"{path.name}#{name}" for name in sorted(names))
    return InputError(f"holds {len(names)} data sets", where=path, todo=f"say which: {which}")
