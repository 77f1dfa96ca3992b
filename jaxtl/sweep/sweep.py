"""A whole grid of configurations trained by one program: rates are its arguments, so no value compiles it again.

    grid {name: [K]} ─init→ K states and their rates ─(train, score) in blocks→ scores [K] ─keep the best→ next rung

A block is as many configurations as fit the memory, spread over the devices; of several processes each takes one. On a
device they run side by side ("vmap"), one after another inside the program ("map"), or one a call ("loop"): which is
fastest depends on the operators and the machine, so "auto" measures. Data and given trees are shared by all, and never
copied.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints
from jaxtl.checkpoints.origin import Origin, describe, jaxpr_of, origin, refuse_another
from jaxtl.errors import InputError, Interrupted, NotFinite, kind_of
from jaxtl.loop.arguments import check_workdir
from jaxtl.step import Fixed, TrainState, traced
from jaxtl.sweep.batching import Blocks, Choice, common, take
from jaxtl.sweep.grid import check_grid, check_plan, check_work
from jaxtl.trees import Tree
from jaxtl.writers import Progress


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What became of a grid; printed, it is one line.

    Attributes:
        scores: [K] float32, each configuration's score in the last rung it ran in; −inf where the score or a parameter
            was not finite. Scores of different rungs are not comparable.
        alive: [n], the configurations that ran to the end, in the order of the grid.
        states: their final states, stacked in that order.
        batching: "vmap", "map" or "loop".
        seconds: by batching, what "auto" measured: seconds per configuration and call of `train`; {} if it did not.
        saved: the fraction of the training that was left out, by configurations that ended at a rung.
    """

    scores: np.ndarray
    alive: np.ndarray
    states: Tree
    batching: str
    seconds: Mapping[str, float]
    saved: float

    @property
    def best(self) -> int:
        """The best of those that ran to the end; of equals the first."""
        return int(self.alive[np.argmax(self.scores[self.alive])])

    @property
    def diverged(self) -> np.ndarray:
        """The configurations whose score or parameters were not finite."""
        return np.flatnonzero(~np.isfinite(self.scores))

    def state(self, configuration: int) -> Any:
        """The final state of one of those that ran to the end."""
        if configuration not in self.alive:
            raise InputError(f"{configuration} did not run to the end", where="Sweep.state", todo="choose among alive")
        position = int(np.searchsorted(self.alive, configuration))
        return jax.tree.map(lambda leaf: leaf[position], self.states)

    def __str__(self) -> str:
        times = {name: self.seconds[name] / self.seconds[self.batching] for name in self.seconds}
        against = " and ".join(f"{times[name]:.2g}× {name}" for name in times if name != self.batching)
        parts = [
            f"{len(self.scores)} configurations by {self.batching}{against and f' (measured speed: {against})'}",
            f"{len(self.alive)} ran to the end, {self.saved:.0%} of the training saved" if self.saved else "",
            f"{len(self.diverged)} diverged: {', '.join(map(str, self.diverged))}" if len(self.diverged) else "",
        ]
        return "; ".join(filter(None, parts))


