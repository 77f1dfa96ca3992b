"""How far apart two batches of features are: means in a kernel's space (DAN, JAN), covariances (deep CORAL)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

WIDTHS = tuple(2.0**k for k in range(-3, 2))  # α of the kernels exp(−d² / (2 α mean d²)), which are added up
SIGMA = 0.92  # of the kernel on probabilities


def mmd(source: jax.Array, target: jax.Array, widths: tuple[float, ...] = WIDTHS) -> jax.Array:
    """MMD² with a sum of Gaussian kernels: mean_{i≠j} k(s_i, s_j) + mean_{i≠j} k(t_i, t_j) − 2 mean_ij k(s_i, t_j).

    k(a, b) = Σ_α exp(−‖a − b‖² / (2 α m)), m the mean of ‖a − b‖² over all (n + m)² pairs of the batch, those of an
    example with itself included; no gradient passes through it. The estimate is unbiased, and so below 0 at times.
    (Popular code leaves i ≠ j out of the means but not of their weights: it is larger by 2/(n − 1) for each kernel.)

    Args:
        source: [N, D] features, N >= 2.
        target: [M, D] of the same network, M >= 2.
        widths: α of each kernel.

    Returns:
        Scalar, in float32 at least.

    Raises:
        InputError: features of other sizes, or fewer than two.

    Example:
        >>> round(float(mmd(jnp.array([[0.0], [1.0]]), jnp.array([[4.0], [5.0]]), (1.0,))), 4)
        1.0862

    Source: Long, Cao, Wang and Jordan, "Learning Transferable Features with Deep Adaptation Networks", 2015; Gretton et
    al., "A Kernel Two-Sample Test", 2012.
    """
    both, n = _together(source, target, "mmd")
    return _unbiased(_summed(_distances(both), _bandwidth(both), widths), n)


def mmd_linear(source: jax.Array, target: jax.Array, widths: tuple[float, ...] = WIDTHS) -> jax.Array:
    """The same in time O(n): mean_i k(s_2i, s_2i+1) + k(t_2i, t_2i+1) − k(s_2i, t_2i+1) − k(s_2i+1, t_2i).

    Unbiased, of larger variance than `mmd`; exactly 0 where both batches are the same. Pairs share no example, as in
    the paper. (Popular code goes round in a circle, and uses every example twice.)

    Args:
        source: [N, D] features, N >= 2; the last of an odd number is left out.
        target: [N, D] as many.
        widths: as for `mmd`.

    Returns:
        Scalar, in float32 at least.

    Raises:
        InputError: features of other sizes, not as many, or fewer than two.

    Example:
        >>> same = jnp.array([[0.0], [1.0]])
        >>> float(mmd_linear(same, same)), round(float(mmd_linear(same, same + 4.0, (1.0,))), 4)
        (0.0, 1.067)

    Source: Long, Cao, Wang and Jordan, "Learning Transferable Features with Deep Adaptation Networks", 2015; Gretton et
    al., "Optimal Kernel Choice for Large-Scale Two-Sample Tests", 2012.
    """
    both, n = _together(source, target, "mmd_linear")
    if len(both) != 2 * n:
        what = f"{n} source and {len(both) - n} target examples"
        raise InputError(what, where="mmd_linear", todo="give as many of both, or use mmd")
    scale, last = _bandwidth(both), n - n % 2
    s, t = (side[:last].reshape(-1, 2, both.shape[1]) for side in (both[:n], both[n:]))

    def kernel(a: jax.Array, b: jax.Array) -> jax.Array:
        return _summed(jnp.sum(jnp.square(a - b), axis=-1), scale, widths)

    first, second = (s[:, 0], t[:, 0]), (s[:, 1], t[:, 1])
    within = kernel(first[0], second[0]) + kernel(first[1], second[1])
    return jnp.mean(within - kernel(first[0], second[1]) - kernel(second[0], first[1]))


def jmmd(
    source: tuple[jax.Array, jax.Array], target: tuple[jax.Array, jax.Array], widths: tuple[float, ...] = WIDTHS
) -> jax.Array:
    """`mmd` of features and answers together: the kernel is k(features) · exp(−‖p − q‖² / (2 · 0.92²)).

    p and q are probabilities, softmax of the logits; gradients pass through both factors.

    Args:
        source: (features [N, D], logits [N, C]), N >= 2.
        target: (features [M, D], logits [M, C]), M >= 2.
        widths: of the kernels on features, as for `mmd`.

    Returns:
        Scalar, in float32 at least.

    Raises:
        InputError: as `mmd`, for features or logits.

    Example:
        >>> side, far = jnp.array([[0.0], [1.0]]), jnp.array([[4.0], [5.0]])
        >>> unsure = jnp.zeros((2, 3))  # answers that are all the same add nothing
        >>> float(jmmd((side, unsure), (far, unsure)) - mmd(side, far))
        0.0

    Source: Long, Zhu, Wang and Jordan, "Deep Transfer Learning with Joint Adaptation Networks", 2017.
    """
    features, n = _together(source[0], target[0], "jmmd features")
    logits, of = _together(source[1], target[1], "jmmd logits")
    if of != n or len(features) != len(logits):
        what = f"features of {n} and {len(features) - n} examples, logits of {of} and {len(logits) - of}"
        raise InputError(what, where="jmmd", todo="give both of the same examples")
    answers = jnp.exp(-_distances(jax.nn.softmax(logits)) / (2 * SIGMA**2))
    return _unbiased(_summed(_distances(features), _bandwidth(features), widths) * answers, n)


def coral(source: jax.Array, target: jax.Array) -> jax.Array:
    """‖cov(s) − cov(t)‖²_F / (4 D²), covariances ÷ (n − 1): 0 where they are equal, wherever the means are.

    Args:
        source: [N, D] features, N >= 2.
        target: [M, D] of the same network, M >= 2.

    Returns:
        Scalar >= 0, in float32 at least.

    Raises:
        InputError: features of other sizes, or fewer than two.

    Example:
        >>> side = jnp.array([[0.0], [2.0]])
        >>> float(coral(side, side + 7.0)), float(coral(side, 2 * side))
        (0.0, 9.0)

    Source: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", 2016.
    """
    both, n = _together(source, target, "coral")

    def covariance(side: jax.Array) -> jax.Array:
        centred = side - jnp.mean(side, axis=0, keepdims=True)
        return centred.T @ centred / (len(side) - 1)

    gap = covariance(both[:n]) - covariance(both[n:])
    return jnp.sum(jnp.square(gap)) / (4 * both.shape[1] ** 2)


def _together(source: jax.Array, target: jax.Array, where: str) -> tuple[jax.Array, int]:
    """(both sides one below the other, in float32 at least; how many are of the source)."""
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1] or min(len(source), len(target)) < 2:
        what = f"{list(source.shape)} and {list(target.shape)}"
        raise InputError(what, where=where, todo="give [examples, features] of one network, two of each or more")
    both = jnp.concatenate([source, target])
    return both.astype(jnp.promote_types(both.dtype, jnp.float32)), len(source)


def _distances(x: jax.Array) -> jax.Array:
    """‖x_i − x_j‖² [N, N] by one product of matrices; about the mean, which costs fewer digits."""
    x = x - jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))
    squares = jnp.sum(jnp.square(x), axis=1)
    return squares[:, None] + squares[None] - 2 * x @ x.T


def _bandwidth(x: jax.Array) -> jax.Array:
    """The mean of ‖x_i − x_j‖² over all N² pairs, which is twice the variance; 1 where all are one point."""
    mean = 2 * jnp.sum(jnp.mean(jnp.square(x - jnp.mean(x, axis=0, keepdims=True)), axis=0))
    return jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1.0))


def _summed(distances: jax.Array, scale: jax.Array, widths: tuple[float, ...]) -> jax.Array:
    """Σ_α exp(−d² / (2 α scale)), of distances of any shape."""
    kernels = [jnp.exp(-distances / (2 * alpha * scale)) for alpha in widths]
    return sum(kernels[1:], start=kernels[0])


def _unbiased(kernel: jax.Array, n: int) -> jax.Array:
    """MMD² of the first n examples and the others, by their kernel [N, N]."""

    def within(block: jax.Array) -> jax.Array:
        return (jnp.sum(block) - jnp.trace(block)) / (len(block) * (len(block) - 1))

    return within(kernel[:n, :n]) + within(kernel[n:, n:]) - 2 * jnp.mean(kernel[:n, n:])
