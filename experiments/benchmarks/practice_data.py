"""The small sets of `experiments.benchmarks.practice`, and what its processes are given of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data import DataSet, by_class, decode, from_arrays, load, per_class
from jaxtl.data.resized import resized
from jaxtl.protocol import MEASURES, Measure

TRAIN, TEST = 0, 2  # numbers of parts in medical.npz


class Task(NamedTuple):
    """What is learned from and tested on; the same for every rival.

    Attributes:
        train, labels: uint8 [n, height, width, channels] and integers [n].
        test, truth: the same of the test part.
        classes: names.
    """

    train: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]


class Small(NamedTuple):
    """A small set.

    Attributes:
        title: in a few words.
        file: where it lies, in the directory of data; "" is everywhere.
        read: its path -> all of it.
        n: labelled pictures of a class, or all there are.
        measure: what is asked of the answers, a name in `protocol.MEASURES`.
        mirrored: whether a picture seen in a mirror still shows the same; what somebody who knows the pictures says.
    """

    title: str
    file: str
    read: Callable[[Path], DataSet]
    n: int
    measure: str = "accuracy"
    mirrored: bool = True

    @property
    def asked(self) -> Measure:
        """The measure."""
        return MEASURES[self.measure]


def x_rays(path: Path) -> DataSet:
    """PneumoniaMNIST (Kermany et al., 2018; Yang et al., 2023), its training part without copies of other pictures."""
    with np.load(path, allow_pickle=False) as archive:
        images, labels = mosaics(archive, "pneumonia", 28), archive["pneumonia_labels"]
        part, names = archive["pneumonia_split"], [str(name) for name in archive["pneumonia_label_names"]]
    elsewhere = {image.tobytes() for image in images[part != TRAIN]}
    rows = np.flatnonzero(part == TRAIN)
    first = {images[row].tobytes(): row for row in rows[::-1]}
    rows = np.array([row for row in rows if first[key := images[row].tobytes()] == row and key not in elsewhere])
    return parted(images, labels, rows, np.flatnonzero(part == TEST), names, f"{path}#pneumonia")


def blood_cells(path: Path) -> DataSet:
    """White blood cells of the larger of two laboratories (Zheng et al., 2018), without the one basophil."""
    with np.load(path, allow_pickle=False) as archive:
        images, labels = mosaics(archive, "wbc", 96), archive["wbc_labels"]
        part, names = archive["wbc_split"], [str(name) for name in archive["wbc_label_names"]]
        known = (archive["wbc_lab"] == 0) & (labels != names.index("basophil"))
    names.remove("basophil")  # the last
    train, test = (np.flatnonzero(known & (part == which)) for which in (TRAIN, TEST))
    return parted(images, labels, train, test, names, f"{path}#wbc")


def parted(images: Any, labels: Any, train: np.ndarray, test: np.ndarray, names: list[str], origin: str) -> DataSet:
    return from_arrays(
        images[train], labels[train], images[test], labels[test], classes=names, name=origin[-9:], origin=origin
    )


def mosaics(archive: Mapping[str, np.ndarray], name: str, edge: int) -> np.ndarray:
    """uint8 [N, edge, edge, 3]: the tiles of all encoded mosaics, row by row."""
    blob, found = archive[f"{name}_blob"], []
    for start, end in itertools.pairwise(archive[f"{name}_offsets"].tolist()):
        with decode.opened(blob[start:end].tobytes(), name) as image:
            mosaic = decode.pixels(image, False, {}, name)
        rows, columns = mosaic.shape[0] // edge, mosaic.shape[1] // edge
        found.append(mosaic.reshape(rows, edge, columns, edge, 3).swapaxes(1, 2).reshape(-1, edge, edge, 3))
    return np.concatenate(found)[: len(archive[f"{name}_labels"])]


def later_classes(path: Path) -> DataSet:
    """CIFAR-10's classes 5 to 9: dog, frog, horse, ship, truck."""
    data = load(path)
    return by_class(data, data.classes[5:])


SETS: dict[str, Small] = {
    "x_rays": Small("chest X-rays, n = 100", "medical.npz", x_rays, 100, "balanced_accuracy"),
    "cifar10_10": Small("CIFAR-10, last five, n = 10", "cifar10.npz", later_classes, 10),
    "blood_cells": Small("blood cells, n = 20", "medical.npz", blood_cells, 20, "balanced_accuracy"),
    "cifar10_50": Small("CIFAR-10, last five, n = 50", "cifar10.npz", later_classes, 50),
    "usps_10": Small("USPS, n = 10", "digits.npz", lambda path: load(f"{path}#usps"), 10, mirrored=False),
    "cifar100_10": Small("CIFAR-100, n = 10", "cifar100_subset.npz", load, 10),
    "digits": Small("embedded digits, n = 5", "", lambda path: load("digits"), 5, mirrored=False),
}
MAIN = tuple(name for name, small in SETS.items() if small.file)


def is_there(small: Small, directory: str) -> bool:
    return not small.file or Path(directory, small.file).is_file()


def task_of(small: Small, directory: str, tested: int, seed: int) -> Task:
    """What is learned from and tested on.

    Args:
        small: which set.
        directory: where its file lies.
        tested: test pictures at most; of more, a random part that is the same for every seed.
        seed: draws the labelled pictures.
    """
    data = small.read(Path(directory, small.file))
    drawn = some(data.train.labels, small.n, seed)
    asked = np.sort(np.random.default_rng(0).permutation(len(data.test))[:tested])
    train, test = data.train.take(drawn), data.test.take(asked)
    return Task(train.images, train.labels, test.images, test.labels, data.classes)


def some(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n of each class, or all that it has."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rows[per_class(labels[rows], min(n, len(rows)), seed)] for rows in classes])


def hand_over(
    task: Task,
    small: Small,
    edge: int,
    trunk: str,
    weights: Mapping[str, np.ndarray],
    inputs: tuple[float, float],
    file: Path,
) -> None:
    """All that a rival is given; what the test pictures show is not.

    Args:
        task, small: of the set.
        edge: of all pictures, in pixels.
        trunk: the name by which jaxtl knows the network.
        weights: the same by PyTorch's names; {} gives PyTorch's rivals random ones.
        inputs: mean and standard deviation that the network's pixels are normalised by.
        file: is written.
    """

    def square(images: np.ndarray) -> np.ndarray:
        return np.stack([resized(image, edge) for image in images])

    known: dict[str, Any] = {"train": square(task.train), "labels": task.labels, "test": square(task.test)}
    known |= {"classes": np.array(task.classes), "trunk": trunk}
    known |= {f"weights/{name}": array for name, array in weights.items()}
    known |= {"measure": small.measure, "mirrored": small.mirrored, "mean": inputs[0], "std": inputs[1]}
    np.savez(file, **known)
