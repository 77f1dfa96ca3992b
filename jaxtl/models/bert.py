"""BERT as a sentence encoder, the trunk of a `Classifier` of texts: MiniLM-L6 with 22.6 million parameters.

Devlin and others, BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2019; Wang and
others, MiniLM: Deep Self-Attention Distillation, 2020; Reimers and Gurevych, Sentence-BERT, 2019.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.models.layers import at_least_float32
from jaxtl.models.transformers import attended

EPSILON = 1e-12  # of its normalisation


class PostNormBlock(nn.Module):
    """Attention, then two dense layers; what each gives is added to what it took, and the sum is normalised.

    Attributes:
        heads: they share the width equally.
        dtype: as for `Cnn`.
    """

    heads: int
    dtype: str | None

    @nn.compact
    def __call__(self, x: jax.Array, seen: jax.Array) -> jax.Array:
        """x [B, N, D], seen [B, N] bool: where there is a token -> [B, N, D]."""

        def dense(x, units, name):
            return nn.Dense(units, dtype=self.dtype, name=name)(x)

        width = x.shape[-1]
        queries, keys, values = (dense(x, width, name) for name in ("query", "key", "value"))
        mixed = dense(attended(queries, keys, values, self.heads, seen), width, "proj")
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm_0")(x + mixed)
        inner = nn.gelu(dense(x, 4 * width, "dense_0"), approximate=False)
        return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm_1")(x + dense(inner, width, "dense_1"))


class SentenceEncoder(nn.Module):
    """Tokens to a vector of length 1: the mean of what the last block gives, over all tokens that there are.

    A row longer than `window` is several windows, which do not see each other; their places begin anew, and the mean is
    over the tokens of all of them. What a block hands to the next has one channel more, 1 where there is a token and 0
    elsewhere, so that a model can be cut anywhere.

    Attributes:
        width: of a token, `heads` of the attention.
        depth: blocks, each of which is a stage.
        words: of the vocabulary; number 0 is no token.
        places: that it knows, at least `window`.
        window: tokens that see each other, at most.
        dtype: as for `Cnn`.
        start, stop: only the blocks from `start` to before `stop`, see `classifiers.cut`.
    """

    width: int
    depth: int
    heads: int
    words: int
    places: int = 512
    window: int = 128
    dtype: str | None = None
    start: int = 0
    stop: int | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Of what each block gives to the next."""
        return (self.width,) * self.depth

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"block_{i}" for i in range(self.depth))

    def example(self, size: int) -> jax.ShapeDtypeStruct:
        """A batch of one, of `size` tokens."""
        return jax.ShapeDtypeStruct((1, size), jnp.int32)

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """tokens [B, T] -> (features [B, width], taps: the output of every block [B, T, width + 1]).

        Args:
            tokens: whole numbers, which float32 holds exactly; 0 behind the last one of a window. T is at most
                `window`, or a multiple of it.
            train: nothing is dropped, so it means nothing.

        Raises:
            InputError: another number of tokens.
        """
        batch, length = tokens.shape[:2]
        if length > self.window and length % self.window:
            what = f"{length} tokens are no whole number of windows of {self.window}"
            raise InputError(what, where="SentenceEncoder", todo="fill them up with 0")
        windows = tokens.reshape(-1, min(length, self.window), *tokens.shape[2:])
        x, seen = (windows[..., :-1], windows[..., -1] > 0) if self.start else self._embedded(windows)
        taps = {}
        for i in range(self.depth)[self.start : self.stop]:
            x = PostNormBlock(self.heads, self.dtype, name=f"block_{i}")(x, seen)
            marked = jnp.concatenate([at_least_float32(x), at_least_float32(seen[..., None])], axis=-1)
            taps[f"block_{i}"] = marked.reshape(batch, length, self.width + 1)
        if self.stop is not None:
            return taps[f"block_{self.stop - 1}"], taps
        return _direction(taps[f"block_{self.depth - 1}"]), taps

    def _embedded(self, windows: jax.Array) -> tuple[jax.Array, jax.Array]:
        def embedded(number: int, name: str, which: jax.Array) -> jax.Array:
            return nn.Embed(number, self.width, dtype=self.dtype, name=name)(which)

        which = windows.astype(jnp.int32)
        x = embedded(self.words, "words", which) + embedded(self.places, "places", jnp.arange(which.shape[1])[None])
        x = x + embedded(2, "kinds", jnp.zeros((1, 1), jnp.int32))  # of a text by itself, not of two that are compared
        return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x), which > 0


def _direction(marked: jax.Array) -> jax.Array:
    """[B, T, D + 1] -> [B, D] of length 1; 0 of a row without any token, where a norm has no gradient."""
    x, seen = marked[..., :-1], marked[..., -1:]
    mean = jnp.sum(x * seen, axis=1) / jnp.maximum(jnp.sum(seen, axis=1), 1)
    return mean * jax.lax.rsqrt(jnp.maximum(jnp.sum(mean * mean, axis=-1, keepdims=True), EPSILON**2))


def minilm_l6(window: int = 128, dtype: str | None = None) -> SentenceEncoder:
    """all-MiniLM-L6: six blocks of width 384 and 12 heads, 30,522 words.

    Args:
        window: tokens that see each other; it was trained with 128, and takes 512 at most.
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32.

    Example:
        >>> minilm_l6().widths
        (384, 384, 384, 384, 384, 384)
    """
    return SentenceEncoder(384, 6, 12, 30_522, window=window, dtype=dtype)
