"""Convolution of images and signals, its derivatives fast on a CPU too: also inside a loop, and under `vmap`.

XLA's fast CPU kernel wants images as [B, H, W, C] and kernels as [h, w, C, D]. Outside of loops XLA brings every other
order into this one; inside them it does not, and computes in a plain loop, about a hundred times slower (jax issue
12868). The gradient of a kernel is a convolution of another order. Here it is written in the fast one, with its
transposes in the open, as a primitive of its own whose derivatives of any order and mode are made of itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxtl.errors import InputError

ORDER = ("NHWC", "HWIO", "NHWC")
_PLAIN: contextvars.ContextVar[bool] = contextvars.ContextVar("by the library", default=False)


Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros (above, below), (left, right), in pixels


class Window(NamedTuple):
    """How a kernel moves over images, in pixels along height and width.

    strides: from one output to the next.
    padding: zeros (before, after); negative ones cut.
    image_dilation, kernel_dilation: from one pixel to its neighbour; zeros come between.
    """

    strides: tuple[int, int]
    padding: Padding
    image_dilation: tuple[int, int] = (1, 1)
    kernel_dilation: tuple[int, int] = (1, 1)


def convolve(images: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding | None = None) -> jax.Array:
    """out[b, y, x, d] = Σ images[b, y·stride + i − h//2, x·stride + j − w//2, c] · kernel[i, j, c, d], zeros outside.

    On a CPU by the primitive of this file, elsewhere by the operator of the library. It has no rule for the types of
    arrays that vary over devices: `jax.shard_map` around it takes check_vma=False.

    Args:
        images: [B, H, W, C].
        kernel: [h, w, C, D], of odd edges, of the same dtype.
        stride: in pixels.
        padding: by default half of the kernel on all sides, and else in place of h//2 and w//2 what is above and left.

    Returns:
        [B, ⌈H / stride⌉, ⌈W / stride⌉, D].

    Raises:
        InputError: an even edge without a padding.

    Example:
        >>> convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    height, width = kernel.shape[0] // 2, kernel.shape[1] // 2
    if padding is None and kernel.shape[:2] != (2 * height + 1, 2 * width + 1):
        what = f"a kernel of {kernel.shape[0]}×{kernel.shape[1]} pixels has no middle"
        raise InputError(what, where="convolution", todo="use odd edges")
    window = Window((stride, stride), padding or ((height, height), (width, width)))
    return chosen(_fast, plain, images, kernel, window)


def convolve_in_time(signals: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """out[b, t, d] = Σ signals[b, t·stride + i − before, c] · kernel[i, c, d], zeros outside.

    As many zeros as ⌈T / stride⌉ outputs need, the odd one behind (`same_padding`): images of one row to `convolve`.

    Args:
        signals: [B, T, C].
        kernel: [k, C, D], of the same dtype; its edge may be even.
        stride: in samples.

    Returns:
        [B, ⌈T / stride⌉, D].

    Example:
        >>> convolve_in_time(jnp.arange(1.0, 6.0).reshape(1, 5, 1), jnp.ones((3, 1, 1)), 2)[0, :, 0].tolist()
        [3.0, 9.0, 9.0]
    """
    padding = same_padding((1, signals.shape[1]), (1, len(kernel)), stride)
    return convolve(signals[:, None], kernel[None], stride, padding)[:, 0]


def chosen(fast: Callable, plain: Callable, images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """By the primitive on a CPU, elsewhere by the operator of the library: the one place where this is decided."""
    here = jax.default_backend() == "cpu" and not _PLAIN.get()
    return (fast if here else plain)(images, kernel, window)


@contextlib.contextmanager
def by_the_library() -> Iterator[None]:
    """Whatever is traced within uses the operator of the library on every machine: for files that others read."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def same_padding(size: tuple[int, ...], edges: tuple[int, ...], stride: int) -> Padding:
    """Zeros for ⌈size / stride⌉ outputs, the odd one behind: what TensorFlow calls "SAME".

    Args:
        size: height and width of the images, in pixels.
        edges: of the kernel.
        stride: in pixels.

    Returns:
        ((above, below), (left, right)).

    Example:
        >>> same_padding((8, 9), (3, 3), 2)
        ((0, 1), (1, 1))
    """
    total = [max((-(-n // stride) - 1) * stride + edge - n, 0) for n, edge in zip(size, edges, strict=True)]
    (height, width) = ((n // 2, n - n // 2) for n in total)
    return height, width


def plain(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The operator of the library."""
    return lax.conv_general_dilated(images, kernel, *window, dimension_numbers=ORDER)


def _fast(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return convolution.bind(images, kernel, window=window)


def _abstract(images, kernel, *, window: Window):
    out = jax.eval_shape(functools.partial(plain, window=window), images, kernel)
    return images.update(shape=out.shape, dtype=out.dtype, weak_type=False)


def _span(length: int, dilation: int) -> int:
    """Pixels from the first of so many, a dilation apart, to the last."""
    return (length - 1) * dilation + 1


def _image_gradient(cotangent, images, kernel, *, window: Window):
    """Σ cotangent · kernel: a convolution with the kernel turned around."""

    def padding(axis: int) -> tuple[int, int]:
        before = window.padding[axis][0]
        edge = _span(kernel.shape[axis], window.kernel_dilation[axis])
        size = _span(images.aval.shape[axis + 1], window.image_dilation[axis])
        return edge - 1 - before, size + before - _span(cotangent.shape[axis + 1], window.strides[axis])

    turned = _turned(kernel)
    backward = Window(window.image_dilation, (padding(0), padding(1)), window.strides, window.kernel_dilation)
    return _fast(cotangent, turned, backward)


def _turned(kernel):
    """[h, w, C, D] -> [h, w, D, C], both edges begun at their ends: one after the other, since a loop that does both
    goes across the memory."""
    height, width, channels, outputs = kernel.shape
    pixels = lax.optimization_barrier(kernel.reshape(-1, channels, outputs)[np.arange(height * width)[::-1]])
    return jnp.swapaxes(pixels, 1, 2).reshape(height, width, outputs, channels)


def _kernel_gradient(cotangent, images, kernel, *, window: Window):
    """Σ images · cotangent: a convolution in which examples are channels and channels are examples."""

    def padding(axis: int) -> tuple[int, int]:
        before = window.padding[axis][0]
        edge = _span(kernel.aval.shape[axis], window.kernel_dilation[axis])
        size = _span(images.shape[axis + 1], window.image_dilation[axis])
        return before, edge - 1 + _span(cotangent.shape[axis + 1], window.strides[axis]) - size - before

    backward = Window(window.kernel_dilation, (padding(0), padding(1)), window.image_dilation, window.strides)
    # A transpose by itself goes tile by tile; one that XLA has fused with what comes before is up to ten times slower.
    images, cotangent = lax.optimization_barrier((images, cotangent))
    by_channel = _fast(jnp.transpose(images, (3, 1, 2, 0)), jnp.transpose(cotangent, (1, 2, 0, 3)), backward)
    return jnp.transpose(by_channel, (1, 2, 0, 3))


def _batched(arguments, axes, *, window: Window):
    """Many batches with one kernel are one large batch; many kernels take turns, which on a CPU beats side by side."""
    images, kernel = arguments
    if axes[1] is None:
        images = jnp.moveaxis(images, axes[0], 0)
        out = _fast(images.reshape(-1, *images.shape[2:]), kernel, window)
        return out.reshape(*images.shape[:2], *out.shape[1:]), 0
    if axes[0] is None:
        return lax.map(lambda one: _fast(images, one, window), jnp.moveaxis(kernel, axes[1], 0)), 0
    pairs = [jnp.moveaxis(argument, axis, 0) for argument, axis in zip(arguments, axes, strict=True)]
    return lax.map(lambda pair: _fast(pair[0], pair[1], window), tuple(pairs)), 0


convolution = Primitive("image_convolution")
convolution.def_impl(plain)
convolution.def_abstract_eval(_abstract)
ad.defbilinear(convolution, _image_gradient, _kernel_gradient)
batching.primitive_batchers[convolution] = _batched
mlir.register_lowering(convolution, mlir.lower_fun(plain, multiple_results=False))
