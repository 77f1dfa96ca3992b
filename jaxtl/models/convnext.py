"""ConvNeXt as a trunk of a `Classifier`, in the form that timm publishes weights for.

Liu and others, A ConvNet for the 2020s, 2022. Blocks are not dropped at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers import Depthwise, Patches, at_least_float32


class ConvNextBlock(nn.Module):
    """A 7×7 convolution of each channel, then two dense layers, scaled by channel; beside it the input.

    Attributes:
        dtype: as for `Cnn`.
    """

    dtype: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same."""
        channels = x.shape[-1]
        inner = Depthwise(7, use_bias=True, dtype=self.dtype, name="depthwise")(x)
        inner = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(inner)
        inner = nn.Dense(4 * channels, dtype=self.dtype, name="dense_0")(inner)
        inner = nn.Dense(channels, dtype=self.dtype, name="dense_1")(nn.gelu(inner, approximate=False))
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (channels,))
        return x + inner * gamma.astype(inner.dtype).reshape(1, 1, 1, -1)


class ConvNext(nn.Module):
    """Patches of 4×4 pixels, stages of `ConvNextBlock`s between which height and width halve, and a spatial mean.

    Attributes:
        widths: channels of each stage.
        blocks: in each stage.
        dtype: as for `Cnn`.
        start, stop: only the stages from `start` to before `stop`, see `classifiers.cut`.
    """

    widths: Sequence[int]
    blocks: Sequence[int]
    dtype: str | None = None
    start: int = 0
    stop: int | None = None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"stage_{i}" for i in range(len(self.widths)))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (features [B, widths[-1]], taps: the output of every stage)."""

        def normal(x, name):
            return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)(x)

        x, taps = images, {}
        for i, width in list(enumerate(self.widths))[self.start : self.stop]:
            if i:
                x = Patches(width, 2, self.dtype, name=f"down_{i}")(normal(x, f"down_norm_{i}"))
            else:
                x = normal(Patches(width, 4, self.dtype, name="stem")(x), "stem_norm")
            for j in range(self.blocks[i]):
                x = ConvNextBlock(self.dtype, name=f"stage_{i}_block_{j}")(x)
            taps[f"stage_{i}"] = at_least_float32(x)
        if self.stop is not None:
            return at_least_float32(x), taps
        return nn.LayerNorm(epsilon=1e-6, name="norm")(jnp.mean(at_least_float32(x), axis=(1, 2))), taps


def convnext_tiny(dtype: str | None = None) -> ConvNext:
    """ConvNeXt-T: 28.6 million parameters with 1,000 classes.

    Args:
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32.

    Example:
        >>> convnext_tiny().widths
        (96, 192, 384, 768)
    """
    return ConvNext((96, 192, 384, 768), (3, 3, 9, 3), dtype)
