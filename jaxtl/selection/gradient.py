"""The slope of a validation score along the logarithm of every rate that training reads.

    point ─init→ state, rates ─train→ w ─score→ s          ds/d log(rate), by

    forward    a run that carries dw/d log(rate) along: no memory; time grows with the number of rates
    reverse    back through the run, call by call: any number of rates; memory for a state a call
    Implicit   from the curvature at the end, if that is a minimum: ∂s/∂rate − (∂∇L/∂rate)ᵀ (∂∇L/∂w)⁻¹ ∂s/∂w

`init`, `train` and `score` are those of `sweep`; `learn_rates` climbs along this slope.

What it costs, in runs without slope: 100 steps on 200 digits, on 2 busy CPU cores, for a linear head and an MLP
64-64-10. Forward 1.7 and 2.0 for one rate, 1.9 and 5.4 for two, 2.5 and 7.1 for three, the memory of a few states;
reverse 2.0 and 3.9 for any number, 10 and 36 times that memory; reverse in 10 calls of 10 steps 3.2 and 5, the memory
of forward; Implicit 1.3 and 1.7. As everything in a loop, forward and reverse of a convolution are slow on CPU.

Source: Franceschi, Donini, Frasconi and Pontil, "Forward and Reverse Gradient-Based Hyperparameter Optimization",
2017; Lorraine, Vicol and Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, suggest
from jaxtl.selection.implicit import implicit_gradient
from jaxtl.step import Context, Fixed, GradFn, TrainState
from jaxtl.trees import Tree


class Slope(NamedTuple):
    """A score, {name: d score / d log(rate)}, and what `train` ended with: states stacked [K], one a row held."""

    score: jax.Array
    gradient: dict[str, jax.Array]
    states: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Implicit:
    """The mode that needs the end of training only, whatever led there.

    It is exact at a minimum of the objective and as wrong as the gradient is large elsewhere. It knows what the
    objective reads (penalties, loss terms), and is blind to what only the way there reads (learning rates, the start).

    Args:
        grad_fn: gradient of the whole objective, from `total_gradient`.
        prepare: data -> the batch of all training examples; the data as they are when left out.
        curvature: params -> another `grad_fn`, whose derivative takes the place of the Hessian: of a loss of
            `linearised(forward, params)`, the Gauss-Newton matrix.
        damping, iterations, frozen: as in `implicit_gradient`.
    """

    grad_fn: GradFn
    prepare: Callable[[Any], Any] = lambda data: data
    curvature: Callable[[Tree], GradFn] | None = None
    damping: float = 0.0
    iterations: int = 100
    frozen: Tree | None = None


Mode = Literal["forward", "reverse"] | Implicit


def hypergradient(
    init: Callable, train: Callable, score: Callable, *, calls: int = 1, mode: Mode = "forward"
) -> Callable[[Mapping[str, Any], Mapping[str, Any], Any, Mapping[str, Any]], Slope]:
    """The score at the end of training, and how it moves with the logarithm of every rate.

    Args:
        init, train, score: as in `sweep`; the score a differentiable one, minus a loss and not an accuracy.
        calls: how often `train` is called. Going back, each call is run again from its stored first state: with
            `make_epoch(jax.checkpoint(step), √n)` called √n times, n steps need the memory of 2√n states.
        mode: "forward", "reverse", or an `Implicit`.

    Returns:
        slope(point, held, data, given) -> `Slope`, pure. point: {name: scalar > 0}, what is learned; held: {name:
        [K]}, what else `init` reads (seeds, folds), over whose rows the score is averaged; {} for none.

    Raises:
        InputError: an unknown mode; when traced, a score that is no scalar, or a rate that nobody reads.

    Example:
        >>> import optax
        >>> from jaxtl.step import init_state
        >>> def init(point):
        ...     return init_state(jnp.zeros(()), optax.identity(), jax.random.key(0)), dict(point)
        >>> def train(state, target, fixed):
        ...     return state._replace(params=target / (1 + fixed.rates["pull"])), None
        >>> slope = hypergradient(init, train, lambda state, target, fixed: state.params)
        >>> found = slope({"pull": 1.0}, {}, jnp.float32(8.0), {})
        >>> float(found.score), float(found.gradient["pull"])  # pull · −8/(1 + pull)²
        (4.0, -2.0)
    """
    _check_mode(mode, calls)

    def start(logs, row):
        return init({**row, **{name: jnp.exp(log) for name, log in logs.items()}})

    def trained(logs, row, data, given):
        state, rates = start(logs, row)
        fixed = Fixed(rates, given)
        run = jax.checkpoint(train, prevent_cse=False) if mode == "reverse" and calls > 1 else train
        return jax.lax.scan(lambda state, _: (run(state, data, fixed)[0], None), state, length=calls)[0], fixed

    def scored(logs, row, data, given):
        state, fixed = trained(logs, row, data, given)
        value = _scalar(score(state, data, fixed))
        return value, (value, state)

    def at_the_end(mode, logs, row, data, given):
        state, _ = trained(logs, row, data, given)
        gradient, value = _at_the_end(mode, state, lambda logs: Fixed(start(logs, row)[1], given), logs, data, score)
        return gradient, (value, state)

    if isinstance(mode, Implicit):
        of_one: Callable = functools.partial(at_the_end, mode)
    else:
        of_one = {"forward": jax.jacfwd, "reverse": jax.grad}[mode](scored, has_aux=True)

    def slope(point, held, data, given):
        logs = {name: jnp.log(jnp.asarray(value, jnp.result_type(float))) for name, value in point.items()}
        if held:
            gradients, (values, states) = jax.vmap(of_one, (None, 0, None, None))(logs, dict(held), data, given)
        else:
            gradients, (values, states) = jax.tree.map(lambda leaf: leaf[None], of_one(logs, {}, data, given))
        return Slope(jnp.mean(values), jax.tree.map(jnp.mean, gradients), states)

    return slope


def _at_the_end(
    mode: Implicit, state: TrainState, fixed_of: Callable[[Tree], Fixed], logs: Tree, data: Any, score: Callable
) -> tuple[Tree, jax.Array]:
    """(gradient along the logs, score) from the final state: what the score itself reads, and what w carries to it."""

    def scored(params, logs):
        return _scalar(score(state._replace(params=params), data, fixed_of(logs)))

    def gradient_by(grad_fn, params, logs):
        fixed = fixed_of(logs)
        ctx = Context(state.step, state.rng, fixed.rates, fixed.given)
        return grad_fn(params, state.model_state, mode.prepare(data), ctx)[0]

    curvature = None
    if mode.curvature is not None:
        curvature = functools.partial(gradient_by, mode.curvature(state.params), logs=logs)
    value, (by_params, direct) = jax.value_and_grad(scored, argnums=(0, 1))(state.params, logs)
    through_params = implicit_gradient(
        functools.partial(gradient_by, mode.grad_fn),
        state.params,
        logs,
        by_params,
        curvature=curvature,
        damping=mode.damping,
        iterations=mode.iterations,
        frozen=mode.frozen,
    )
    return jax.tree.map(jnp.add, direct, through_params), value


def _scalar(value: jax.Array) -> jax.Array:
    if jnp.shape(value) != ():
        raise InputError(f"has shape {jnp.shape(value)}", where="score", todo="return a scalar")
    return value


def _check_mode(mode: Mode, calls: int) -> None:
    if not isinstance(mode, Implicit) and mode not in ("forward", "reverse"):
        todo = suggest(mode, ("forward", "reverse")) + "; or an Implicit(...)"
        raise InputError(f"unknown: {mode!r}", where="hypergradient mode", todo=todo)
    if calls < 1:
        raise InputError(f"{calls} is less than 1", where="hypergradient calls")
