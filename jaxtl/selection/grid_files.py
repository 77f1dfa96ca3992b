"""Grids as they are published: CSV files of runs, or an npz of the same in columns.

The files are those of tufts-ml/data-emphasized-ELBo on GitHub: tuned_TASK.csv by validation and retrained_TASK.csv by
test examples, a row for each run, whose model_name is its setting.

Source: Harvey, Petrov and Hughes, "Learning Hyperparameters via a Data-Emphasized Variational Objective", 2026.
"""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

from jaxtl.data.files import decoded
from jaxtl.data.npz import entries, opened_npz
from jaxtl.data.on_disk import memory_budget
from jaxtl.errors import InputError
from jaxtl.files import content
from jaxtl.selection.grids import FIGURES, SETTING, Grid

HOLDS = "give a directory of tuned_*.csv and retrained_*.csv, or an npz of such runs"
TRUNKS = {"ResNet_50": "ResNet-50", "ViT_B_16": "ViT-B/16", "ConvNeXt_Tiny": "ConvNeXt-T", "BERT-base": "BERT-base"}
NAMED = re.compile(r"l2-sp_alpha=(\S+)_beta=(\S+)_lr_0=(\S+)_n=(\d+)_random_state=(\d+)")
VALIDATION = {"val_acc": "validation_accuracy", "val_nll": "validation_loss", "runtime": "tuning_seconds"}
TEST = {"test_acc": "test_accuracy", "runtime": "training_seconds"}
Runs = dict[tuple[float, ...], dict[str, float]]


def read_grid(path: Path) -> Grid:
    """The runs of a directory of CSV files, or of an npz: `tasks` by name, and for each run `task`, `n`, `seed`, ….

    Args:
        path: of either. The npz has alpha, beta, learning_rate, validation_accuracy, validation_nll, test_accuracy,
            tuning_seconds and training_seconds, [runs] each.

    Raises:
        InputError: nothing there, or something else; runs that make no whole grid.
    """
    if not os.path.exists(path):
        todo = "it may be the notebooks of tufts-ml/data-emphasized-ELBo on GitHub, which hold tuned_*.csv, or an npz"
        raise InputError("there is no such file or directory", where=path, todo=todo)
    return _tables(path) if path.is_dir() else _archive(path)


def _named(task: str) -> tuple[str, str]:
    """Data set and trunk in words, of a task as the files name it; "" for a trunk that is not known."""
    trunk = next((trunk for trunk in TRUNKS if task.endswith(f"_{trunk}")), "")
    return task.removesuffix(f"_{trunk}").replace("_", " "), TRUNKS.get(trunk, "")


def _archive(path: Path) -> Grid:
    keys = [name for name in ("n", "seed", *SETTING, *FIGURES) if name != "validation_loss"]
    with opened_npz(path, memory_budget(), "runs") as archive:
        names, task, *columns = entries(archive, path, "tasks", "task", "validation_nll", *keys)
    if any(column.shape != task.shape or column.ndim != 1 or column.dtype.kind not in "iuf" for column in columns):
        raise InputError("columns of different lengths, or no numbers", where=path, todo=HOLDS)
    if task.dtype.kind not in "iu" or names.ndim != 1 or (len(task) and not 0 <= task.min() <= task.max() < len(names)):
        raise InputError("task: numbers without a name in tasks", where=path, todo=HOLDS)
    rows: dict[str, Any] = dict(zip(["validation_loss", *keys], columns, strict=True))
    known = [_named(str(name)) for name in names]
    if unknown := [str(name) for name, (_, trunk) in zip(names, known, strict=True) if not trunk]:
        raise InputError(f"no trunk in '{unknown[0]:.60}'", where=path, todo=f"known: {', '.join(TRUNKS)}")
    return Grid.of(rows | {"data": [known[k][0] for k in task], "trunk": [known[k][1] for k in task]}, path)


def _tables(directory: Path) -> Grid:
    """Of CSV files. Those of no known trunk are copies under a shorter name, or of another method."""
    rows: list[dict[str, Any]] = []
    for file in sorted(directory.glob("tuned_*.csv")):
        data, trunk = _named(file.stem.removeprefix("tuned_"))
        if not trunk:
            continue
        tuned, again = (
            _table(file, VALIDATION),
            _table(file.with_name(file.name.replace("tuned", "retrained", 1)), TEST),
        )
        if tuned.keys() != again.keys():
            raise InputError("holds other runs than its retrained_*.csv", where=file, todo=HOLDS)
        for (*setting, n, seed), measured in tuned.items():
            row = dict(zip(SETTING, setting, strict=True)) | {"data": data, "trunk": trunk, "n": int(n), "seed": seed}
            rows.append(row | measured | again[*setting, n, seed])
    if not rows:
        raise InputError("holds no tuned_*.csv of a known trunk", where=directory, todo=HOLDS)
    return Grid.of({name: [row[name] for row in rows] for name in rows[0]}, directory)


def _table(file: Path, columns: dict[str, str]) -> Runs:
    """(α, β, learning rate, n, seed) -> what was measured of that run."""
    found: Runs = {}
    for line, row in enumerate(csv.DictReader(io.StringIO(decoded(content(file), file))), start=2):
        name = NAMED.fullmatch(row.get("model_name") or "")
        try:
            run = tuple(float(part) for part in name.groups()) if name else ()
            measured = {new: float(row[old]) for old, new in columns.items()}
        except (KeyError, TypeError, ValueError):
            raise InputError(f"line {line}: cannot be read", where=file, todo=HOLDS) from None
        if not run or run in found:
            what = f"line {line}: {'a run that is there already' if run else 'no name of a run'}"
            raise InputError(what, where=file, todo=HOLDS)
        found[run] = measured
    return found
