"""A program run to its end: from many starting points with a rate each in one sweep, or once, followed by a curve."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.devices import backend
from jaxtl.errors import InputError, NotFinite
from jaxtl.loop import fit
from jaxtl.loop.finite import not_finite
from jaxtl.program import Program, Weights
from jaxtl.step import make_epoch
from jaxtl.sweep.sweep import sweep
from jaxtl.trees import Tree

DISPATCH = 100  # steps at most, whatever the device
SAMPLES = 10  # batches that tell the objective of a run that has ended


class Ended(NamedTuple):
    """What a run leaves: the whole model's weights, and a row {"step", losses, figures} for each point of its curve."""

    weights: Weights
    curve: list[dict[str, float]] = []  # noqa: RUF012  (never written)


def run_all(
    program: Program,
    starts: Sequence[Weights],
    data: Any,
    rates: Sequence[Mapping[str, float]],
    rng: jax.Array,
    *,
    steps: int,
    chunk: int = 0,
    given: Mapping[str, Tree] | None = None,
) -> list[Ended | None]:
    """Train every start with its rates in one compiled program; the results are those of single runs, to rounding.

    Args:
        program: what all of them run.
        starts: whole models; parts that the program does not train come back as they were.
        data: handed to every step.
        rates: for each start, of those in `program.rates`; the others have their defaults.
        rng: key of every run.
        steps: how many.
        chunk: steps in one dispatch; 0: what suits the device.
        given: trees by name beside those of the program, the same for all.

    Returns:
        In the order of the starts; None for a run that ended with a parameter that is not finite.

    Raises:
        InputError: another number of starts than of rates, a rate that the program does not read.
    """
    if len(starts) != len(rates) or not starts:
        raise InputError(f"{len(starts)} starts and {len(rates)} rates", where="run_all", todo="give one for one")
    fixed = [program.fixed(one, given) for one in rates]
    columns = {
        "params": _stacked([program.own(start.params) for start in starts]),
        "model_state": _stacked([start.model_state for start in starts]),
        "rates": {name: np.array([one.rates[name] for one in fixed], np.float32) for name in program.rates},
        "rng": jnp.stack([rng] * len(starts)),
    }
    init, train, calls = _plan(program, steps, chunk)
    batching = "vmap" if program.dense else backend.batching()
    grid = {name: column for name, column in columns.items() if jax.tree.leaves(column)}
    try:
        swept = sweep(init, train, _unscored, grid, data, fixed[0].given, calls=calls, batching=batching)
    except NotFinite:  # not one of them is
        return [None] * len(starts)
    states = jax.device_get(swept.states)  # on the host, or what starts from them is bound to a device
    return [_ended(program, start, jax.tree.map(itemgetter(k), states)) for k, start in enumerate(starts)]


def run(
    program: Program,
    start: Weights,
    data: Any,
    rates: Mapping[str, float],
    rng: jax.Array,
    *,
    steps: int,
    chunk: int = 0,
    points: int = 5,
    given: Mapping[str, Tree] | None = None,
    evaluate: Callable[[Weights], Mapping[str, float]] | None = None,
    **fitting: Any,
) -> Ended:
    """Train one start with its rates by `fit`, and follow it with a curve of a few points.

    Args:
        program, start, data, rates, rng, steps, chunk, given: as for `run_all`.
        points: of the curve, about; with a workdir the state is saved there as well.
        evaluate: weights of the whole model -> figures, at every point.
        fitting: further arguments of `fit`: workdir, log, mesh, progress.

    Returns:
        The weights afterwards, and the curve.

    Raises:
        InputError: a rate that the program does not read, and what `fit` refuses.
        NotFinite: the loss or a parameter is not finite.
    """
    part = max(1, steps // points)
    chunk = backend.steps_per_dispatch(chunk, steps, min(DISPATCH, part))

    def point(state):
        assert evaluate is not None
        return evaluate(Weights(program.whole(start.params, state.params), state.model_state))

    state, curve = fit(
        program.step,
        program.start(start, rng),
        data,
        program.fixed(rates, given),
        steps=steps,
        chunk=chunk,
        every=max(1, part // chunk) * chunk,
        evaluate=None if evaluate is None else point,
        **fitting,
    )
    params = jax.block_until_ready(program.whole(start.params, state.params))
    return Ended(Weights(params, state.model_state), curve)


def objective(
    program: Program,
    weights: Weights,
    data: Any,
    rates: Mapping[str, float],
    rng: jax.Array,
    *,
    steps: int,
    samples: int = SAMPLES,
    given: Mapping[str, Tree] | None = None,
) -> float:
    """What a program minimises, where a run has ended: the mean loss of the steps that would come next.

    1/samples Σ_k loss(w, batch_{steps+k}, rng_{steps+k}), with penalties; nothing moves, and no other data are read.

    Args:
        program, data, rates, rng, steps, given: as for `run`.
        weights: where it ended.
        samples: how many batches, with what is drawn at random in each.

    Returns:
        The mean; not finite where the loss is not.

    Raises:
        InputError: a rate that the program does not read.
    """
    state = program.start(weights, rng)
    fixed, loss = program.fixed(rates, given), _loss_at(program)
    losses = [loss(state._replace(step=jnp.int32(steps + k)), data, fixed) for k in range(samples)]
    return float(np.mean(jax.device_get(losses)))


@functools.lru_cache(maxsize=64)  # compiled once for a program
def _loss_at(program: Program) -> Callable:
    return jax.jit(lambda state, data, fixed: program.step(state, data, fixed)[1]["loss"])


def _ended(program: Program, start: Weights, state) -> Ended | None:
    params = program.whole(start.params, state.params)
    return None if not_finite(params) else Ended(Weights(params, state.model_state))


def _stacked(trees: Sequence[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.lru_cache(maxsize=64)  # one plan is one function, and so one compiled sweep
def _plan(program: Program, steps: int, chunk: int) -> tuple[Callable, Callable, int]:
    def init(point):
        weights = Weights(point["params"], point.get("model_state", {}))
        return program.start(weights, point["rng"]), point.get("rates", {})

    length = steps if program.dense else backend.steps_per_dispatch(chunk, steps)
    return init, program.step if length == 1 else make_epoch(program.step, length), steps // length


def _unscored(state, data, fixed) -> jax.Array:
    """Scored by whoever asked, one at a time."""
    return jnp.float32(0)
