"""Pictures with their labels as files, before any is opened; and what becomes of them once they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data.arrays import assembled, from_arrays
from jaxtl.data.dataset import DataSet
from jaxtl.data.one_size import pictures
from jaxtl.data.resized import Resize, resized_pictures


class Listing(NamedTuple):
    """What was found.

    Attributes:
        directory: above all files.
        files: [N].
        labels: as `targets.Targets` has them: [N] places in `classes`, 0 and 1 [N, C], or numbers [N].
        tested: [N] whether an example is of the part for testing; nowhere where there is none.
        groups: [N] words for what must not be divided, None where nothing is said of it.
        classes: the names, in alphabetical order; [] of numbers.
        origin: where it lies, in words.
        remarks: on what was left out.
    """

    directory: Path
    files: list[Path]
    labels: np.ndarray
    tested: np.ndarray
    groups: np.ndarray | None
    classes: list[str]
    origin: str
    remarks: list[str]

    def kept(self, rows: np.ndarray) -> Listing:
        """Some of the examples."""
        groups = None if self.groups is None else self.groups[rows]
        files = [self.files[row] for row in rows]
        return self._replace(files=files, labels=self.labels[rows], tested=self.tested[rows], groups=groups)


def data_set(found: Listing, name: str, memory: float = math.inf, resize: Resize | None = None) -> DataSet:
    """The pictures of a listing as a checked `DataSet`; without a test part a fifth is split off.

    Args:
        found: the files.
        name: of the set.
        memory: bytes; images that take more are `Stored`.
        resize: how pictures of any size come to one; None refuses several sizes.

    Raises:
        InputError: files that cannot be used, a class of which nothing is left.
    """
    images: Any
    if resize is None:
        images, remarks = pictures(found.directory, found.files, memory)
    else:
        read = resized_pictures(found.directory, found.files, resize, memory)
        images, remarks, found = read.images, read.remarks, found.kept(read.rows)
    if not found.tested.any():
        data = from_arrays(
            images, found.labels, groups=found.groups, classes=found.classes, name=name, origin=found.origin
        )
    else:
        data = _in_parts(found, images, name)
    remarks = [*found.remarks, *remarks]
    return data.told(f"{name}: {'; '.join(remarks)}" if remarks else "")


def _in_parts(found: Listing, images: Any, name: str) -> DataSet:
    train, test = np.flatnonzero(~found.tested), np.flatnonzero(found.tested)
    arrays = images[train], found.labels[train], images[test], found.labels[test]
    if found.groups is None:
        return assembled(*arrays, classes=found.classes, name=name, origin=found.origin, where=found.directory)
    groups: dict[str, Any] = {"groups": found.groups[train], "test_groups": found.groups[test]}
    return from_arrays(*arrays, **groups, classes=found.classes, name=name, origin=found.origin)
