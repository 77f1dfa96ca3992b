"""How much each task's gradient counts: gram [T, T] -> weights [T], so that the trunk moves along Σ wᵢ gᵢ.

All that these methods ask of the gradients is their inner products M = G Gᵀ, so that a trunk of any size costs T²
numbers. Iterations are fixed in number and run on the device. A task whose gradient is exactly zero (all its labels are
missing in the batch) is left out: the others get the weights that they would get without it.

Each method exists twice: `mgda_weights(gram)` for `surgery`, and `mgda(grads)` for gradients [T, d] at hand. A method
without chance takes the key that `surgery` hands to every one of them, and does not read it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

PAIRWISE_STEPS = 100  # times T: of two weights against each other, for a minimum on the simplex
NEWTON_STEPS = 40
RIDGE = 1e-6  # on cosines, in float32: what tells opposite gradients from a matrix that cannot be inverted


def gram_of(grads: jax.Array) -> jax.Array:
    """All inner products of the rows: [T, d] -> [T, T], in full precision on every device."""
    return jnp.matmul(grads, grads.T, precision=jax.lax.Precision.HIGHEST)


def equal_weights(gram: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """w = 1: the gradient of the plain sum.

    Example:
        >>> equal_weights(jnp.eye(2)).tolist()
        [1.0, 1.0]
    """
    return jnp.ones(gram.shape[0], gram.dtype)


def pcgrad_weights(gram: jax.Array, rng: jax.Array) -> jax.Array:
    """Project every gradient off those that it conflicts with, and add up the results.

    For every task i, over the others j in random order: gᵢ′ ← gᵢ′ − (gᵢ′·gⱼ)/‖gⱼ‖² gⱼ where gᵢ′·gⱼ < 0; d = Σ gᵢ′.
    The gⱼ are the original gradients.

    Args:
        gram: [T, T] inner products.
        rng: key; draws an order for every task.

    Returns:
        [T], not negative.

    Example:
        >>> pcgrad_weights(jnp.array([[1.0, -0.5], [-0.5, 1.0]]), jax.random.key(0)).tolist()
        [1.5, 1.5]

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020.
    """
    count = gram.shape[0]
    present = jnp.diag(gram) > 0

    def projected(task, key):  # gᵢ′ as its coefficients on all gradients
        def off(coefficients, other):
            inner = coefficients @ gram[:, other]
            step = -inner / jnp.where(present[other], gram[other, other], 1.0)
            return coefficients.at[other].add(jnp.where((other != task) & (inner < 0), step, 0.0)), None

        own = jax.nn.one_hot(task, count, dtype=gram.dtype)
        return jax.lax.scan(off, own, jax.random.permutation(key, count))[0]

    summed = jnp.sum(jax.vmap(projected)(jnp.arange(count), jax.random.split(rng, count)), axis=0)
    return jnp.where(present, summed, 0.0)


def mgda_weights(gram: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """The shortest vector among all averages of the gradients: min wᵀMw, w ≥ 0, Σ w = 1.

    No task's loss rises along it. Two tasks are exact, by the closed form w₁ = clip((M₂₂ − M₁₂)/‖g₁ − g₂‖², 0, 1).

    Args:
        gram: [T, T] inner products.

    Returns:
        [T] on the simplex.

    Example:
        >>> mgda_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]])).round(6).tolist()
        [0.2..., 0.8...]

    Source: Désidéri, "Multiple-Gradient Descent Algorithm (MGDA) for Multiobjective Optimization", 2012; Sener and
    Koltun, "Multi-Task Learning as Multi-Objective Optimization", 2018.
    """
    present, gram = _scaled(gram)
    return _least_on_simplex(lambda w: (gram @ w, gram), present)


def cagrad_weights(gram: jax.Array, rng: jax.Array | None = None, *, c: float = 0.5) -> jax.Array:
    """The best direction for the worst task within c‖g₀‖ of the mean gradient g₀.

    max_d minᵢ gᵢ·d, ‖d − g₀‖ ≤ c‖g₀‖, is d = g₀ + c‖g₀‖ g_w/‖g_w‖ where w minimises g_w·g₀ + c‖g₀‖‖g_w‖ on the simplex.

    Args:
        gram: [T, T] inner products.
        c: in [0, 1); 0 is the mean gradient.

    Returns:
        [T], not negative.

    Raises:
        InputError: c outside [0, 1).

    Example:
        >>> cagrad_weights(jnp.eye(2)).round(4).tolist()
        [0.75, 0.75]

    Source: Liu et al., "Conflict-Averse Gradient Descent for Multi-Task Learning", 2021.
    """
    if not 0 <= c < 1:
        raise InputError(f"{c} is outside [0, 1)", where="cagrad c", todo="0 is the mean gradient; 0.5 is usual")
    present, gram = _scaled(gram)
    mean = present / jnp.maximum(jnp.sum(present), 1)
    reach = c * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0.0))

    def length(w):  # ‖g_w‖, kept off 0, where it has no slope; beside the longest gradient, which is 1
        return jnp.sqrt(jnp.maximum(w @ gram @ w, 0.0) + 1e-10)

    def slope(w):  # the curvature of ½‖g_w‖²/length touches ‖g_w‖ here and lies above it everywhere
        curvature = reach / length(w) * gram
        return gram @ mean + curvature @ w, curvature

    w = _least_on_simplex(slope, present)
    return mean + reach / length(w) * w


def imtl_g_weights(gram: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """Equal projections on all gradients' directions: d·gᵢ/‖gᵢ‖ is the same for every task, |Σ w| = 1.

    Some weights may be negative. The paper asks for Σ w = 1; where those that give equal projections add up to a
    negative number, that would turn the direction round and raise every task's loss alike. There they add up to −1: the
    projections are equal and positive always, and the direction passes from one case to the other without a jump. Where
    the weights cancel there is no such combination, and they grow without bound close by.

    Args:
        gram: [T, T] inner products.

    Returns:
        [T], adding up to 1 or, see above, to −1.

    Example:
        >>> imtl_g_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]])).round(4).tolist()
        [0.333..., 0.666...]

    Source: Liu et al., "Towards Impartial Multi-Task Learning", 2021.
    """
    present, cosines, norms = _cosines(gram)
    even = jnp.linalg.solve(cosines + RIDGE * jnp.eye(len(norms)), present.astype(gram.dtype))
    weights = jnp.where(present, even / norms, 0.0)
    total = jnp.abs(jnp.sum(weights))
    return weights / jnp.where(total == 0, 1.0, total)


def nash_weights(gram: jax.Array, rng: jax.Array | None = None) -> jax.Array:
    """The Nash bargaining solution: M α = 1/α, α > 0; then ‖d‖² = αᵀMα = T, however the losses are scaled.

    It is the minimum of ½ αᵀMα − Σ log αᵢ, found by damped Newton steps on α ‖g‖, which no scale of a task enters. It
    has no minimum where gradients cancel in some average; a ridge of 1e-6 then bounds α ‖g‖ by about 1000.

    Args:
        gram: [T, T] inner products.

    Returns:
        [T], positive.

    Example:
        >>> nash_weights(jnp.array([[4.0, 0.0], [0.0, 1.0]])).round(4).tolist()
        [0.5, 1.0]

    Source: Navon et al., "Multi-Task Learning as a Bargaining Game", 2022.
    """
    present, cosines, norms = _cosines(gram)
    identity = jnp.eye(len(norms), dtype=gram.dtype)
    cosines = cosines + RIDGE * identity

    def newton(_, scaled):  # in units of `scaled`, where the Hessian is the identity plus a positive matrix
        curved = scaled[:, None] * cosines * scaled[None, :]
        downhill = 1.0 - jnp.sum(curved, axis=1)
        step = jnp.linalg.solve(identity + curved, downhill)
        decrement = jnp.sqrt(jnp.maximum(downhill @ step, 0.0))
        return scaled * (1.0 + step / jnp.where(decrement < 0.25, 1.0, 1.0 + decrement))

    scaled = jax.lax.fori_loop(0, NEWTON_STEPS, newton, jnp.ones_like(norms))
    return jnp.where(present, scaled / norms, 0.0)


def pcgrad(grads: jax.Array, rng: jax.Array) -> jax.Array:
    """`pcgrad_weights` for gradients [T, d] at hand -> [d].

    Example:
        >>> pcgrad(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), jax.random.key(0)).tolist()
        [0.5, 1.5]
    """
    return pcgrad_weights(gram_of(grads), rng) @ grads


def mgda(grads: jax.Array) -> jax.Array:
    """`mgda_weights` for gradients [T, d] at hand -> [d]."""
    return mgda_weights(gram_of(grads)) @ grads


def cagrad(grads: jax.Array, c: float = 0.5) -> jax.Array:
    """`cagrad_weights` for gradients [T, d] at hand -> [d]."""
    return cagrad_weights(gram_of(grads), c=c) @ grads


def imtl_g(grads: jax.Array) -> jax.Array:
    """`imtl_g_weights` for gradients [T, d] at hand -> [d]."""
    return imtl_g_weights(gram_of(grads)) @ grads


def nash(grads: jax.Array) -> jax.Array:
    """`nash_weights` for gradients [T, d] at hand -> [d]."""
    return nash_weights(gram_of(grads)) @ grads


def _scaled(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Who is present [T], and the inner products in units in which the longest gradient is 1 [T, T]."""
    longest = jnp.max(jnp.diag(gram))
    return jnp.diag(gram) > 0, gram / jnp.where(longest > 0, longest, 1.0)


