"""An average of the parameters that runs beside them, inside the step.

It averages over the last part of a run what noise of the batches has thrown about, and costs no gradient. Statistics of
batch normalisation are those of the parameters and not of their average: they are taken anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.methods.finetuning.weight_space import is_real
from jaxtl.program import Program, Weights
from jaxtl.trees import Tree, map_named

AVERAGE = "average"  # of the model state: the running average of what is trained


def ema_decay(steps: int, part: float = 0.2) -> float:
    """δ of an average over about a part of a run, 1 − 1/(part · steps).

    A number for all runs fits few: the usual 0.9998 is still at the start after 150 steps.

    Args:
        steps: of the whole run.
        part: of it, in (0, 1].

    Raises:
        InputError: a part outside (0, 1].

    Example:
        >>> round(ema_decay(150), 4)
        0.9667
    """
    if not 0 < part <= 1:
        raise InputError(f"{part} is outside (0, 1]", where="ema_decay part")
    return max(0.0, 1 - 1 / (part * steps))


def ema(average: Tree, params: Tree, decay: Any, step: Any) -> Tree:
    """One step of an exponential moving average, e ← δ_t e + (1 − δ_t) w,  δ_t = min(δ, (1 + t)/(10 + t)).

    Args:
        average: tree of arrays.
        params: tree like it; what counts (integers) is taken over.
        decay: δ in [0, 1).
        step: t, from 1 on.

    Returns:
        A tree like `average`, in its dtypes.

    Example:
        >>> float(ema({"w": jnp.float32(1)}, {"w": jnp.float32(2)}, 0.999, 1)["w"])  # δ_1 = 2/11
        1.818...

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992; the warm-up is that of
    widespread implementations.
    """
    kept = jnp.minimum(decay, (1 + step) / (10 + step))

    def one(_, e, w):
        return (kept * e + (1 - kept) * jnp.asarray(w, e.dtype)).astype(e.dtype) if is_real(e) else w

    return map_named(one, average, params)


def with_average(weights: Weights, own: Tree) -> Weights:
    """Weights that carry the average of what is trained, as `averaged` steps need it: at the start it is the start.

    Args:
        weights: of the whole model.
        own: the parameters among them that are trained, `Program.own`.

    Returns:
        The same, with the average in the model state, in float32 at least: a step of it in bfloat16 would be lost.
    """

    def wide(leaf):
        return jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32) if is_real(leaf) else leaf.dtype)

    return weights._replace(model_state={**weights.model_state, AVERAGE: jax.tree.map(wide, own)})


def averaged(program: Program, decay: float) -> Program:
    """A program that follows its parameters with an average in the model state, which no gradient and no forward sees.

    Args:
        program: moves the parameters.
        decay: δ of `ema`.

    Raises:
        InputError: on use, a start without an average.

    Example:
        >>> from jaxtl.labels import NEW
        >>> from jaxtl.losses import mean_of, squared_error
        >>> from jaxtl.optimizers import Group
        >>> from jaxtl.penalties import Term
        >>> from jaxtl.program import make_program
        >>> def forward(params, model_state, batch, ctx):
        ...     return {"head": batch["x"] @ params["w"]}, model_state
        >>> task = {"task": Term(1.0, mean_of(squared_error))}
        >>> program = averaged(make_program(forward, {"w": NEW}, task, {NEW: Group(0.5)}), 0.9)
        >>> params, data = {"w": jnp.ones(1)}, {"x": jnp.ones((2, 1)), "label": jnp.zeros(2)}
        >>> state = program.start(with_average(Weights(params), params), jax.random.key(0))
        >>> state, _ = program.step(state, data, program.fixed())
        >>> state.params["w"].tolist(), round(float(state.model_state["average"]["w"][0]), 4)  # 2/11 · 1 + 9/11 · ½
        ([0.5], 0.5909)
    """

    def step(state, data, fixed):
        if AVERAGE not in state.model_state:
            todo = "start from with_average(weights, program.own(weights.params))"
            raise InputError("no average", where="model_state", todo=todo)
        plain = {name: part for name, part in state.model_state.items() if name != AVERAGE}
        moved, metrics = program.step(state._replace(model_state=plain), data, fixed)
        average = ema(state.model_state[AVERAGE], moved.params, decay, moved.step)
        return moved._replace(model_state={**moved.model_state, AVERAGE: average}), metrics

    return dataclasses.replace(program, step=step)


def of_average(weights: Weights) -> Weights:
    """The weights that the average of an `averaged` run is, in the dtypes of the parameters."""
    average = weights.model_state[AVERAGE]
    state = {name: part for name, part in weights.model_state.items() if name != AVERAGE}
    whole = weights.params if isinstance(average, dict) else {}
    last = {name: whole[name] for name in average} if whole else weights.params
    own = map_named(lambda _, w, e: jnp.asarray(e, w.dtype), last, average)
    return Weights({**whole, **own} if whole else own, state)
