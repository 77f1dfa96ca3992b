"""Rates learned by gradient: climb a validation score along the logarithms of the rates, from anywhere.

`init`, `train` and `score` are those of `sweep`: one point in place of a grid turns a sweep into a search.

Source: Bengio, "Gradient-Based Optimization of Hyperparameters", 2000.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl.errors import InputError, NotFinite
from jaxtl.loop import raise_if_stopped
from jaxtl.selection.gradient import Mode, Slope, hypergradient
from jaxtl.step import Fixed, compile_step
from jaxtl.writers import Progress

FEW = 3  # rates, up to which "auto" goes forward: beyond, going back is faster
FARTHEST = math.log(10)  # no move of a search changes a rate by more than ten times
MOVES = 3  # a search ends when its last moves together
NEAR = 0.01  # stay within this part of every rate, or
HALVINGS = 8  # it also ends when so many moves were taken back in turn
SAME = 5e-7  # change the score by no more than this part, which float32 does not tell from none

Logs = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LearnedRates:
    """The way of a search; printed, it is one line.

    Attributes:
        points: {name: [T]}, the rates of each run, in order.
        scores: [T], −inf where score or slope were not finite.
        gradients: {name: [T]}, d score / d log(rate).
        taken_back: the runs that were not gone on from: not finite, or worse although the slope still said to go on.
        states: the final states of the best run, stacked [K], one for each row held (one if there is none).
        settled: whether the last moves led nowhere; otherwise `steps` were done, or all of the last moves were taken
            back, as where the slope is wrong: an `Implicit` one far from a minimum, or any where training is chaotic.
    """

    points: Mapping[str, np.ndarray]
    scores: np.ndarray
    gradients: Mapping[str, np.ndarray]
    taken_back: np.ndarray
    states: Any
    settled: bool

    @property
    def best(self) -> int:
        """The run with the best score; of equals the first."""
        return int(np.argmax(self.scores))

    @property
    def point(self) -> dict[str, float]:
        """The rates of the best run."""
        return {name: float(column[self.best]) for name, column in self.points.items()}

    def __str__(self) -> str:
        found = ", ".join(f"{name} {value:.3g}" for name, value in self.point.items())
        back = f", {len(self.taken_back)} taken back" if len(self.taken_back) else ""
        runs = f"run {self.best + 1} of {len(self.scores)}{back}, {'settled' if self.settled else 'not settled'}"
        return f"{found}: score {self.scores[self.best]:.4g} ({runs})"


def learn_rates(
    init: Callable,
    train: Callable,
    score: Callable,
    start: Mapping[str, float],
    data: Any,
    given: Mapping[str, Any],
    *,
    steps: int,
    held: Mapping[str, Any] | None = None,
    calls: int = 1,
    mode: Mode | Literal["auto"] = "auto",
    optimizer: optax.GradientTransformation | None = None,
    progress: str = "",
) -> LearnedRates:
    """Climb the validation score along the logarithms of the rates, from anywhere.

    A run that is not finite is no point to go on from, nor one that is worse although its slope still says to go on:
    the next one is halfway back, on the scale of logarithms. Where not even the first is finite, all rates are divided
    by ten.

    Args:
        init, train, score, data, given, calls: as in `sweep`; the score differentiable, see `hypergradient`.
        start: {name: number > 0}, what is learned: rates, per label or layer, or whatever `init` turns into rates.
        steps: runs, at most.
        held: {name: number, or [K]}, what else `init` reads: a seed, a fold. The score is the mean over its rows.
        mode: as in `hypergradient`; "auto" is "forward" for up to three rates and "reverse" beyond.
        optimizer: on the logarithms; `resilient()` when left out.
        progress: what to call this work on a progress display; none when empty.

    Returns:
        The way and its best run; see `LearnedRates`.

    Raises:
        InputError: rates that are not positive, a rate that nobody reads, a score that is no scalar or does not move
            with some rate.
        NotFinite: not one run was finite.
        Interrupted: a stop was requested.

    Example:
        >>> from jaxtl.step import init_state
        >>> def init(point):
        ...     return init_state(jnp.zeros(()), optax.identity(), jax.random.key(0)), dict(point)
        >>> def train(state, target, fixed):
        ...     return state._replace(params=target / (1 + fixed.rates["pull"])), None
        >>> def score(state, target, fixed):
        ...     return -((state.params - 2.0) ** 2)
        >>> learned = learn_rates(init, train, score, {"pull": 0.01}, jnp.float32(8.0), {}, steps=40)
        >>> round(learned.point["pull"], 2), learned.settled
        (3.0, True)
    """
    logs = _checked_start(start)
    rows = _checked_held(held or {}, start)
    if steps < 1:
        raise InputError(f"{steps} is less than 1", where="learn_rates steps")
    mode = mode if mode != "auto" else "forward" if len(logs) <= FEW else "reverse"
    slope = _program(init, train, score, calls, mode)
    climb = _Climb(optimizer or resilient(), logs)
    with Progress(steps, progress) if progress else contextlib.nullcontext() as display:
        while len(climb.way) < steps and not (climb.settled or climb.stuck):
            raise_if_stopped(f"after {len(climb.way)} of {steps} runs")
            climb.take(slope(climb.logs, data, Fixed(rows, given)))
            if display is not None:
                display.advance(1, score=climb.way[-1].score)
    return climb.result()


class _Run(NamedTuple):
    """One run of a search, and whether it was not gone on from."""

    logs: Logs
    gradient: Logs
    score: float
    taken_back: bool


class _Climb:
    """Where a search is, the way it came, and where it goes next: `point + reach · move`, all on the scale of logs."""

    def __init__(self, optimizer: optax.GradientTransformation, logs: Logs):
        self.optimizer, self.opt_state = optimizer, optimizer.init(logs)
        self.names, self.logs = tuple(logs), logs  # a tree forgets the order
        self.point: Logs | None = None  # the last run that was gone on from
        self.score, self.move, self.reach = -math.inf, logs, 1.0
        self.way: list[_Run] = []
        self.best, self.states = -math.inf, None

    @property
    def settled(self) -> bool:
        """Whether the last moves together have led nowhere."""
        last = [run for run in self.way[-MOVES - 1 :] if not run.taken_back]
        if len(last) <= MOVES:
            return False
        logs, scores = [list(run.logs.values()) for run in last], [run.score for run in last]
        return bool(np.all(np.ptp(logs, axis=0) < NEAR) or np.ptp(scores) <= SAME * np.max(np.abs(scores)))

    @property
    def stuck(self) -> bool:
        """Whether the last moves have all been taken back."""
        return self.point is not None and sum(run.taken_back for run in self.way[-HALVINGS:]) == HALVINGS

    def take(self, slope: Slope) -> None:
        """Note the run at `logs`, and move them."""
        value, gradient = jax.device_get((slope.score, slope.gradient))
        score = float(value) if np.all(np.isfinite([value, *gradient.values()])) else -math.inf
        back = not math.isfinite(score) or self._fell(score, gradient)
        self.way.append(_Run(self.logs, gradient, score, back))
        if score > self.best:
            self.best, self.states = score, slope.states
        if not back:
            self._go_on(score, gradient)
        elif self.point is not None:
            self.reach /= 2
        else:
            self.logs = jax.tree.map(lambda log: log - np.float32(FARTHEST), self.logs)
            return
        self.logs = jax.tree.map(lambda log, move: np.float32(log + self.reach * move), self.point, self.move)

    def _fell(self, score: float, gradient: Logs) -> bool:
        """Whether a move has lost, and not because it went too far: there the slope says to go on as before."""
        if self.point is None or score >= self.score:
            return False
        return sum(gradient[name] * (self.logs[name] - self.point[name]) for name in self.names) > 0

    def _go_on(self, score: float, gradient: Logs) -> None:
        if self.point is None:
            _refuse_flat(gradient)
        downhill = jax.tree.map(np.negative, gradient)
        updates, self.opt_state = self.optimizer.update(downhill, self.opt_state, self.logs)
        self.move = jax.tree.map(lambda move: np.clip(move, -FARTHEST, FARTHEST), updates)
        self.point, self.score, self.reach = self.logs, score, min(1.0, 2 * self.reach)

    def result(self) -> LearnedRates:
        """The way, in the order of the start."""
        if self.states is None:
            todo = "start from smaller rates, or look for NaN in the data"
            raise NotFinite(f"learn_rates: none of {len(self.way)} runs is finite\n  {todo}")
        scores, back = np.array([run.score for run in self.way]), np.array([run.taken_back for run in self.way])
        points = {name: np.exp([run.logs[name] for run in self.way], dtype=np.float64) for name in self.names}
        slopes = {name: np.array([run.gradient[name] for run in self.way]) for name in self.names}
        return LearnedRates(points, scores, slopes, np.flatnonzero(back), self.states, self.settled)


def resilient(first: float = 1.0, grow: float = 1.5, shrink: float = 0.5) -> optax.GradientTransformation:
    """Moves by the gradient's sign only: each grows while the sign stays and shrinks when it turns.

    A slope along log(rate) says where to go but not how far: 100 times off it may be a millionth of what it is near
    the best. Needs gradients without noise, which runs of one seed have.

    Args:
        first: size of the first move; 1 takes a rate to 2.7 times or to a third.
        grow, shrink: factors.

    Returns:
        A transformation of gradients to updates.

    Source: Riedmiller and Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm",
    1993; without its step back, as in Igel and Hüsken, "Improving the Rprop Learning Algorithm", 2000.
    """

    def init(params):
        return jax.tree.map(lambda p: jnp.full_like(p, first), params), jax.tree.map(jnp.zeros_like, params)

    def update(gradients, state, params=None):
        sizes, before = state
        signs = jax.tree.map(jnp.sign, gradients)
        factors = jax.tree.map(
            lambda s, b: jnp.where(s * b > 0, grow, jnp.where(s * b < 0, shrink, 1.0)), signs, before
        )
        sizes = jax.tree.map(lambda size, factor: jnp.minimum(size * factor, FARTHEST), sizes, factors)
        return jax.tree.map(lambda size, sign: -size * sign, sizes, signs), (sizes, signs)

    return optax.GradientTransformation(init, update)


@functools.lru_cache(maxsize=64)
def _program(init: Callable, train: Callable, score: Callable, calls: int, mode: Mode) -> Callable:
    """(logs, data, Fixed(held, given)) -> Slope, compiled."""
    slope = hypergradient(init, train, score, calls=calls, mode=mode)
    return compile_step(lambda logs, data, fixed: slope(jax.tree.map(jnp.exp, logs), fixed.rates, data, fixed.given))


def _checked_start(start: Mapping[str, float]) -> Logs:
    """The logarithms."""
    if not start:
        raise InputError("names nothing to learn", where="learn_rates start", todo="give {name: number > 0}")
    for name, value in start.items():
        if np.ndim(value) or not 0 < value < math.inf:
            todo = "give one number > 0; a rate of 0 has no logarithm: start from a small one"
            raise InputError(f"{value} is not a positive number", where=f"start['{name}']", todo=todo)
    return {name: np.asarray(math.log(value), np.float32) for name, value in start.items()}


def _checked_held(held: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns, of one length."""
    columns = {name: np.atleast_1d(np.asarray(column)) for name, column in held.items()}
    for name, column in columns.items():
        if name in start:
            raise InputError("is both learned and held", where=f"held['{name}']", todo="leave it out of one")
        if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
            raise InputError("is no list of finite numbers", where=f"held['{name}']", todo="give one number per row")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"lengths differ: {lengths}", where="learn_rates held", todo="give one number per row to each")
    return columns


def _refuse_flat(gradient: Mapping[str, Any]) -> None:
    for name, value in gradient.items():
        if value == 0:
            raise InputError(
                "the score does not move with it: its slope is exactly 0",
                where=f"start['{name}']",
                todo="score by a loss, not by an accuracy; Implicit is blind to learning rates; else start elsewhere",
            )
