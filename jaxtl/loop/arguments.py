"""What `fit` is handed, checked before the first step: nothing here costs anything while a run goes on."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxtl.errors import InputError, check_takes, kind_of, whole_number
from jaxtl.step import Fixed, TrainState
from jaxtl.trees import check_arrays, differences

DATA = "hand over arrays: on_device(dataset.train, key), feed(...), or {'image': ..., 'label': ...}"
STEP = "pass what make_train_step(grad_fn, tx) returns"


def check_lengths(steps: int, chunk: int, every: int) -> None:
    """Whole numbers, and `chunk` divides the others."""
    for name, value in (("chunk", chunk), ("steps", steps), ("every", every)):
        if whole_number(value, f"fit {name}") % chunk:
            raise InputError(f"{value} is not a multiple of chunk={chunk}", where=f"fit {name}")


def check_work(step: Any, state: Any, fixed: Any, evaluate: Any) -> None:
    """The functions and trees of a run, as far as they tell by themselves what they are."""
    check_takes(step, 3, where="fit step", todo=STEP)
    if not isinstance(state, TrainState):
        todo = "make one: init_state(params, tx, rng)"
        raise InputError(f"{kind_of(state)} is no TrainState", where="fit state", todo=todo)
    check_arrays(state, where="fit state")
    if np.ndim(state.step):
        todo = "take one of them, for example by Sweep.state(k)"
        raise InputError(f"holds {np.size(state.step)} runs", where="fit state", todo=todo)
    check_fixed(fixed, "fit fixed")
    if evaluate is not None:
        check_takes(evaluate, 1, where="fit evaluate", todo="pass a function state -> {name: number}")


def check_fixed(fixed: Any, where: str) -> None:
    """Rates are numbers by name, given trees hold arrays."""
    if not isinstance(fixed, Fixed):
        raise InputError(f"{kind_of(fixed)} is no Fixed", where=where, todo="pass Fixed(rates={...}, given={...})")
    check_by_name(fixed.rates, f"{where}.rates")
    check_by_name(fixed.given, f"{where}.given")
    for name, rate in fixed.rates.items():
        if np.ndim(rate) or rate is None or np.asarray(rate).dtype.kind not in "biuf":
            raise InputError(f"{kind_of(rate)} is no number", where=f"rates['{name}']", todo="use one number >= 0")
        if math.isinf(rate):
            raise InputError(f"{rate} is not finite", where=f"rates['{name}']", todo="use one number >= 0")
    check_arrays(dict(fixed.given), where=f"{where}.given")


def check_by_name(value: Any, where: str) -> None:
    """A dict whose keys are names."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{kind_of(value)} is no dict by name", where=where, todo="use {'name': ...}")


def check_surroundings(mesh: Any, workdir: Any, log: Any, progress: Any, best: Any) -> None:
    """What stands around the steps."""
    if not (mesh is None or isinstance(mesh, Mesh)):
        raise InputError(f"{kind_of(mesh)} is no mesh", where="fit mesh", todo='make one: make_mesh(["data:2"])')
    check_workdir(workdir, "fit workdir")
    if not (log is None or all(callable(getattr(log, name, None)) for name in ("write", "rewind"))):
        raise InputError(
            f"{kind_of(log)} has no write and rewind", where="fit log", todo="pass writers.Writer(workdir)"
        )
    for name, value in (("progress", progress), ("best", "" if best is None else best)):
        if not isinstance(value, str):
            raise InputError(f"{kind_of(value)} is no name", where=f"fit {name}", todo="pass a text")


def check_workdir(workdir: Any, where: str) -> None:
    """A path, or nothing."""
    if not (workdir is None or isinstance(workdir, str | os.PathLike)):
        raise InputError(f"{kind_of(workdir)} is no path", where=where, todo="name a directory")


def check_data(data: Any) -> None:
    """Arrays, in any tree."""
    if data is None:
        raise InputError("None is no data", where="fit data", todo=f"{DATA}; {{}} where no step reads any")
    check_arrays(data, where="fit data", todo=DATA)


def check_returned(state: TrainState, returned: Any) -> list[str]:
    """The names of the metrics of a step that returns (state, metrics), the state being like the one it was given."""
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
        raise InputError(f"returns {kind_of(returned)}, not (state, metrics)", where="fit step", todo=STEP)
    if lines := differences(returned[0], state, dtypes=False):
        todo = "start with all that a step carries along: init_state(params, tx, rng, model_state)"
        raise InputError(f"returns another state than it is given: {lines[0]}", where="fit step", todo=todo)
    if "loss" not in returned[1]:
        what = f"returns no metric 'loss', only {sorted(returned[1])}"
        raise InputError(what, where="fit step", todo="total_gradient adds it")
    return list(returned[1])


def figures(evaluate: Callable[[TrainState], Mapping[str, float]], state: TrainState, taken: Any) -> dict[str, float]:
    """What `evaluate` says of a state, as numbers that can be kept; `taken` are names of training metrics."""
    found, todo = evaluate(state), "return {name: number}"
    check_by_name(found, "what evaluate returns")
    for name, value in found.items():
        if np.ndim(value) or value is None or np.asarray(value).dtype.kind not in "biuf":
            raise InputError(f"{kind_of(value)} is no number", where=f"evaluate's '{name}'", todo=todo)
        if name in taken or name == "step":
            raise InputError("is a training metric already", where=f"evaluate's '{name}'", todo="choose another name")
    return {
        name: value if isinstance(value, int | float) else np.asarray(value).item() for name, value in found.items()
    }
