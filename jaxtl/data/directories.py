"""Where data sets lie: the directories that are searched, the one that is written to, and what a run began with."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import files
from jaxtl.data.on_disk import Stored
from jaxtl.data.tfds_read import newest_version
from jaxtl.errors import InputError

CONTENT = b"\ncontent "  # in data.txt, before the digest
LOOKED_AT = 64  # of images on disk: to read all of them may take minutes


def tfds_roots(directory: Path) -> list[Path]:
    """Where prepared sets are looked for: `directory`, then where tensorflow-datasets itself looks."""
    return list(dict.fromkeys([directory, *_named("TFDS_DATA_DIR"), files.at_home("tensorflow_datasets")]))


def destination(version: str, data_dir: Path | None) -> Path:
    """Where a set is prepared: `data_dir`, else $TFDS_DATA_DIR, $JAXTL_DATA or ~/tensorflow_datasets.

    These are the places where tensorflow-datasets itself looks, unless the user has named another one. A place that
    holds this version in another form (tfrecord) is passed over, and the last resort is the default directory.

    Args:
        version: "cifar10/3.0.2".
        data_dir: named by the user for this one call.
    """
    if data_dir is not None:
        return data_dir
    named = [*_named("TFDS_DATA_DIR", "JAXTL_DATA"), files.at_home("tensorflow_datasets")]
    roots = [*named, files.default_directory()]
    usable = (root for root in roots if not (root / version).exists() or newest_version(root / version))
    return next(usable, roots[-1])


def _digest(content: Iterable[Any]) -> str:
    crc32 = 0
    for part in content:
        few = isinstance(part, Stored) and len(part)
        seen = part[np.linspace(0, len(part) - 1, LOOKED_AT).astype(int)] if few else part
        array = np.asarray(seen, order="C")
        crc32 = zlib.crc32(f"{part.shape} {array.dtype}".encode(), crc32)
        crc32 = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc32)
    return f"{crc32:08x}"


def _named(*variables: str) -> list[Path]:
    return [files.expanded(root) for variable in variables if (root := os.environ.get(variable))]


def keep_to_data(workdir: Path | str, origin: str, *content: Any) -> None:
    """Refuse to go on with other data: what "auto" or a path stands for may change from one day to the next.

    Args:
        workdir: of the run; created if need be. It remembers the data in data.txt.
        origin: of the data, in words, see `DataSet.origin`.
        content: arrays of the data, of which a digest is remembered; of images that are `Stored`, some are looked at.

    Raises:
        InputError: the run began with data of another origin or content, or data.txt cannot be read or written.
    """
    file, asked = Path(workdir) / "data.txt", origin.encode("utf-8", "backslashreplace")
    began, digest = files.read(file), _digest(content).encode()
    if began is not None:
        began, _, known = began.partition(CONTENT)
        if began == asked and known and content and known.strip() != digest:
            todo = "put back what it began with, or choose another --workdir"
            raise InputError(f"the content of {origin} has changed since the run began", where=file, todo=todo)
    if began is None:
        files.write(file, asked + (CONTENT + digest + b"\n" if content else b""))
    elif not began:  # earlier versions left this where they were killed or found no space
        todo = f"delete it if the run began with {origin}, or choose another --workdir"
        raise InputError("is empty: what the run began with is not known", where=file, todo=todo)
    elif began != asked:
        todo = "name its data with --config.data=..., or choose another --workdir"
        raise InputError(
            f"the run began with {began.decode(errors='replace')}; now it would be {origin}", where=file, todo=todo
        )
