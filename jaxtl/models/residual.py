"""Residual networks as trunks of a `Classifier`: Wide ResNet and ResNet-18 for small images, and those of ImageNet.

Parameter counts with a head for 10 classes are those published with batch normalisation, which has a scale and a shift
for every channel as group normalisation does: its running averages are no parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError
from jaxtl.models.layers import Convolution, Pointwise, at_least_float32, max_pool_of_three, normalised


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


class Bottleneck(nn.Module):
    """A 3×3 convolution on a quarter of the channels, between two of 1×1, beside a shortcut as in `Block`.

    Attributes:
        channels: of the output.
        stride: of the 3×3 convolution, as torchvision has it; the paper has it in the one before.
        normalisation, dtype: as for `Cnn`, "none" excepted.
    """

    channels: int
    stride: int
    normalisation: str
    dtype: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> [B, ⌈H / stride⌉, ⌈W / stride⌉, channels]."""

        def normal(x, name):
            return normalised(x, self.normalisation, train, name, self.dtype)

        inner = nn.relu(normal(Pointwise(self.channels // 4, self.dtype, name="conv_0")(x), "norm_0"))
        inner = Convolution(self.channels // 4, 3, self.stride, dtype=self.dtype, name="conv_1")(inner)
        inner = Pointwise(self.channels, self.dtype, name="conv_2")(nn.relu(normal(inner, "norm_1")))
        if self.stride != 1 or x.shape[-1] != self.channels:
            x = Convolution(self.channels, 1, self.stride, dtype=self.dtype, name="shortcut")(x)
            x = normal(x, "shortcut_norm")
        return nn.relu(normal(inner, "norm_2") + x)


class ResidualNetwork(nn.Module):
    """A 3×3 convolution, stages of `Block`s, and a spatial mean; every stage after the first halves height and width.

    Attributes:
        stem: channels of the first convolution.
        widths: channels of each stage.
        blocks: in each stage.
        normalise_first: see `Block`.
        normalisation, dtype: as for `Cnn`.
        bottleneck: of `Bottleneck`s instead.
        large: the first convolution is one of 7×7 and stride 2, and pooled.
        start, stop: only the stages from `start` to before `stop`, see `classifiers.cut`.
    """

    stem: int
    widths: Sequence[int]
    blocks: int | Sequence[int]
    normalise_first: bool
    normalisation: str = "group"
    dtype: str | None = None
    bottleneck: bool = False
    large: bool = False
    start: int = 0
    stop: int | None = None

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"stage_{i}" for i in range(len(self.widths)))

    def _block(self, width: int, stride: int, name: str) -> nn.Module:
        if self.bottleneck:
            return Bottleneck(width, stride, self.normalisation, self.dtype, name=name)
        return Block(width, stride, self.normalise_first, self.normalisation, self.dtype, name=name)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (features [B, widths[-1]], taps: the output of every stage)."""
        bare, taps = self.normalisation == "none", {}

        def active(x):
            return nn.relu(normalised(x, self.normalisation, train, "norm", self.dtype))

        x = images
        if not self.start:
            edge, stride = (7, 2) if self.large else (3, 1)
            x = Convolution(self.stem, edge, stride, bare, self.dtype, name="stem")(x)
            x = x if self.normalise_first else active(x)
            x = max_pool_of_three(x) if self.large else x
        blocks = [self.blocks] * len(self.widths) if isinstance(self.blocks, int) else self.blocks
        for i, width in list(enumerate(self.widths))[self.start : self.stop]:
            for j in range(blocks[i]):
                x = self._block(width, 2 if i > 0 and j == 0 else 1, f"stage_{i}_block_{j}")(x, train)
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


IMAGENET = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}  # blocks; of three layers


def imagenet_resnet(depth: int, dtype: str | None = None) -> ResidualNetwork:
    """ResNet-18, -34 or -50 in its form for ImageNet: 11.7, 21.8 and 25.6 million parameters with 1,000 classes.

    Args:
        depth: 18, 34 or 50.
        dtype: as for `wide_resnet`.

    Raises:
        InputError: another depth.

    Example:
        >>> imagenet_resnet(50).widths
        (256, 512, 1024, 2048)
    """
    if depth not in IMAGENET:
        raise InputError(f"there is none of depth {depth}", where="imagenet_resnet", todo="use 18, 34 or 50")
    blocks, bottleneck = IMAGENET[depth]
    widths = (256, 512, 1024, 2048) if bottleneck else (64, 128, 256, 512)
    return ResidualNetwork(64, widths, blocks, False, "batch", dtype, bottleneck, large=True)
