"""Layers: convolution, normalisation, and pooling whose plain form is slow on a CPU."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, suggest
from jaxtl.models.convolution import convolve, same_padding
from jaxtl.models.depthwise import convolve_by_channel

NORMALISATIONS = ("group", "batch", "stochastic", "none")
HELD = 0.5  # of the channels of "stochastic" normalisation take running averages
MOMENTUM = 0.9  # of running averages: over some tens of steps, since fine-tuning has few


class Convolution(nn.Module):
    """`convolution.convolve` with a kernel of its own, called and initialised as `flax.linen.Conv` does.

    Attributes:
        channels: D, of the output.
        edge: of the kernel, odd.
        stride: in pixels.
        use_bias: add a number for each channel.
        dtype: to compute in; None is that of the parameters, float32.
        same: pad as TensorFlow does (`convolution.same_padding`), and not by half of the kernel on all sides: where a
            stride divides an even edge it sees other pixels.
    """

    channels: int
    edge: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: str | None = None
    same: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ⌈H / stride⌉, ⌈W / stride⌉, D]."""
        shape = (self.edge, self.edge, images.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,)) if self.use_bias else None
        images, kernel, bias = nn.dtypes.promote_dtype(images, kernel, bias, dtype=self.dtype)
        padding = same_padding(images.shape[1:3], kernel.shape[:2], self.stride) if self.same else None
        out = convolve(images, kernel, self.stride, padding)
        return out if bias is None else out + jnp.reshape(bias, (1, 1, 1, -1))


class Pointwise(nn.Module):
    """A `Convolution` of edge 1 as the matrix product that it is: on a CPU its derivatives take half of the time.

    Attributes:
        channels, dtype: as for `Convolution`.
    """

    channels: int
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, channels]."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (1, 1, images.shape[-1], self.channels))
        images, kernel = nn.dtypes.promote_dtype(images, kernel, dtype=self.dtype)
        return (images.reshape(-1, images.shape[-1]) @ kernel[0, 0]).reshape(*images.shape[:3], -1)


class Patches(nn.Module):
    """A `Convolution` whose stride is its edge, without padding: a matrix product of whole patches.

    Attributes:
        channels, dtype: as for `Convolution`.
        edge: of a patch, in pixels; what is left over at the lower and right edge is left out.
    """

    channels: int
    edge: int
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H // edge, W // edge, channels]."""
        batch, rows, columns = len(images), images.shape[1] // self.edge, images.shape[2] // self.edge
        shape = (self.edge, self.edge, images.shape[3], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        images, kernel, bias = nn.dtypes.promote_dtype(images, kernel, bias, dtype=self.dtype)
        images = images[:, : rows * self.edge, : columns * self.edge]
        split = images.reshape(batch, rows, self.edge, columns, self.edge, -1).swapaxes(2, 3)
        out = split.reshape(batch * rows * columns, -1) @ kernel.reshape(-1, self.channels) + bias[None]
        return out.reshape(batch, rows, columns, self.channels)


class Depthwise(nn.Module):
    """`depthwise.convolve_by_channel` with a kernel of its own.

    Attributes:
        edge, stride, use_bias, dtype: as for `Convolution`.
    """

    edge: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, ⌈H / stride⌉, ⌈W / stride⌉, C]."""
        channels = images.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.edge, self.edge, 1, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,)) if self.use_bias else None
        images, kernel, bias = nn.dtypes.promote_dtype(images, kernel, bias, dtype=self.dtype)
        out = convolve_by_channel(images, kernel, self.stride)
        return out if bias is None else out + jnp.reshape(bias, (1, 1, 1, -1))


def normalised(
    images: jax.Array, kind: str, train: bool, name: str, dtype: str | None = None, epsilon: float = 1e-5
) -> jax.Array:
    """Images with each group of channels at mean 0 and variance 1, then scaled and shifted; inside a Flax module only.

    Args:
        images: [B, H, W, C].
        kind: "group": 8 neighbouring channels of one example, whose neighbours in the batch do not matter. "batch": one
            channel of the whole batch, and in evaluation running averages, which `model_state` holds. "stochastic": of
            the same parameters and state as "batch", but half of the channels take the running averages in training
            too. "none": as is.
        train: whether "batch" and "stochastic" take the statistics of this batch, and average them.
        name: of the layer; "scale" and "bias" live under it.
        dtype: as for `Convolution`; statistics are float32.
        epsilon: added to the variances of "batch".

    Raises:
        InputError: unknown kind.
    """
    if kind not in NORMALISATIONS:
        raise InputError(f"unknown: '{kind}'", where="normalisation", todo=suggest(kind, NORMALISATIONS))
    if kind == "none":
        return images
    if kind in ("batch", "stochastic"):
        return BatchNorm(not train, epsilon, dtype, HELD if kind == "stochastic" else 0.0, name=name)(images)
    return GroupNorm(min(8, images.shape[-1]), dtype, name=name)(images)


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` in fewer passes over the images: nothing as large as they are is kept for the way back.

    In stochastic normalisation each channel takes, in a training step, its running averages with probability p and the
    batch's statistics otherwise: x̂_c = s_c·(x_c − μ̃_c)/σ̃_c + (1 − s_c)·(x_c − μ_c)/σ_c with s_c ~ Bernoulli(p). It
    overfits the few statistics of a small set less. The averages move as they would without.

    Attributes:
        use_running_average: normalise by what was averaged before, and leave it.
        epsilon: added to the variances.
        dtype: as for `Convolution`; statistics are float32.
        held: p, the probability of running averages in training; 0 is batch normalisation.

    Source: Kou et al., "Stochastic Normalization", 2020.
    """

    use_running_average: bool
    epsilon: float = 1e-5
    dtype: str | None = None
    held: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same."""
        shape = (images.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        shift = self.param("bias", nn.initializers.zeros, shape)
        running = [
            self.variable("batch_stats", "mean", jnp.zeros, shape),
            self.variable("batch_stats", "var", jnp.ones, shape),
        ]
        x = at_least_float32(images)
        if self.use_running_average:
            mean, variance = (average.value for average in running)
        else:
            mean, square = jnp.mean(x, axis=(0, 1, 2)), jnp.mean(x * x, axis=(0, 1, 2))
            # rounding may leave a negative variance where all values are equal
            variance = jnp.maximum(square - mean * mean, 0)
            if not self.is_initializing():
                before = [average.value for average in running]
                for average, now in zip(running, (mean, variance), strict=True):
                    average.value = MOMENTUM * average.value + (1 - MOMENTUM) * now
                if self.held:
                    holds = jax.random.bernoulli(self.make_rng("params"), self.held, shape)
                    mean, variance = (
                        jnp.where(holds, old, now) for old, now in zip(before, (mean, variance), strict=True)
                    )
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        dtype = nn.dtypes.canonicalize_dtype(images, scale, shift, dtype=self.dtype)
        factor, shift = (row.reshape(1, 1, 1, -1) for row in (factor, shift - mean * factor))
        return (x * factor + shift).astype(dtype)


class GroupNorm(nn.Module):
    """`flax.linen.GroupNorm` in fewer passes over the images: sums of each channel first, then of each group of them.

    On CPU a step back and forth takes about half of its time.

    Attributes:
        group_size: neighbouring channels in a group; it divides their number.
        dtype: as for `Convolution`; statistics are float32.
    """

    group_size: int
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same."""
        batch, height, width, channels = images.shape
        scale = self.param("scale", nn.initializers.ones, (channels,))
        shift = self.param("bias", nn.initializers.zeros, (channels,))
        dtype = nn.dtypes.canonicalize_dtype(images, scale, shift, dtype=self.dtype)
        x = at_least_float32(images)

        def by_group(channel_sums: jax.Array) -> jax.Array:
            sums = jnp.sum(channel_sums.reshape(batch, -1, self.group_size), axis=2)
            return jnp.repeat(sums / (height * width * self.group_size), self.group_size, axis=1)

        mean, square = by_group(jnp.sum(x, axis=(1, 2))), by_group(jnp.sum(x * x, axis=(1, 2)))
        # rounding may leave a negative variance where all values are equal
        factor = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0) + 1e-6) * scale[None]
        out = x * factor[:, None, None] + (shift[None] - mean * factor)[:, None, None]
        return out.astype(dtype)


