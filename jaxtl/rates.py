"""What a rate may be: a number ≥ 0 that stands under a name, or a function of the step whose factor stands there.

`Fixed.rates` overrides the number by its name, and nothing is compiled again.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError

ONE_RATE = "give a function: step -> one rate"


def checked_rate(value: Any, where: str, name: str = "") -> Any:
    """The value, if it can be a rate: one number ≥ 0, not infinite; traced, whatever one number it will be.

    Raises:
        InputError: text, None, a vector, a number that is negative, NaN or infinite.
    """
    number = isinstance(value, numbers.Real) or (
        isinstance(value, jax.Array | np.ndarray | np.generic)
        and value.shape == ()
        and (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer))
    )
    said = f"{name} {value!r}".strip() if isinstance(value, str) or not number else f"{name} {value}".strip()
    if not number:
        raise InputError(f"{said} is not one number", where=where, todo="use a number >= 0")
    if not isinstance(value, jax.core.Tracer) and not 0 <= float(value) < math.inf:
        what = "is infinite" if float(value) > 0 else "is negative or NaN"
        raise InputError(f"{said} {what}", where=where, todo="use a number >= 0")
    return value


def default_of(rate: Any) -> Any:
    """The number under a rate's name where nobody gives another: the rate itself, or 1 where it is a function."""
    return 1.0 if callable(rate) else rate


def checked_default(rate: Any, where: str, name: str) -> None:
    """Refuse what can be neither a rate nor a function of the step that gives one.

    Raises:
        InputError: as `checked_rate`, of the rate or of what the function gives at step 0; no function of a step.
    """
    if not callable(rate):
        checked_rate(rate, where, name)
        return
    try:
        with jax.ensure_compile_time_eval():
            first = rate(jnp.int32(0))
    except TypeError as error:
        what = f"{name} is no function of a step ({str(error).splitlines()[0]})".strip()
        raise InputError(what, where=where, todo="write rate=lambda step: 0.1 * (step < 100)") from None
    checked_rate(checked_scalar(first, where, ONE_RATE), where, f"{name} at step 0")


def rate_at(rate: Any, name: str, rates: Mapping[str, Any], step: Any) -> Any:
    """A rate in a step: the number under its name, times what the rate says of the step where it is a function.

    Args:
        rate: a number, or step -> number.
        name: "penalty/LABEL", "learning_rate/LABEL", of a loss term.
        rates: may hold another number under that name.
        step: how many were taken before, traced or not.

    Example:
        >>> float(rate_at(lambda step: 0.5**step, "penalty/new", {"penalty/new": 4.0}, 3))
        0.5
    """
    number = checked_rate(rates.get(name, default_of(rate)), f"rates['{name}']")
    return number * checked_scalar(rate(step), f"rates['{name}']", ONE_RATE) if callable(rate) else number


def checked_scalar(value: Any, where: str, todo: str) -> Any:
    """What an equation has given, if it is one number.

    Raises:
        InputError: None, a tuple, an array with axes.
    """
    if not isinstance(value, numbers.Real | jax.Array | np.ndarray | np.generic):
        raise InputError(f"gives {type(value).__name__}, not a number", where=where, todo=todo)
    shape = getattr(value, "shape", ())
    if shape != ():
        raise InputError(f"has shape {shape}", where=where, todo=todo)
    return value
