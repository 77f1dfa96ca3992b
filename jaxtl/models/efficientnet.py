"""EfficientNet-Lite0 as the trunk of a `Classifier`: 3,371,008 parameters below its head.

Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019, in the form without squeeze
and excitation and with ReLU6 that its authors published for small devices in 2020. Blocks are not dropped at random.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers import Convolution, Depthwise, Pointwise, at_least_float32, normalised

EPSILON = 1e-3  # of its normalisation; 1e-5 moves what comes out by a few per cent


class Stage(NamedTuple):
    """Blocks of one width; the first of them takes the stride."""

    blocks: int
    edge: int
    stride: int
    expansion: int
    width: int


LITE0 = (
    *(Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80)),
    *(Stage(3, 5, 1, 6, 112), Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320)),
)


class InvertedBlock(nn.Module):
    """More channels, a convolution of each by itself, and fewer again without ReLU; beside it the input if it fits.

    Attributes:
        edge, stride: of the convolution by channel.
        expansion: times as many channels within.
        width: channels of the output.
        dtype: as for `Cnn`.
    """

    edge: int
    stride: int
    expansion: int
    width: int
    dtype: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ⌈H / stride⌉, ⌈W / stride⌉, width]."""

        def normal(x, name):
            return normalised(x, "batch", train, name, self.dtype, EPSILON)

        channels, inner = x.shape[-1], x
        if self.expansion > 1:
            inner = Pointwise(channels * self.expansion, self.dtype, name="expand")(inner)
            inner = nn.relu6(normal(inner, "expand_norm"))
        inner = Depthwise(self.edge, self.stride, dtype=self.dtype, name="depthwise")(inner)
        inner = nn.relu6(normal(inner, "depthwise_norm"))
        inner = normal(Pointwise(self.width, self.dtype, name="project")(inner), "project_norm")
        return inner + x if self.stride == 1 and channels == self.width else inner


class EfficientNetLite(nn.Module):
    """A 3×3 convolution of stride 2, stages of `InvertedBlock`s, a 1×1 convolution and a spatial mean.

    Attributes:
        stages: see `Stage`; what is above them is one stage more, "top".
        stem, top: channels of the first and of the last convolution.
        dtype: as for `Cnn`.
        start, stop: only the stages from `start` to before `stop`, see `classifiers.cut`.
    """

    stages: tuple[Stage, ...] = LITE0
    stem: int = 32
    top: int = 1280
    dtype: str | None = None
    start: int = 0
    stop: int | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each stage gives to the next."""
        return (*(stage.width for stage in self.stages), self.top)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return (*(f"stage_{i}" for i in range(len(self.stages))), "top")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (features [B, top], taps: the output of every stage)."""

        def active(x, name):
            return nn.relu6(normalised(x, "batch", train, name, self.dtype, EPSILON))

        x, taps = images, {}
        if not self.start:
            x = Convolution(self.stem, 3, 2, dtype=self.dtype, same=True, name="stem")(x)
            x = active(x, "stem_norm")
        for i, stage in list(enumerate(self.stages))[self.start : self.stop]:
            for j in range(stage.blocks):
                shape = (stage.edge, 1 if j else stage.stride, stage.expansion, stage.width)
                x = InvertedBlock(*shape, self.dtype, name=f"stage_{i}_block_{j}")(x, train)
            taps[f"stage_{i}"] = at_least_float32(x)
        if self.stop is not None and self.stop <= len(self.stages):
            return at_least_float32(x), taps
        x = active(Pointwise(self.top, self.dtype, name="top")(x), "top_norm")
        taps["top"] = at_least_float32(x)
        return jnp.mean(taps["top"], axis=(1, 2)), taps


def efficientnet_lite0(dtype: str | None = None) -> EfficientNetLite:
    """EfficientNet-Lite0, for images of (x − 127) / 128.

    Args:
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32.

    Example:
        >>> efficientnet_lite0().widths
        (16, 24, 40, 80, 112, 192, 320, 1280)
    """
    return EfficientNetLite(dtype=dtype)