def at_least_float32(x: jax.Array) -> jax.Array:
    """`x` in float32, or in float64 if it is: what sums and penalties are computed in, whatever a layer's dtype."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _corners(images: jax.Array, size: int) -> list[jax.Array]:
    """The size² pixels of every block, each as [B, H // size, W // size, C]; incomplete blocks are left out."""
    height, width = images.shape[1] // size * size, images.shape[2] // size * size
    if not (height and width):
        what = f"images of {images.shape[1]}×{images.shape[2]} are smaller than a {size}×{size} block"
        raise InputError(what, where="pooling", todo="give larger images, or pool less often")
    return [images[:, i:height:size, j:width:size] for i in range(size) for j in range(size)]


def max_pool(images: jax.Array, size: int = 2) -> jax.Array:
    """The largest value of every size×size block.

    Written as the maximum of strided slices: on CPU the gradient of a windowed maximum is a slow scatter. Ties share
    the gradient.

    Args:
        images: [B, H, W, C].
        size: block edge in pixels; incomplete blocks at the lower and right edge are left out.

    Returns:
        [B, H // size, W // size, C].

    Example:
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    return functools.reduce(jnp.maximum, _corners(images, size))


def mean_pool(images: jax.Array, size: int = 2) -> jax.Array:
    """The mean of every size×size block; arguments as in `max_pool`.

    Example:
        >>> mean_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    return functools.reduce(jnp.add, _corners(images, size)) / size**2


def max_pool_of_three(images: jax.Array) -> jax.Array:
    """The largest value of 3×3 pixels around every second one, also as a maximum of strided slices.

    Args:
        images: [B, H, W, C].

    Returns:
        [B, ⌈H / 2⌉, ⌈W / 2⌉, C].

    Example:
        >>> max_pool_of_three(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
    """
    height, width = images.shape[1:3]
    least = jnp.array(-jnp.inf, images.dtype)
    around = jax.lax.pad(images, least, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    places = [(i, j) for i in range(3) for j in range(3)]
    return functools.reduce(jnp.maximum, [around[:, i : i + height : 2, j : j + width : 2] for i, j in places])
