"""Vision transformers as trunks of a `Classifier`, in the form that timm publishes weights for.

Dosovitskiy and others, An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, 2021.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.models.layers import Patches, at_least_float32


def attended(
    queries: jax.Array, keys: jax.Array, values: jax.Array, heads: int, seen: jax.Array | None = None
) -> jax.Array:
    """softmax(q·kᵀ / √(D / heads)) · v of each head, beside each other.

    Args:
        queries, keys, values: [B, N, D].
        heads: they share the width equally.
        seen: [B, N] bool, which of them are looked at; None: all.

    Returns:
        [B, N, D].

    Source: Vaswani and others, Attention Is All You Need, 2017.
    """
    batch, tokens, width = queries.shape
    queries, keys, values = (x.reshape(batch, tokens, heads, -1) for x in (queries, keys, values))
    mask = None if seen is None else seen[:, None, None, :]
    return jax.nn.dot_product_attention(queries, keys, values, mask=mask).reshape(batch, tokens, width)


class TransformerBlock(nn.Module):
    """Attention, then two dense layers, each on what is normalised, beside what is not.

    Attributes:
        heads: they share the width equally.
        dtype: as for `Cnn`.
    """

    heads: int
    dtype: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, N, D] -> the same."""

        def dense(x, units, name):
            return nn.Dense(units, dtype=self.dtype, name=name)(x)

        def normal(x, name):
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)

        width = x.shape[-1]
        queries, keys, values = jnp.split(dense(normal(x, "norm_0"), 3 * width, "qkv"), 3, axis=-1)
        x = x + dense(attended(queries, keys, values, self.heads), width, "proj")
        inner = nn.gelu(dense(normal(x, "norm_1"), 4 * width, "dense_0"), approximate=False)
        return x + dense(inner, width, "dense_1")


class VisionTransformer(nn.Module):
    """Patches as tokens with learned places, beside one token of its own, whose output is the features.

    Attributes:
        width: of a token.
        depth: blocks, each of which is a stage.
        heads: of the attention.
        patch: edge in pixels.
        size: edge of the images, in pixels: the places are for this one.
        dtype: as for `Cnn`.
        start, stop: only the blocks from `start` to before `stop`, see `classifiers.cut`.
    """

    width: int
    depth: int
    heads: int
    patch: int
    size: int
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

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, size, size, C] float32 -> (features [B, width], taps: the output of every block [B, N, width]).

        Raises:
            InputError: images of another size.
        """
        x = images if self.start else self._tokens(images)
        taps = {}
        for i in range(self.depth)[self.start : self.stop]:
            x = TransformerBlock(self.heads, self.dtype, name=f"block_{i}")(x)
            taps[f"block_{i}"] = at_least_float32(x)
        if self.stop is not None:
            return at_least_float32(x), taps
        return nn.LayerNorm(epsilon=1e-6, name="norm")(at_least_float32(x[:, 0])), taps

    def _tokens(self, images: jax.Array) -> jax.Array:
        if images.shape[1:3] != (self.size, self.size):
            what = f"images of {images.shape[1]}×{images.shape[2]} pixels, and places for {self.size}×{self.size}"
            raise InputError(what, where="VisionTransformer", todo="resize the images")
        x = Patches(self.width, self.patch, self.dtype, name="patches")(images)
        x = x.reshape(len(x), -1, self.width)
        own = self.param("token", nn.initializers.normal(1e-6), (1, 1, self.width))
        places = self.param("places", nn.initializers.normal(0.02), (1, 1 + x.shape[1], self.width))
        own, places = own.astype(x.dtype), places.astype(x.dtype)
        return jnp.concatenate([jnp.broadcast_to(own, (len(x), 1, self.width)), x], axis=1) + places


def vision_transformer(kind: str, size: int = 224, dtype: str | None = None) -> VisionTransformer:
    """ViT-S/16 or ViT-B/16: 22.1 and 86.6 million parameters with 1,000 classes.

    Args:
        kind: "s" or "b".
        size: edge of the images in pixels, a multiple of 16.
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32.

    Raises:
        InputError: another kind.

    Example:
        >>> vision_transformer("s").widths[-1]
        384
    """
    widths = {"s": (384, 6), "b": (768, 12)}
    if kind not in widths:
        raise InputError(f"'{kind}' is none", where="vision_transformer", todo="use 's' or 'b'")
    width, heads = widths[kind]
    return VisionTransformer(width, 12, heads, 16, size, dtype)
