"""Data sets by name or by path: from what is on this machine, and for some names fetched once."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

from jaxtl.clients import Progress, Silent
from jaxtl.data.arrays import from_arrays
from jaxtl.data.boxed_files import holds_boxes, read_annotated
from jaxtl.data.catalogue import OFFICIAL
from jaxtl.data.dataset import DataSet
from jaxtl.data.directories import tfds_roots
from jaxtl.data.folders import holds_folders, read_folders
from jaxtl.data.npz import read_npz
from jaxtl.data.on_disk import memory_budget
from jaxtl.data.readers import holds_cifar, holds_idx, read_cifar, read_idx, refuse_pickle
from jaxtl.data.resized import Resize
from jaxtl.data.tables import holds_table, read_table
from jaxtl.data.tfds_read import newest_version, read_prepared, refuse_tfrecord
from jaxtl.data.tfds_write import prepare
from jaxtl.errors import InputError, suggest
from jaxtl.files import default_directory, expanded, open_regular

FILES = {  # what a name may lie in, below the data directory, in the order of looking
    "cifar10": ("cifar10.npz", "cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    "cifar100": ("cifar100.npz", "cifar-100-binary.tar.gz", "cifar-100-binary"),
    "mnist": ("mnist.npz", "mnist"),
    "fashion_mnist": ("fashion_mnist.npz", "fashion_mnist"),
}
FASHION = OFFICIAL["fashion_mnist"].classes
FORMATS = (
    "give an .npz, a cifar-*-binary.tar.gz, or a directory of CIFAR .bin files, idx files, array_record files, one "
    "folder of images for each class, or images with a CSV of file and label"
)

LONGEST = 4096  # letters of a path: what systems take

Reader = Callable[[], DataSet]


def load(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    fetch: bool = True,
    progress: Progress = Silent,
    memory: int | None = None,
    resize: Resize | None = None,
) -> DataSet:
    """A data set by name or by path.

    A name is looked for in the directories of tensorflow-datasets (below `data_dir`, $TFDS_DATA_DIR and
    ~/tensorflow_datasets), then among the files of `data_dir`. If "cifar10", "cifar100", "mnist" or "fashion_mnist" is
    in none of them, it is fetched and kept (see `tfds_write`). A name never stands for something else, except "auto".

    Args:
        name_or_path: "digits" (1,797 images of 8x8, within scikit-learn), "cifar10", "cifar100", "mnist",
            "fashion_mnist", any image set that tensorflow-datasets has prepared ("svhn_cropped"), or "auto": cifar10 if
            it can be had, else the digits with a notice. Anything else is a path: an .npz ("file.npz#usps" for the
            keys usps_train_images, ...), a CIFAR binary archive or its directory, a directory of idx files, a prepared
            directory of tensorflow-datasets, a directory with one folder of images for each class, or
            one with a CSV of file and label (and group and split, if there are any), or one with boxes by COCO's JSON
            or YOLO's texts.
        data_dir: by default $JAXTL_DATA, else jaxtl in $XDG_CACHE_HOME or ~/.cache.
        fetch: whether the network may be asked; $JAXTL_OFFLINE forbids it for all calls.
        progress: (total, description) -> a display of what is fetched, such as `jaxtl.writers.Progress`.
        memory: bytes that its images may take, by default `stored.memory_budget()`. Where they take more, images of
            prepared directories and image folders are `Stored` (see `feed` for training on them).
        resize: of a folder or a table, how pictures of any size come to one; without it they have to be of one size.

    Returns:
        The data set; `origin` says where it was found.

    Raises:
        InputError: nothing found (and where it was looked for), files that are damaged or of another format, or an .npz
            that does not fit into the memory.

    Example:
        >>> data = load("digits")
        >>> data.train.images.shape, data.train.images.dtype, len(data.test)
        ((1438, 8, 8, 1), dtype('uint8'), 359)
    """
    wanted, directory = asked_for(name_or_path, data_dir)
    if wanted == "digits":
        return _digits()
    name = "cifar10" if wanted == "auto" else wanted
    memory = memory_budget() if memory is None else memory
    if name not in FILES:
        return _elsewhere(name, directory, memory, resize)
    path, reason = where(name, directory), "and was not fetched"
    if path is None and fetch:
        try:
            path = prepare(name, data_dir, progress=progress)
        except InputError as error:
            reason = f"and {error.what}"
    if path and (reader := _reader_of(path, name, memory)):
        return _with_names(reader(), name)
    if wanted == "auto":
        options = f"give a path, or put {FILES[name][1]} into {directory}"
        return dataclasses.replace(_digits(), notice=f"CIFAR-10 was not found {reason}, so this is digits; {options}")
    roots = ", ".join(map(str, tfds_roots(directory)))
    places = f"no {name}/<version> prepared as array_record in {roots}; no {', '.join(FILES[name])} in {directory}"
    todo = f"give a path, name the directory in JAXTL_DATA, or: python -m jaxtl.data prepare {name} --from PATH"
    raise InputError(f"not found ({places}) {reason}", where=name, todo=todo)


def asked_for(name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None) -> tuple[str, Path]:
    """(a name or a path, the directory of data sets).

    Raises:
        InputError: more letters than a path has, or no directory.
    """
    wanted = os.fspath(name_or_path)
    if len(wanted) > LONGEST:
        what = f"a name of {len(wanted)} letters"
        raise InputError(what, where=f"{wanted[:60]}...", todo=f"paths have {LONGEST} at most")
    if data_dir is not None and not os.path.isdir(data_dir):
        raise InputError("is no directory", where=data_dir, todo="give a directory of data sets as data_dir")
    return wanted, Path(data_dir) if data_dir is not None else default_directory()


def _digits() -> DataSet:
    """The embedded digits: ink 0..16 becomes grey round(255 / 16 * ink), one example in five is for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = ((images * 255 + 8) // 16).astype("uint8").reshape(-1, 8, 8)
    origin = "scikit-learn's digits (UCI optical recognition, 8x8), test part split off here"
    return from_arrays(grey, labels, name="digits", origin=origin, test_fraction=0.2, seed=0)


def _with_names(dataset: DataSet, name: str) -> DataSet:
    """idx files do not name their classes."""
    unnamed = name == "fashion_mnist" and dataset.classes == tuple("0123456789")
    return dataclasses.replace(dataset, classes=FASHION) if unnamed else dataset


def where(name: str, directory: Path) -> Path | None:
    """The first place that holds a set; a damaged file counts, so that it is reported."""
    for root in tfds_roots(directory):
        if version := newest_version(root / name):
            return version
    files = (directory / file for file in FILES.get(name, ()))
    return next((file for file in files if _reader_of(file, name, 0)), None)


def _elsewhere(text: str, directory: Path, memory: int, resize: Resize | None) -> DataSet:
    """By path, or by the name of any other prepared set."""
    path, prefix = expanded(text), ""
    if not os.path.exists(path) and "#" in text:
        before, _, prefix = text.rpartition("#")
        path = expanded(before)
    if not os.path.exists(path):
        if re.fullmatch(r"\w+(/[\w.-]+)*", text) and (version := where(text, directory)):
            return read_prepared(version, memory)
        todo = f"check the path, or use a name ({suggest(text, ['auto', 'digits', *FILES])})"
        raise InputError("no such file or directory, and no data set of this name", where=text, todo=todo)
    if not path.is_dir():
        open_regular(path).close()
    refuse_pickle(path)
    refuse_tfrecord(path)
    if prefix and path.suffix != ".npz":
        raise InputError(f"#{prefix} chooses keys of an .npz, and this is none", where=path, todo="leave it out")
    reader = _reader_of(path, path.name.partition(".")[0], memory, prefix, resize)
    if reader is None:
        raise InputError("is no data set of a known format", where=path, todo=FORMATS)
    return reader()


def _reader_of(path: Path, name: str, memory: int, prefix: str = "", resize: Resize | None = None) -> Reader | None:
    """The reader of a path, chosen by what lies there; official archives are small enough for any memory."""
    if path.is_file() and path.suffix == ".npz":
        return functools.partial(read_npz, path, name, prefix, memory)
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return functools.partial(read_cifar, path, name)
    if version := newest_version(path):
        return functools.partial(read_prepared, version, memory)
    if holds_cifar(path):
        return functools.partial(read_cifar, path, name)
    if holds_idx(path):
        return functools.partial(read_idx, path, name, memory)
    if path.is_dir() and holds_boxes(path):
        return functools.partial(read_annotated, path, name, memory)
    if path.is_dir() and holds_table(path):
        return functools.partial(read_table, path, name, memory, resize)
    folders = path.is_dir() and holds_folders(path)
    return functools.partial(read_folders, path, name, memory, resize) if folders else None
