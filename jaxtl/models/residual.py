"""Residual networks for small images, as trunks of a `Classifier`: Wide ResNet and ResNet-18.

Parameter counts with a head for 10 classes are those published with batch normalisation, which has a scale and a shift
for every channel as group normalisation does: its running averages are no parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.models.layers import Convolution, at_least_float32, normalised


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes.

    Attributes:
        channels: of the output.
        stride: of the first convolution.
        normalise_first: normalisation and ReLU stand before each convolution (He and others, Identity Mappings in Deep
            Residual Networks, 2016), and a changing shortcut comes after the first ReLU; otherwise they stand behind.
        normalisation, dtype: as for `Cnn`.
    """

    channels: int
    stride: int
    normalise_first: bool
    normalisation: str
    dtype: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ⌈H / stride⌉, ⌈W / stride⌉, channels]."""

        def normal(x, name):
            return normalised(x, self.normalisation, train, name, self.dtype)

        def convolved(x, name, edge=3, stride=1):
            return Convolution(self.channels, edge, stride, self.normalisation == "none", self.dtype, name=name)(x)

        changes = self.stride != 1 or x.shape[-1] != self.channels
        if self.normalise_first:
            active = nn.relu(normal(x, "norm_0"))
            inner = convolved(active, "conv_0", stride=self.stride)
            inner = convolved(nn.relu(normal(inner, "norm_1")), "conv_1")
            return inner + (convolved(active, "shortcut", 1, self.stride) if changes else x)
        inner = nn.relu(normal(convolved(x, "conv_0", stride=self.stride), "norm_0"))
        inner = normal(convolved(inner, "conv_1"), "norm_1")
        if changes:
            x = normal(convolved(x, "shortcut", 1, self.stride), "shortcut_norm")
        return nn.relu(inner + x)


class ResidualNetwork(nn.Module):
    """A 3×3 convolution, stages of `Block`s, and a spatial mean; every stage after the first halves height and width.

    Attributes:
        stem: channels of the first convolution.
        widths: channels of each stage.
        blocks: in each stage.
        normalise_first: see `Block`.
        normalisation, dtype: as for `Cnn`.
        start, stop: only the stages from `start` to before `stop`, see `classifiers.cut`.
    """

    stem: int
    widths: Sequence[int]
    blocks: int
    normalise_first: bool
    normalisation: str = "group"
    dtype: str | None = None
    start: int = 0
    stop: int | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (features [B, widths[-1]], taps: the output of every stage)."""
        bare, taps = self.normalisation == "none", {}

        def active(x):
            return nn.relu(normalised(x, self.normalisation, train, "norm", self.dtype))

        x = images
        if not self.start:
            x = Convolution(self.stem, use_bias=bare, dtype=self.dtype, name="stem")(x)
            x = x if self.normalise_first else active(x)
        for i, width in list(enumerate(self.widths))[self.start : self.stop]:
            for j in range(self.blocks):
                stride, name = 2 if i > 0 and j == 0 else 1, f"stage_{i}_block_{j}"
                x = Block(width, stride, self.normalise_first, self.normalisation, self.dtype, name=name)(x, train)
            taps[f"stage_{i}"] = at_least_float32(x)
        if self.stop is not None:
            return at_least_float32(x), taps
        x = active(x) if self.normalise_first else x
        return jnp.mean(at_least_float32(x), axis=(1, 2)), taps


def wide_resnet(
    depth: int = 16, width: int = 4, normalisation: str = "group", dtype: str | None = None
) -> ResidualNetwork:
    """WRN-depth-width: 16, 32 and 64 channels, times `width`; 2,748,890 parameters with 10 classes for WRN-16-4.

    Zagoruyko and Komodakis, Wide Residual Networks, 2016; without dropout.

    Args:
        depth: number of convolutions in it, 6n + 4.
        width: factor on the channels.
        normalisation: "group", "batch", or "none", see `layers.normalised`.
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32.

    Raises:
        InputError: another depth, or a width below 1.

    Example:
        >>> wide_resnet(16, 4).widths
        (64, 128, 256)
    """
    if depth < 10 or depth % 6 != 4:
        raise InputError(f"depth {depth} is not 6n + 4", where="wide_resnet", todo="use 10, 16, 22, 28, 40, …")
    if width < 1:
        raise InputError(f"width {width} is less than 1", where="wide_resnet")
    return ResidualNetwork(16, (16 * width, 32 * width, 64 * width), (depth - 4) // 6, True, normalisation, dtype)


def resnet18(normalisation: str = "group", dtype: str | None = None) -> ResidualNetwork:
    """ResNet-18 in its form for CIFAR, without the pooling at the start: 11,173,962 parameters with 10 classes.

    He and others, Deep Residual Learning for Image Recognition, 2016.

    Args:
        normalisation, dtype: as for `wide_resnet`.

    Example:
        >>> resnet18().widths
        (64, 128, 256, 512)
    """
    return ResidualNetwork(64, (64, 128, 256, 512), 2, False, normalisation, dtype)
