"""What a run keeps beside its state: rows of history, the best state; where they go and how they come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import jax

from jaxtl import checkpoints
from jaxtl.checkpoints.origin import Origin, refuse_another
from jaxtl.errors import InputError
from jaxtl.loop.arguments import figures
from jaxtl.loop.finite import Meter
from jaxtl.step import TrainState
from jaxtl.trees import copy_tree

Row = dict[str, float]


class Log(Protocol):
    """Where rows go as they are made: `writers.Writer`, or anything like it."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def rewind(self, step: int) -> None: ...


class _WithBest(NamedTuple):
    """What a checkpoint holds when the best state is kept: both, so that they always belong together."""

    step: jax.Array
    state: TrainState
    best: TrainState


class History:
    """What a run keeps beside its state.

    Args:
        workdir: where checkpoints go, if anywhere.
        best: the figure whose highest value marks the state to keep, if any.
        log: gets each row, if anyone.
        made: what makes the states of this run, if there is a workdir.
    """

    def __init__(self, workdir: Path | str | None, best: str | None, log: Log | None, made: Origin):
        self.workdir, self.best_name, self.log, self.made = workdir, best, log, made
        self.history: list[Row] = []
        self.meter = Meter({}, 0)
        self.best_value: float | None = None
        self.best_state: TrainState | None = None

    def end_row(
        self, done: int, state: TrainState, evaluate: Callable[[TrainState], Mapping[str, float]] | None
    ) -> None:
        """Write what happened since the last row, and save."""
        row = self.meter.take(state)
        row |= {} if evaluate is None else figures(evaluate, state, row)
        self.history.append({"step": done, **row})
        if self.log is not None:
            self.log.write(done, row)
        if self.best_name is not None:
            self._keep_best(row, state)
        self.save(state)

    def _keep_best(self, row: Row, state: TrainState) -> None:
        if self.best_name not in row:
            raise InputError(f"evaluate returns no '{self.best_name}'", where="fit best", todo=f"it has {sorted(row)}")
        if self.best_value is None or row[self.best_name] > self.best_value:
            self.best_value, self.best_state = row[self.best_name], copy_tree(state)

    def tell_again(self, began: int) -> None:
        """The log gets all rows since the run began at this step, whatever a kill or a bad disk made of its file."""
        if self.log is not None:
            self.log.rewind(began)
            for row in self.history:
                self.log.write(int(row["step"]), {name: value for name, value in row.items() if name != "step"})

    def best(self, state: TrainState) -> TrainState:
        """The best state so far; this one if none is kept."""
        return state if self.best_state is None else self.best_state

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of the state and all that belongs to it, if there is a workdir."""
        if self.workdir is not None:
            meter = [self.meter.sums, self.meter.count, self.meter.last_loss]
            meta = {"history": self.history, "best": self.best_value, "meter": meter, "origin": self.made}
            checkpoints.save(self.workdir, self._whole(state), meta)

    def resume(self, state: TrainState) -> TrainState | None:
        """The newest state that was saved, with all that belongs to it; None if nothing was. `state` is like it.

        Raises:
            InputError: what lies there is no run, or another one.
        """
        if self.workdir is None or checkpoints.latest_step(self.workdir) is None:
            return None
        meta = checkpoints.read_meta(self.workdir)
        refuse_another(self.workdir, meta.get("origin"), self.made, "a run", lambda: self._restored(state)[0])
        state, best = self._restored(state)
        self.history, self.meter = list(meta["history"]), Meter(*meta["meter"])
        if meta["best"] is not None:
            self.best_value, self.best_state = meta["best"], best
        return state

    def _restored(self, like: TrainState) -> tuple[TrainState, TrainState]:
        """The state that was saved, and the best, where one is kept."""
        assert self.workdir is not None
        saved = checkpoints.restore(self.workdir, self._whole(like))
        return (saved.state, saved.best) if isinstance(saved, _WithBest) else (saved, saved)

    def _whole(self, state: TrainState) -> TrainState | _WithBest:
        return state if self.best_name is None else _WithBest(state.step, state, self.best(state))
