"""Where data sets lie: the directories that are searched, the one that is written to, and what a run began with."""

from __future__ import annotations

import os
from pathlib import Path

from jaxtl.data.prepared import newest_version
from jaxtl.errors import InputError


def default_directory() -> Path:
    """Where data sets lie if nobody says otherwise: $JAXTL_DATA, else jaxtl in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("JAXTL_DATA"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxtl"


def tfds_roots(directory: Path) -> list[Path]:
    """Where prepared sets are looked for: `directory`, then where tensorflow-datasets itself looks."""
    given = [Path(root).expanduser() for root in (os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets") if root]
    return list(dict.fromkeys([directory, *given]))


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
    named = [os.environ.get("TFDS_DATA_DIR"), os.environ.get("JAXTL_DATA"), "~/tensorflow_datasets"]
    roots = [*(Path(root).expanduser() for root in named if root), default_directory()]
    usable = (root for root in roots if not (root / version).exists() or newest_version(root / version))
    return next(usable, roots[-1])


def keep_to_data(workdir: Path, origin: str) -> None:
    """Refuse to go on with other data: what "auto" stands for may change from one day to the next.

    Args:
        workdir: of the run; created if need be. It remembers the data in data.txt.
        origin: of the data, in words, see `DataSet.origin`.

    Raises:
        InputError: the run began with data of another origin.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir / "data.txt"
    began = file.read_text(encoding="utf-8") if file.exists() else origin
    if began != origin:
        todo = "name its data with --config.data=..., or choose another --workdir"
        raise InputError(f"began with {began}; now it would be {origin}", where=workdir, todo=todo)
    file.write_text(began, encoding="utf-8")
