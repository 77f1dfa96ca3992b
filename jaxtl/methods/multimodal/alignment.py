"""What two modalities pay for features of one pair that lie apart: CLIP, SigLIP, cosine, CCA, squared distance.

Both are [B, D] of one space, row by row a pair. All are in float32 at least.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

LEAST = 1e-30  # of a square that is divided by
LARGEST_SCALE = 100.0  # of CLIP's logits
START = math.log(1 / 0.07)  # of their logarithm, where training begins
SIGLIP_START = (math.log(10.0), -10.0)  # of log t and b


def clip_loss(a: jax.Array, b: jax.Array, scale: jax.Array | float, positives: jax.Array | None = None) -> jax.Array:
    """½ (CE(t·â b̂ᵀ) + CE(t·b̂ âᵀ)): each of a pair finds the other among all of the batch.

    Args:
        a, b: [B, D].
        scale: t, see `clip_scale`.
        positives: [B, B] symmetric, 1 where i and j belong together, such as examples of one class: each of them is as
            right an answer. Only a pair itself when left out.

    Returns:
        Scalar.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> a, b = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.array([[0.8, 0.6], [0.0, 1.0]])
        >>> round(float(clip_loss(a, b, 10.0)), 6)
        0.892118

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021; with
    `positives` Yang et al., "Unified Contrastive Learning in Image-Text-Label Space", 2022.
    """
    a, b = _pairs(a, b, "clip_loss")
    logits = scale * _unit(a) @ _unit(b).T
    right = jnp.eye(len(a)) if positives is None else jnp.asarray(positives, jnp.float32)
    if right.shape != (len(a), len(a)):
        what = f"positives {list(right.shape)} for {len(a)} pairs"
        raise InputError(what, where="clip_loss", todo="give [B, B]")

    def found(logits: jax.Array, right: jax.Array) -> jax.Array:
        shares = right / jnp.sum(right, axis=1, keepdims=True)
        return -jnp.mean(jnp.sum(shares * jax.nn.log_softmax(logits, axis=1), axis=1))

    return 0.5 * (found(logits, right) + found(logits.T, right.T))


def clip_scale(log_scale: jax.Array) -> jax.Array:
    """e^s, with s held between 0 and ln 100: the learned scale of CLIP, from s = `START` on.

    Example:
        >>> [round(float(clip_scale(jnp.float32(s))), 2) for s in (-1.0, START, 9.0)]
        [1.0, 14.29, 100.0]

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021.
    """
    return jnp.exp(jnp.clip(log_scale, 0.0, math.log(LARGEST_SCALE)))


def siglip_loss(a: jax.Array, b: jax.Array, scale: jax.Array | float, bias: jax.Array | float) -> jax.Array:
    """1/B Σ_ij log(1 + e^{−z_ij (t·s_ij + b)}): is it a pair, asked of each of the B² (z = 1), or not (−1)?

    Args:
        a, b: [B, D].
        scale, bias: t and b, learned from 10 and −10 on: most of the B² are no pairs.

    Returns:
        Scalar.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> a, b = jnp.array([[1.0, 0.0], [0.6, 0.8]]), jnp.array([[0.8, 0.6], [0.0, 1.0]])
        >>> round(float(siglip_loss(a, b, 10.0, -10.0)), 4)
        2.3835

    Source: Zhai, Mustafa, Kolesnikov and Beyer, "Sigmoid Loss for Language Image Pre-Training", 2023.
    """
    a, b = _pairs(a, b, "siglip_loss")
    z = 2 * jnp.eye(len(a)) - 1
    return jnp.sum(jax.nn.softplus(-z * (scale * _unit(a) @ _unit(b).T + bias))) / len(a)


def cosine_loss(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean of 1 − cos(a_i, b_i): 0 where both of each pair point the same way.

    Args:
        a, b: [B, D].

    Returns:
        Scalar.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> round(float(cosine_loss(jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 4.0]]))), 6)
        0.4
    """
    a, b = _pairs(a, b, "cosine_loss")
    return jnp.mean(1 - jnp.sum(_unit(a) * _unit(b), axis=1))


