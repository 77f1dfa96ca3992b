"""Data sets by name or by path, from what is already on this machine."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

from jaxtl.data.dataset import DataSet, from_arrays
from jaxtl.data.prepared import newest_version, read_prepared, refuse_tfrecord
from jaxtl.data.readers import holds_cifar, holds_idx, read_cifar, read_idx, read_npz, refuse_pickle
from jaxtl.errors import InputError, suggest

FILES = {  # what a name may lie in, below the data directory, in the order of looking
    "cifar10": ("cifar10.npz", "cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    "cifar100": ("cifar100.npz", "cifar-100-binary.tar.gz", "cifar-100-binary"),
    "mnist": ("mnist.npz", "mnist"),
    "fashion_mnist": ("fashion_mnist.npz", "fashion_mnist"),
}
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FORMATS = "give an .npz, a cifar-*-binary.tar.gz, or a directory of CIFAR .bin files, idx files or array_record files"

Reader = Callable[[], DataSet]


def load(name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> DataSet:
    """A data set by name or by path.

    A name is looked for in the directories of tensorflow-datasets (below `data_dir`, $TFDS_DATA_DIR and
    ~/tensorflow_datasets), then among the files of `data_dir`. A name never stands for something else, except "auto".

    Args:
        name_or_path: "digits" (1,797 images of 8x8, within scikit-learn), "cifar10", "cifar100", "mnist",
            "fashion_mnist", or "auto": cifar10 if it is found, else the digits with a notice. Anything else is a path:
            an .npz ("file.npz#usps" for the keys usps_train_images, ...), a CIFAR binary archive or its directory, a
            directory of idx files, a prepared directory of tensorflow-datasets.
        data_dir: by default $JAXTL_DATA, else jaxtl in $XDG_CACHE_HOME or ~/.cache.

    Returns:
        The data set; `origin` says where it was found.

    Raises:
        InputError: nothing found (and where it was looked for), or files that are damaged or of another format.

    Example:
        >>> data = load("digits")
        >>> data.train.images.shape, data.train.images.dtype, len(data.test)
        ((1438, 8, 8, 1), dtype('uint8'), 359)
    """
    wanted = os.fspath(name_or_path)
    if data_dir is not None and not Path(data_dir).is_dir():
        raise InputError("is no directory", where=data_dir, todo="give a directory of data sets as data_dir")
    if wanted == "digits":
        return _digits()
    directory = Path(data_dir) if data_dir is not None else default_directory()
    if wanted == "auto":
        reader = _find("cifar10", directory)
        if reader is not None:
            return reader()
        notice = (
            f"CIFAR-10 was not found, so this is digits; give a path, or put {FILES['cifar10'][1]} into {directory}"
        )
        return dataclasses.replace(_digits(), notice=notice)
    if wanted in FILES:
        return _named(wanted, directory)
    return _from_path(wanted)


def default_directory() -> Path:
    """Where data sets lie if nobody says otherwise: $JAXTL_DATA, else jaxtl in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("JAXTL_DATA"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxtl"


def _digits() -> DataSet:
    """The embedded digits: ink 0..16 becomes grey round(255 / 16 * ink), one example in five is for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = ((images * 255 + 8) // 16).astype("uint8").reshape(-1, 8, 8)
    origin = "scikit-learn's digits (UCI optical recognition, 8x8), test part split off here"
    return from_arrays(grey, labels, name="digits", origin=origin, test_fraction=0.2, seed=0)


def _named(name: str, directory: Path) -> DataSet:
    reader = _find(name, directory)
    if reader is None:
        roots = ", ".join(map(str, _tfds_roots(directory)))
        what = f"not found: no {name}/<version> prepared as array_record in {roots}; no {', '.join(FILES[name])}"
        todo = "give a path, or name the directory that holds one of these in JAXTL_DATA"
        raise InputError(f"{what} in {directory}", where=name, todo=todo)
    dataset = reader()
    if name == "fashion_mnist" and dataset.classes == tuple("0123456789"):
        dataset = dataclasses.replace(dataset, classes=FASHION)
    return dataset


def _tfds_roots(directory: Path) -> list[Path]:
    given = [Path(root).expanduser() for root in (os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets") if root]
    return list(dict.fromkeys([directory, *given]))


def _find(name: str, directory: Path) -> Reader | None:
    """The reader of the first place that holds the name; a damaged file counts as found, so that it is reported."""
    for root in _tfds_roots(directory):
        if version := newest_version(root / name):
            return functools.partial(read_prepared, version)
    readers = (_reader_of(directory / file, name) for file in FILES[name])
    return next((reader for reader in readers if reader is not None), None)


def _from_path(text: str) -> DataSet:
    path, prefix = Path(text).expanduser(), ""
    if not path.exists() and "#" in text:
        before, _, prefix = text.rpartition("#")
        path = Path(before).expanduser()
    if not path.exists():
        todo = f"check the path, or use a name ({suggest(text, ['auto', 'digits', *FILES])})"
        raise InputError("no such file or directory, and no data set of this name", where=text, todo=todo)
    refuse_pickle(path)
    refuse_tfrecord(path)
    if prefix and path.suffix != ".npz":
        raise InputError(f"#{prefix} chooses keys of an .npz, and this is none", where=path, todo="leave it out")
    reader = _reader_of(path, path.name.partition(".")[0], prefix)
    if reader is None:
        raise InputError("is no data set of a known format", where=path, todo=FORMATS)
    return reader()


def _reader_of(path: Path, name: str, prefix: str = "") -> Reader | None:
    """The reader of a path, chosen by what lies there."""
    if path.is_file() and path.suffix == ".npz":
        return functools.partial(read_npz, path, name, prefix)
    if path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar")):
        return functools.partial(read_cifar, path, name)
    if version := newest_version(path):
        return functools.partial(read_prepared, version)
    if holds_cifar(path):
        return functools.partial(read_cifar, path, name)
    return functools.partial(read_idx, path, name) if holds_idx(path) else None
