"""What a sweep is asked to do, checked before it begins: the plan, the functions, the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtl.errors import InputError, check_takes, kind_of, suggest, whole_number
from jaxtl.loop.arguments import check_by_name, check_data
from jaxtl.sweep.batching import BATCHINGS
from jaxtl.trees import Tree, check_arrays, is_key, named_leaves


def check_plan(rungs: int, keep: float, calls: int, batching: str, memory: int | None) -> None:
    """How often, how many, how."""
    for name, value in (("rungs", rungs), ("calls", calls), ("memory", 1 if memory is None else memory)):
        whole_number(value, f"sweep {name}")
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise InputError(f"{kind_of(keep)} is no number", where="sweep keep", todo="use a fraction in (0, 1]")
    if not 0 < keep <= 1:
        raise InputError(f"{keep} is outside (0, 1]", where="sweep keep")
    if keep < 1 and rungs == 1:
        raise InputError("acts between rungs, and there is one", where=f"sweep keep={keep}", todo="pass rungs=2")
    if batching not in (*BATCHINGS, "auto"):
        todo = suggest(str(batching), (*BATCHINGS, "auto"))
        raise InputError(f"unknown: '{batching}'", where="sweep batching", todo=todo)


def check_work(init: Any, train: Any, score: Any, data: Any, given: Any) -> None:
    """Functions of so many arguments, and trees of arrays."""
    check_takes(init, 1, where="sweep init", todo="pass a function point -> (state, rates)")
    check_takes(train, 3, where="sweep train", todo="pass what make_epoch(step, length) or make_train_step returns")
    check_takes(score, 3, where="sweep score", todo="pass a function (state, data, fixed) -> scalar")
    check_data(data)
    check_by_name(given, "sweep given")
    check_arrays(dict(given), where="sweep given")


def check_grid(grid: Mapping[str, Any]) -> tuple[dict[str, Tree], int]:
    """The columns, numbers as float32, int32 or bool, which is what the program takes; and their common length."""
    check_by_name(grid, "sweep grid")
    columns = {name: _numbers(f"grid['{name}']", column) for name, column in grid.items()}
    if not columns:
        raise InputError("has no columns", where="sweep grid", todo="give {name: [a value per configuration]}")
    lengths = {
        f"{name}/{path}".rstrip("/"): np.shape(leaf)[:1]
        for name, column in columns.items()
        for path, leaf in named_leaves(column).items()
    }
    if len(set(lengths.values())) > 1 or () in lengths.values():
        differ = {name: shape[0] if shape else "none" for name, shape in lengths.items()}
        raise InputError(f"lengths differ: {differ}", where="sweep grid", todo="repeat values: one row per run")
    return columns, next(iter(lengths.values()))[0]


def _numbers(where: str, column: Any) -> Tree:
    """A column of numbers, checked; a tree or a stack of arrays as it is."""
    if isinstance(column, Mapping) or is_key(column) or np.ndim(column) > 1:
        return column
    numbers = np.asarray(column)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "biuf":
        what = f"{numbers.dtype}{list(numbers.shape)} is no list of numbers"
        raise InputError(what, where=where, todo="give one number per configuration")
    with np.errstate(over="ignore"):
        kept: np.ndarray = numbers.astype({"b": np.bool_, "f": np.float32}.get(numbers.dtype.kind, np.int32))
    unfit = ~np.isfinite(kept) if kept.dtype.kind == "f" else kept != numbers
    if np.any(unfit):
        raise InputError(f"{numbers[unfit][0]} is not finite or too large", where=where, todo="32 bits are kept")
    return kept