def sweep(
    init: Callable[[Mapping[str, jax.Array]], tuple[TrainState, Mapping[str, Any]]],
    train: Callable[[TrainState, Any, Fixed], tuple[TrainState, Any]],
    score: Callable[[TrainState, Any, Fixed], jax.Array],
    grid: Mapping[str, Any],
    data: Any,
    given: Mapping[str, Any],
    *,
    rungs: int = 1,
    keep: float = 1.0,
    calls: int = 1,
    batching: str = "auto",
    memory: int | None = None,
    workdir: str | Path | None = None,
    progress: str = "",
) -> Sweep:
    """Train every configuration of a grid; the results are those of single runs, to rounding.

    Args:
        init: point {name: scalar or tree} -> (state, rates by name); traced. A seed or a fold is a column like any
            other. States with one rng share batches and augmentation, which is most of what "vmap" gains.
        train: what `make_epoch` returns, or a bare step.
        score: (state, data, fixed) -> scalar, larger is better.
        grid: {name: [K] finite numbers}, one column per quantity that varies; or {name: tree of arrays [K, ...]}, for
            parameters to start from and random keys.
        data: handed to `train` and `score`, the same for all configurations.
        given: trees by name for `Fixed.given`, the same for all configurations.
        rungs: how often configurations are scored; between two rungs only the best go on (successive halving). Where
            fewer are left than ran side by side, the narrower block is a program of its own.
        keep: the fraction that goes on, in (0, 1]; of n configurations max(1, ⌊keep·n⌋).
        calls: how often a rung calls `train`. With a bare step it is the number of steps in a rung, dispatched one by
            one: what convolutions want on CPU, where they are slow inside a loop.
        batching: "vmap", "map", "loop", or "auto": the fastest in one call of `train` on up to eight configurations a
            device. Many short calls make that cheap; one long call makes it a good part of a small sweep.
        memory: bytes of a device that a block may use besides the data; half of the device when left out (2 GiB where
            it does not say). The states of all configurations wait on the first device.
        workdir: where the sweep is saved at the end of every rung, and when it is interrupted after a block; the same
            call goes on from there. No other process may use it meanwhile. What made it is kept with it: the plan and
            the grid, the first states, rates, data, given trees, `train` and `score`, code and constants alike; with
            another of these it is refused. Devices, versions of the libraries and `progress` may change.
        progress: what to call this work on a progress display; none when empty.

    Returns:
        scores, survivors and their states; see `Sweep`.

    Raises:
        InputError: arguments of another kind, columns that do not fit, a column that `init` does not read, a rate that
            nobody reads or that is negative, a score that is no scalar, a workdir of another sweep.
        NotFinite: not one configuration has a finite score.
        Interrupted: a stop was requested; every finished block is saved if there is a workdir.

    Example:
        >>> import optax
        >>> from jaxtl.step import init_state
        >>> def init(point):
        ...     return init_state(jnp.zeros(()), optax.identity(), jax.random.key(0)), {"rate": point["rate"]}
        >>> def train(state, target, fixed):
        ...     return state._replace(params=state.params + fixed.rates["rate"] * (target - state.params)), None
        >>> result = sweep(init, train, lambda state, target, fixed: -abs(target - state.params),
        ...     {"rate": [0.25, 0.5, 3.0]}, jnp.float32(4.0), {}, batching="vmap")
        >>> result.scores.tolist(), result.best, float(result.state(1).params)
        ([-3.0, -2.0, -8.0], 1, 2.0)

    Source of the rungs: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
    Optimization", 2016.
    """
    check_plan(rungs, keep, calls, batching, memory)
    check_work(init, train, score, data, given)
    check_workdir(workdir, "sweep workdir")
    columns, size = check_grid(grid)
    ladder = [size]
    while len(ladder) < rungs:
        ladder.append(max(1, math.floor(keep * ladder[-1] + 1e-9)))  # 0.29 · 100 is 28.999999999999996
    plan = {"rungs": rungs, "keep": keep, "calls": calls, "batching": batching, "memory": memory}
    if workdir is not None:
        plan["grid"] = {name: _described(column) for name, column in columns.items()}
    with contextlib.ExitStack() as until_the_end:
        if workdir is not None and not checkpoints.is_owned(workdir):
            until_the_end.enter_context(checkpoints.own(workdir))
        states, rates = _start(init, columns)
        made = _origin(train, score, states, rates, data, given, workdir is not None)
        blocks = Blocks(train, score, calls, data, given, rates, common(states), memory)
        board = _Board(workdir, plan, made, ladder, states)
        del states  # the board gives its own up for the next ones
        if board.choice is None:
            board.choice = blocks.choose(batching, board.states, board.alive)
            board.save()  # what cannot be saved is told before the work, not after it
        display = Progress(sum(ladder), progress, start=board.finished) if progress else None
        if display is not None:
            until_the_end.enter_context(display)
        while board.rung < rungs:
            _finish_rung(board, blocks, board.choice, display)
    saved = 1 - sum(ladder) / (size * rungs)
    return Sweep(board.scores, board.alive, board.states, board.choice.batching, board.choice.seconds, saved)


def _finish_rung(board: _Board, blocks: Blocks, choice: Choice, display: Progress | None) -> None:
    try:
        while board.done < len(board.alive):
            board.states, scores = blocks.run(choice, board.states, board.alive, board.done)
            board.scores[board.alive[board.done :][: len(scores)]] = scores
            board.done += len(scores)
            if display is not None:
                display.advance(len(scores))
    except Interrupted:
        board.save()
        raise
    board.cut()
    board.save()


def _described(column: Tree) -> Any:
    """A column as a checkpoint remembers it: the numbers, or what tells one tree of arrays from another."""
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return column.tolist()
    return describe(column)


def _start(init: Callable, columns: dict[str, Tree]) -> tuple[TrainState, dict[str, np.ndarray]]:
    """All states, stacked, and the rates by name."""
    states, stacked = _starter(init)(columns)
    rates = jax.device_get(stacked)
    for name, column in rates.items():
        for k in np.flatnonzero(~(column >= 0))[:1]:
            what = f"{column[k]} of configuration {k} is negative or NaN"
            raise InputError(what, where=f"rates['{name}']", todo="use numbers >= 0")
    return states, rates


