"""What the server makes of the mean change of its clients: an optimizer whose gradient is minus that change.

    x ← x − η · scaler(−Δ),   Δ the mean over clients of (what one ended at − x)

With "sgd", η = 1 and no momentum this is federated averaging. The three below are the published ones: neither moment is
corrected for its start, and the second begins at τ², where Adam and Yogi as libraries have them begin at 0 and correct.

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, "Adaptive Federated Optimization", 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtl.errors import InputError
from jaxtl.trees import Tree


class Moments(NamedTuple):
    """Running means of a gradient and of its square, trees like the parameters."""

    first: Tree
    second: Tree


def _adaptive(
    second: Callable[[jax.Array, jax.Array], jax.Array], beta1: float, tau: float, where: str
) -> optax.GradientTransformation:
    """m ← β₁m + (1 − β₁)g;  v ← second(v, g²);  m / (√v + τ)."""
    if not (0 <= beta1 < 1 and tau > 0):
        todo = "use 0.9 and 1e-3, or others with 0 <= beta1 < 1 and tau > 0"
        raise InputError(f"beta1 {beta1}, tau {tau}", where=where, todo=todo)

    def init(params):
        return Moments(jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda w: jnp.full_like(w, tau**2), params))

    def update(gradients, state, params=None):
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.first, gradients)
        v = jax.tree.map(lambda v, g: second(v, g * g), state.second, gradients)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + tau), m, v), Moments(m, v)

    return optax.GradientTransformation(init, update)


def _checked(beta2: float, where: str) -> float:
    if not 0 <= beta2 < 1:
        raise InputError(f"beta2 {beta2}", where=where, todo="use 0.99, or another in [0, 1)")
    return beta2


def fed_adagrad(beta1: float = 0.0, tau: float = 1e-3) -> optax.GradientTransformation:
    """v ← v + Δ²: step sizes that only fall.

    Args:
        beta1: of the mean change, in [0, 1).
        tau: > 0, how adaptive it is: far above |Δ| it is plain averaging, divided by τ.

    Returns:
        A transformation from gradients to unscaled updates, for `rounds(server=fed_adagrad)`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> tx = fed_adagrad(tau=0.5)
        >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))
        >>> round(float(updates[0]), 4)  # 1 / (√(0.25 + 1) + 0.5)
        0.618

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """
    return _adaptive(lambda v, square: v + square, beta1, tau, "fed_adagrad")


def fed_yogi(beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> optax.GradientTransformation:
    """v ← v − (1 − β₂) Δ² sign(v − Δ²): a v that moves by no more than Δ² does.

    Args:
        beta1, tau: as for `fed_adagrad`.
        beta2: in [0, 1).

    Returns:
        As `fed_adagrad`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> tx = fed_yogi(0.0, 0.5, tau=1.0)
        >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
        >>> round(float(updates[0]), 4)  # v = 1 + ½·4, 2 / (√3 + 1)
        0.7321

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """
    share = 1 - _checked(beta2, "fed_yogi")
    return _adaptive(lambda v, square: v - share * square * jnp.sign(v - square), beta1, tau, "fed_yogi")


def fed_adam(beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> optax.GradientTransformation:
    """v ← β₂v + (1 − β₂) Δ².

    Args:
        beta1, beta2, tau: as for `fed_yogi`.

    Returns:
        As `fed_adagrad`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> tx = fed_adam(0.0, 0.5, tau=1.0)
        >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
        >>> round(float(updates[0]), 4)  # v = ½·1 + ½·4, 2 / (√2.5 + 1)
        0.7749

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """
    beta2 = _checked(beta2, "fed_adam")
    return _adaptive(lambda v, square: beta2 * v + (1 - beta2) * square, beta1, tau, "fed_adam")
