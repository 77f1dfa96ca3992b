"""From gradients to updates before the learning rate: momentum, Adam, or an optimizer of one's own, which is tried."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtl.errors import InputError, suggest

PROBES = 8  # updates that an optimizer of one's own may give before it moves: a warm-up begins at 0


def scaler(optimizer: Any, momentum: float) -> Callable[[], optax.GradientTransformation]:
    """What makes the transformation from gradients to unscaled updates.

    Args:
        optimizer, momentum: as for `optimizers.per_label`.

    Raises:
        InputError: an unknown name, a momentum that is not read or out of range, an optimizer that is complete already.
    """
    if not (isinstance(momentum, numbers.Real) and 0 <= momentum < 1):
        raise InputError(f"{momentum} is outside [0, 1)", where="per_label momentum", todo="use 0.9, or leave it out")
    by_name: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.trace(momentum) if momentum else optax.identity(),
        "nesterov": lambda: optax.trace(momentum, nesterov=True),
        "adam": optax.scale_by_adam,
    }
    if optimizer == "nesterov" and not momentum:
        raise InputError("has no momentum to look ahead along", where="per_label 'nesterov'", todo="pass momentum=0.9")
    if momentum and optimizer not in ("sgd", "nesterov"):
        raise InputError(f"'{optimizer}' does not read it", where=f"per_label momentum={momentum}")
    if callable(optimizer):
        _check_unscaled(optimizer)
        return optimizer
    if not isinstance(optimizer, str):
        todo = "give a name, or a function that makes it: lambda: optax.scale_by_adam()"
        raise InputError(f"a {type(optimizer).__name__}", where="per_label optimizer", todo=todo)
    if optimizer not in by_name:
        raise InputError(f"unknown: '{optimizer}'", where="per_label optimizer", todo=suggest(optimizer, by_name))
    return by_name[optimizer]


def _check_unscaled(make: Callable[[], optax.GradientTransformation]) -> None:
    """What is scaled by −learning rate must point uphill, as the gradient does: one matrix tells."""
    where, todo = "per_label optimizer", "give a function without arguments: lambda: optax.scale_by_adam()"
    try:
        tx = make()
        with jax.ensure_compile_time_eval():
            ones = {"kernel": jnp.ones((2, 2))}
            state = tx.init(ones)
            for _ in range(PROBES):
                updates, state = tx.update(ones, state, ones)
                uphill = float(jnp.sum(updates["kernel"]))
                if uphill:
                    break
    except (TypeError, ValueError, AttributeError) as error:
        what = f"cannot be made, or tried on one matrix ({str(error).splitlines()[0]})"
        raise InputError(what, where=where, todo=todo) from None
    if uphill < 0:
        what = "it is complete: its updates go downhill already, and scaled by -learning_rate they would climb"
        todo = "give the part that does not scale, scale_by_adam for adamw or identity for sgd; the rest is in Group"
        raise InputError(what, where=where, todo=todo)
