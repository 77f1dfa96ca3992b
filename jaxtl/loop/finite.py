"""Training metrics read one chunk late, and what is not finite found in time: before it is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.labels import some
from jaxtl.step import Fixed, TrainState
from jaxtl.trees import Tree, named_leaves


class NotFiniteAt(Exception):
    """A loss or a parameter is not finite after `step`; `before` is the last loss that was, NaN without one."""

    def __init__(self, step: int, what: str, before: float):
        self.step, self.what, self.before = step, what, before


def advice(before: float) -> str:
    """What to look for when a loss is no longer finite, by the last one that was; NaN without one."""
    if math.isnan(before):
        return "no step has trained anything yet: look for labels outside 0…C−1 and NaN in the data or the parameters"
    if before < 0:
        return "a loss below 0 may fall without end: look for a term of the wrong sign, or one that is no loss"
    return "lower the learning rate, pass clip_norm, or look for labels outside 0…C−1 and NaN in the data"


class Meter:
    """Means of the training metrics since the last row; reads one chunk behind, so that the device never waits."""

    def __init__(self, sums: Mapping[str, float], count: int, last_loss: float = math.nan):
        self.sums, self.count, self.last_loss = dict(sums), count, last_loss
        self.pending: tuple[int, Mapping[str, Any]] | None = None

    @property
    def shown(self) -> dict[str, float]:
        """The last loss that was read, for a display; nothing before there is one."""
        return {} if math.isnan(self.last_loss) else {"loss": self.last_loss}

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._read()
        self.pending = (step, metrics)

    def flush(self, state: TrainState) -> None:
        """Read what is left, and refuse a state that must not be saved: its gradient failed after a finite loss."""
        self._read()
        names = not_finite(state.params)
        if names:
            what = f"the loss is {self.last_loss:.6g}, and {some(names, 3)} not finite"
            raise NotFiniteAt(int(state.step) - 1, what, self.last_loss)

    def take(self, state: TrainState) -> dict[str, float]:
        self.flush(state)
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def _read(self) -> None:
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        losses = values["loss"]
        if not np.all(np.isfinite(losses)):
            first = int(np.argmin(np.isfinite(losses)))
            before = losses[first - 1] if first else self.last_loss
            known = "" if math.isnan(before) else f"; the step before it was {before:.6g}"
            raise NotFiniteAt(step + first, f"the loss is {losses[first]}{known}", before)
        self.last_loss = float(losses[-1])
        self.count += len(losses)
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(np.sum(value, dtype=np.float64))


def not_finite(params: Tree) -> list[str]:
    """The paths of the parameters that hold a NaN or an infinity."""
    leaves = {path: leaf for path, leaf in named_leaves(params).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    return [path for path, finite in jax.device_get(_finite(leaves)).items() if not finite]


@jax.jit
def _finite(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: jnp.all(jnp.isfinite(leaf)) for path, leaf in leaves.items()}


def first_not_finite(spoilt: NotFiniteAt, run: Callable, state: TrainState, data: Any, fixed: Fixed) -> str:
    """Which parameters are the first that are not finite, when `run` makes the steps since a checkpoint one by one.

    It costs nothing until it is needed. Paths, not labels: they say more, and `fit` is given no labels.
    """
    names: list[str] = []
    while not names and int(state.step) <= spoilt.step:
        state, _ = run(state, data, fixed)
        names = not_finite(state.params)
    if not names:
        return ""
    which = "every parameter at once" if len(names) == len(named_leaves(state.params)) else some(names, 3)
    return f"; first to go, in step {int(state.step) - 1}: {which}"