def _cosines(gram: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Who is present [T], the cosines [T, T] (an absent task is orthogonal to all), and the norms, 1 where absent."""
    present = jnp.diag(gram) > 0
    norms = jnp.sqrt(jnp.where(present, jnp.diag(gram), 1.0))
    cosines = gram / norms[:, None] / norms[None, :]
    return present, jnp.where(jnp.eye(len(norms), dtype=bool), 1.0, cosines), norms


def _least_on_simplex(slope: Callable, present: jax.Array) -> jax.Array:
    """The minimum over w ≥ 0, Σ w = 1 of a convex function, by moving weight from one task to another.

    Each step takes the pair that promises most and goes as far as is best for the pair: exact for two tasks, and a
    task that should have no weight gets exactly none.

    Args:
        slope: w -> (gradient [T], curvature [T, T] of a quadratic function that lies above).
        present: [T] bool; the others get 0.
    """
    positions = jnp.arange(len(present))

    def step(_, w):
        gradient, curvature = slope(w)
        giver = jnp.argmax(jnp.where(present & (w > 0), gradient, -jnp.inf))
        drop = jnp.where(present, gradient[giver] - gradient, 0.0)
        bend = curvature[giver, giver] + jnp.diag(curvature) - 2 * curvature[giver]
        bend = jnp.maximum(bend, jnp.finfo(w.dtype).tiny)  # 0 where two gradients are one: rounding may go below
        taker = jnp.argmax(jnp.where(drop > 0, drop * drop / bend, -1.0))
        moved = jnp.clip(drop[taker] / bend[taker], 0.0, w[giver])
        return w + moved * ((positions == taker).astype(w.dtype) - (positions == giver))

    start = present / jnp.maximum(jnp.sum(present), 1)
    return jax.lax.fori_loop(0, PAIRWISE_STEPS * len(present), step, start)
