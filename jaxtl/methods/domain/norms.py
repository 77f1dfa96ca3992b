"""What features pay for small norms, and for one direction that outweighs the others: AFN, BSP."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def afn(features: jax.Array, step: float = 1.0) -> jax.Array:
    """(‖f‖ − ‖f‖ as it is − step)² per example, without gradient through "as it is": norms grow, step by step.

    Its value is always step², its gradient −2 step · f/‖f‖: larger norms carry over better. (Popular code weighs it
    0.05, and does so for source and target alike.)

    Args:
        features: [B, D].
        step: by which they shall grow.

    Returns:
        [B], in float32 at least; an example at 0 has the gradient 0.

    Example:
        >>> f = jnp.array([[3.0, 4.0]])
        >>> afn(f).tolist(), jax.grad(lambda f: afn(f).sum())(f).tolist()
        ([1.0], [[-1.2000000476837158, -1.600000023841858]])

    Source: Xu, Li, Yang and Lin, "Larger Norm More Transferable: An Adaptive Feature Norm Approach for Unsupervised
    Domain Adaptation", 2019 (the stepwise form).
    """
    squares = jnp.sum(jnp.square(features.astype(jnp.promote_types(features.dtype, jnp.float32))), axis=-1)
    somewhere = squares > 0  # the slope of a root at 0 is infinite
    norms = jnp.where(somewhere, jnp.sqrt(jnp.where(somewhere, squares, 1.0)), 0.0)
    return jnp.square(norms - jax.lax.stop_gradient(norms) - step)


def bsp(source: jax.Array, target: jax.Array) -> jax.Array:
    """σ₁(source)² + σ₁(target)²: the largest squared singular value of each batch of features.

    An adversary aligns what is strong; held down, strong directions leave room for those that tell classes apart. By
    the largest eigenvalue of the smaller Gram matrix, whose gradient is finite where two are equal.

    Args:
        source: [N, D] features, not centred.
        target: [M, D].

    Returns:
        Scalar, in float32 at least.

    Example:
        >>> float(bsp(jnp.diag(jnp.array([3.0, 1.0])), jnp.zeros((2, 2))))
        9.0

    Source: Chen, Wang, Long and Wang, "Transferability vs. Discriminability: Batch Spectral Penalization for
    Adversarial Domain Adaptation", 2019.
    """
    return _largest(source) + _largest(target)


def _largest(features: jax.Array) -> jax.Array:
    """σ₁² of [B, D]."""
    values = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    gram = values @ values.T if len(values) <= values.shape[1] else values.T @ values
    return jnp.linalg.eigvalsh(gram)[-1]
