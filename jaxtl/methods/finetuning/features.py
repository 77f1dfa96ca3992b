"""What inner outputs of a network pay: for leaving those of the source model, for directions that carry nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxtl.errors import InputError

SOFTNESS = 5.0  # of the attention: standard deviations that make a factor e


def delta(
    taps: Mapping[str, jax.Array],
    source_taps: Mapping[str, jax.Array],
    attention: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    """½ Σ_layers Σ_c a_c·C·‖FM_c − FM⁰_c‖² / (HW) per example: inner outputs stay near the source's on the same image.

    Without attention a_c = 1/C. The published code sums over the batch, and divides by HW with attention only, so that
    one rate means several things; here it is always the same.

    Args:
        taps: [B, ..., C] of each layer, whatever lies between; at least float32.
        source_taps: of the source model, the same names and shapes.
        attention: {layer: a [C]}, Σ_c a_c = 1, as `channel_attention` gives it.

    Returns:
        [B].

    Raises:
        InputError: other layers, or other shapes.

    Example:
        >>> taps, source = {"conv_0": jnp.ones((2, 4, 4, 3))}, {"conv_0": jnp.zeros((2, 4, 4, 3))}
        >>> delta(taps, source).tolist()
        [1.5, 1.5]

    Source: Li et al., "DELTA: Deep Learning Transfer Using Feature Map with Attention for Convolutional Networks",
    2019.
    """
    if taps.keys() != source_taps.keys():
        what = f"{', '.join(taps)} beside {', '.join(source_taps)}"
        raise InputError(what, where="delta", todo="give the taps of two models of one structure")

    def layer(name: str) -> jax.Array:
        ours, theirs = taps[name], source_taps[name]
        if ours.shape != theirs.shape:
            raise InputError(f"shapes {ours.shape} and {theirs.shape} differ", where=f"delta, '{name}'")
        channels = ours.shape[-1]
        by_channel = jnp.mean(jnp.square(ours - theirs).reshape(len(ours), -1, channels), axis=1)
        return by_channel.sum(axis=-1) if attention is None else channels * (by_channel @ attention[name])

    return 0.5 * sum((layer(name) for name in taps), start=jnp.zeros(()))


def channel_attention(without: jax.Array, whole: jax.Array | float) -> jax.Array:
    """a = softmax(z-score(loss without channel c − loss) / 5) [C]: channels count by what the target task misses.

    Args:
        without: [C] the target's loss under a head on source features, with one channel at 0.
        whole: the same with all of them.

    Example:
        >>> [round(float(a), 3) for a in channel_attention(jnp.array([1.0, 3.0]), 0.5)]
        [0.401, 0.599]
    """
    lost = without - whole
    spread = jnp.std(lost)
    return jax.nn.softmax((lost - jnp.mean(lost)) / (SOFTNESS * jnp.where(spread > 0, spread, 1.0)))


def losses_without(loss: Callable[[jax.Array], jax.Array], values: jax.Array) -> jax.Array:
    """[C]: loss(values [..., C]) with each channel at 0 in turn."""
    channels = values.shape[-1]
    return jax.lax.map(lambda c: loss(jnp.where(jnp.arange(channels) == c, 0.0, values)), jnp.arange(channels))


def batch_spectral_shrinkage(features: jax.Array, smallest: int = 1) -> jax.Array:
    """Σ of the `smallest` squared singular values of a batch of features, which carry no knowledge of the source.

    By the eigenvalues of the smaller Gram matrix: the gradient of a singular value decomposition is not finite where
    two of them are equal. Features are not centred, as in the paper.

    Args:
        features: [B, D].
        smallest: how many, 1 to min(B, D).

    Returns:
        Scalar, in float32 at least.

    Raises:
        InputError: more than there are, or fewer than one.

    Example:
        >>> float(batch_spectral_shrinkage(jnp.diag(jnp.array([3.0, 2.0, 1.0])), 2))
        5.0

    Source: Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
    Learning", 2019.
    """
    batch, width = features.shape
    if not 1 <= smallest <= min(batch, width):
        what = f"{smallest} singular values of {batch} examples with {width} features"
        raise InputError(what, where="batch_spectral_shrinkage", todo=f"use 1 to {min(batch, width)}")
    values = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    gram = values @ values.T if batch <= width else values.T @ values
    return jnp.sum(jnp.linalg.eigvalsh(gram)[:smallest])