@functools.lru_cache(maxsize=64)
def _starter(init: Callable) -> Callable:
    def start(point):
        match init(point):
            case (TrainState() as state, dict(rates)):
                pass
            case other:
                todo = "return (init_state(params, tx, rng), {name: rate})"
                raise InputError(f"returns {kind_of(other)}, not (state, rates)", where="sweep init", todo=todo)
        for name, rate in rates.items():
            if np.shape(rate):
                raise InputError(f"{kind_of(rate)} is no number", where=f"rates['{name}']", todo="use one for each run")
        return state, {name: jnp.asarray(rate, jnp.float32) for name, rate in rates.items()}

    def all_of(columns):
        traced = jax.make_jaxpr(start)(jax.tree.map(lambda column: column[0], columns)).jaxpr
        read = {id(variable) for equation in traced.eqns for variable in equation.invars} | set(map(id, traced.outvars))
        variables = jax.tree.unflatten(jax.tree.structure(columns), traced.invars)
        for name, own in variables.items():
            if read.isdisjoint(map(id, jax.tree.leaves(own))):
                raise InputError("init does not read it", where=f"grid['{name}']", todo="read it, or leave it out")
        return jax.vmap(start)(columns)

    return jax.jit(all_of)


def _origin(
    train: Callable,
    score: Callable,
    states: TrainState,
    rates: Mapping[str, np.ndarray],
    data: Any,
    given: Tree,
    kept: bool,
) -> Origin:
    """What makes the states and scores of a sweep, if they are to be kept; a `train` of another kind is refused."""
    one = jax.eval_shape(lambda states: jax.tree.map(lambda leaf: leaf[0], states), states)
    fixed = Fixed({name: column[0] for name, column in rates.items()}, given)
    if not kept:
        return {}
    defaults, _ = traced(train, one, data, fixed)
    every = {**{name: rate for name, rate in defaults.items() if rate is not None}, **rates}
    first = {name: np.ravel(rate)[0] for name, rate in every.items()}
    programs = {"train": jaxpr_of(train, one, given, first), "score": jaxpr_of(score, one, given, first)}
    return origin(every, states, data, given, programs)


class _Board:
    """How far a sweep is: in `rung`, the first `done` of those alive have been trained and scored."""

    def __init__(self, workdir: str | Path | None, plan: dict[str, Any], made: Origin, ladder: list[int], states: Tree):
        self.workdir, self.plan, self.made, self.ladder = workdir, plan, made, ladder
        self.scores, self.alive, self.states = np.full(ladder[0], -np.inf, np.float32), np.arange(ladder[0]), states
        self.rung, self.done = 0, 0
        self.choice: Choice | None = None
        if workdir is not None and checkpoints.latest_step(workdir) is not None:
            self._restore(workdir)

    @property
    def finished(self) -> int:
        """Configurations finished in all rungs so far."""
        return sum(self.ladder[: self.rung]) + self.done

    def cut(self) -> None:
        """End the rung: the best go on, and of equals the first."""
        scores = self.scores[self.alive]
        if not np.any(np.isfinite(scores)):
            todo = "lower the learning rates of the grid, or look for NaN in the data"
            raise NotFinite(f"rung {self.rung + 1}: no configuration has a finite score\n  {todo}")
        self.rung, self.done = self.rung + 1, 0
        going_on = self._alive_in(self.rung)
        if going_on < len(self.alive):
            positions = np.sort(np.argsort(-scores, kind="stable")[:going_on])
            self.alive, self.states = self.alive[positions], take(self.states, positions)

    def save(self) -> None:
        if self.workdir is not None:
            meta = {"plan": self.plan, "choice": self.choice, "rung": self.rung, "done": self.done}
            checkpoints.save(self.workdir, self._arrays(), meta | {"step": self.finished, "origin": self.made})

    def _restore(self, workdir: str | Path) -> None:
        meta = checkpoints.read_meta(workdir)
        for name, value in self.plan.items():
            if meta.get("plan", {}).get(name) != value:
                what = f"holds work with another {name}"
                raise InputError(what, where=workdir, todo="repeat the call that began it, or choose another workdir")
        refuse_another(workdir, meta.get("origin"), self.made, "a sweep")
        self.rung, self.done, self.choice = meta["rung"], meta["done"], Choice(*meta["choice"])
        self.alive = np.arange(self._alive_in(self.rung))
        self.states = take(self.states, self.alive)
        saved = checkpoints.restore(workdir, self._arrays())
        self.scores, self.alive, self.states = saved["scores"], saved["alive"], saved["states"]

    def _arrays(self) -> Tree:
        return {"scores": self.scores, "alive": self.alive, "states": self.states}

    def _alive_in(self, rung: int) -> int:
        return self.ladder[min(rung, len(self.ladder) - 1)]