def mse_loss(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean of ½ ‖a_i − b_i‖² over the pairs.

    Args:
        a, b: [B, D].

    Returns:
        Scalar.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> float(mse_loss(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 2.0]])))
        2.0
    """
    a, b = _pairs(a, b, "mse_loss")
    return 0.5 * jnp.mean(jnp.sum(jnp.square(a - b), axis=1))


def cca_loss(a: jax.Array, b: jax.Array, ridge: float = 1e-3) -> jax.Array:
    """1 − mean ρ_k²: one less the mean squared canonical correlation, ‖Q_aᵀ Q_b‖² / D of orthonormal columns.

    It does not change under linear maps of either side, but for the ridge. Of fewer than 2 D pairs correlations are
    always high and say nothing. Columns are made orthogonal one by one: factorisations of LAPACK for many models side
    by side may wait for each other for ever (jaxlib 0.10 on a CPU).

    Args:
        a, b: [B, D], B >= 2.
        ridge: added to the diagonal of both Gram matrices, as a share of its mean.

    Returns:
        Scalar from 0 to 1; its gradient is finite where correlations are equal, and where all of a side is one point.

    Raises:
        InputError: shapes that do not fit.

    Example:
        >>> a = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> round(float(cca_loss(a, 3 * a[:, ::-1], ridge=0.0)), 5)
        0.0

    Source: Hotelling, "Relations Between Two Sets of Variates", 1936; as a loss of networks Andrew, Arora, Bilmes and
    Livescu, "Deep Canonical Correlation Analysis", 2013 (there Σ ρ_k).
    """
    a, b = _pairs(a, b, "cca_loss")
    if len(a) < 2:
        raise InputError(f"{len(a)} pair", where="cca_loss", todo="give two or more")
    return 1 - jnp.sum(jnp.square(_orthonormal(a, ridge).T @ _orthonormal(b, ridge))) / a.shape[1]


def _orthonormal(side: jax.Array, ridge: float) -> jax.Array:
    """[B, D] centred columns, orthonormal by Gram and Schmidt with √(ridge · mean) times the identity below."""
    centred = side - jnp.mean(side, axis=0, keepdims=True)
    size = jnp.sum(jnp.square(centred)) / centred.shape[1]
    below = jnp.where(size > 0, ridge * size, 1.0)  # where there is no spread 1: something to divide 0 by
    rows = jnp.concatenate([centred, jnp.sqrt(below) * jnp.eye(centred.shape[1])])

    def further(basis: jax.Array, numbered: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        k, column = numbered
        for _ in range(2):  # once more for what rounding has left
            column = column - (basis @ column) @ basis
        unit = column * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(column)), LEAST))
        return basis.at[k].set(unit), None

    numbered = jnp.arange(rows.shape[1]), rows.T
    return jax.lax.scan(further, jnp.zeros_like(rows.T), numbered)[0].T[: len(side)]


def _pairs(a: jax.Array, b: jax.Array, where: str) -> tuple[jax.Array, jax.Array]:
    if a.ndim != 2 or a.shape != b.shape or not len(a):
        raise InputError(
            f"{list(a.shape)} and {list(b.shape)}", where=where, todo="give [B, D] of both: pairs, row by row"
        )
    wide = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return a.astype(wide), b.astype(wide)


def _unit(x: jax.Array) -> jax.Array:
    """Rows of length 1; one that is 0 stays, with a finite gradient."""
    squares = jnp.sum(jnp.square(x), axis=1, keepdims=True)
    somewhere = squares > 0
    return x * jnp.where(somewhere, jax.lax.rsqrt(jnp.where(somewhere, squares, 1.0)), 0.0)
