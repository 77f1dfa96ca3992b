"""Convolution of each channel by itself, every derivative of which is fast on a CPU too.

XLA has no kernel for it on a CPU: its plain loop takes ten to fifty times as long as a sum of shifted images, which
becomes one loop of vector instructions. The gradient of a kernel is a sum of products over examples, rows and columns
for each of its pixels; inside one reduction the compiler walks it channel by channel, across the memory. Here it is a
loop over a few rows at a time, in which every sum goes along with the memory.

As in `convolution`, the three are primitives whose derivatives are one another: each is linear in both its arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxtl.models.convolution import ORDER, Window, chosen, same_padding

TERMS = (
    24  # rows that one step of the loop adds up: with fewer the loop costs more, with more the compiler takes longer
)


def convolve_by_channel(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """out[b, y, x, c] = Σ images[b, y·stride + i − top, x·stride + j − left, c] · kernel[i, j, 0, c], zeros outside.

    Args:
        images: [B, H, W, C].
        kernel: [h, w, 1, C], of the same dtype.
        stride: in pixels; `top` and `left` are those of `convolution.same_padding`.

    Returns:
        [B, ⌈H / stride⌉, ⌈W / stride⌉, C].

    Example:
        >>> convolve_by_channel(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
        [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    window = Window((stride, stride), same_padding(images.shape[1:3], kernel.shape[:2], stride))
    return chosen(_forward, plain, images, kernel, window)


def plain(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The operator of the library."""
    channels = images.shape[-1]
    return lax.conv_general_dilated(images, kernel, *window, dimension_numbers=ORDER, feature_group_count=channels)


def _forward(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return forward.bind(images, kernel, window=window)


def _framed(images: jax.Array, size: tuple[int, int], top: int, left: int) -> jax.Array:
    """[B, *size, C]: zeros, with the images from (top, left) on, as far as they fit.

    Made once: a sum of shifted images would compute anew for every shift what comes before it.
    """
    sides = [(top, size[0] - images.shape[1] - top, 0), (left, size[1] - images.shape[2] - left, 0)]
    framed = lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    return lax.optimization_barrier(framed)


def _rows(images: jax.Array, top: int, left: int, size: tuple[int, int], strides: tuple[int, int]) -> jax.Array:
    """`size` pixels from (top, left) on, `strides` apart."""
    batch, _, _, channels = images.shape
    end = (top + (size[0] - 1) * strides[0] + 1, left + (size[1] - 1) * strides[1] + 1)
    return lax.slice(images, (0, top, left, 0), (batch, *end, channels), (1, *strides, 1))


def _sum_of_shifted(images: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    height, width = kernel.shape[:2]
    full = [images.shape[i + 1] + sum(window.padding[i]) for i in (0, 1)]
    size = [(full[i] - kernel.shape[i]) // window.strides[i] + 1 for i in (0, 1)]
    padded = _framed(_wide(images), (full[0], full[1]), window.padding[0][0], window.padding[1][0])
    weights, places = _wide(kernel), [(i, j) for i in range(height) for j in range(width)]
    terms = (_rows(padded, i, j, (size[0], size[1]), window.strides) * weights[i : i + 1, j : j + 1] for i, j in places)
    return functools.reduce(jnp.add, terms).astype(images.dtype)


def _wide(array: jax.Array) -> jax.Array:
    """In which sums are computed."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _sum_of_gradients(cotangent: jax.Array, kernel: jax.Array, *, window: Window, size: tuple[int, int]) -> jax.Array:
    """Σ cotangent · kernel [B, *size, C]: with a stride, pixels of one remainder see the same part of the kernel.

    y = out · stride + i − top, so that pixel y = stride · q + a has its part of rows i with (a + top − i) % stride = 0.
    """
    (step_y, step_x), ((top, _), (left, _)) = window.strides, window.padding
    height, width = kernel.shape[:2]
    rows, columns = -(-size[0] // step_y), -(-size[1] // step_x)
    wide, weights = _wide(cotangent), _wide(kernel)
    above, before = -((top - height + 1) // step_y), -((left - width + 1) // step_x)  # the least shifts, below
    below, behind = (step_y - 1 + top) // step_y, (step_x - 1 + left) // step_x  # and the largest
    around = _framed(wide, (above + rows + below, before + columns + behind), above, before)

    def remainder(a: int, b: int) -> jax.Array:
        out = jnp.zeros((len(wide), rows, columns, wide.shape[3]), wide.dtype)
        for i in range((a + top) % step_y, height, step_y):
            for j in range((b + left) % step_x, width, step_x):
                shift = (above + (a + top - i) // step_y, before + (b + left - j) // step_x)
                out = out + _rows(around, *shift, (rows, columns), (1, 1)) * weights[i : i + 1, j : j + 1]
        return out

    parts = jnp.stack([jnp.stack([remainder(a, b) for b in range(step_x)], 3) for a in range(step_y)], 2)
    full = parts.reshape(len(wide), rows * step_y, columns * step_x, wide.shape[3])
    return full[:, : size[0], : size[1]].astype(cotangent.dtype)


def _sum_of_products(images: jax.Array, cotangent: jax.Array, *, window: Window, edges: tuple[int, int]) -> jax.Array:
    """Σ images · cotangent over examples, rows and columns [*edges, 1, C]."""
    batch, height, width, channels = cotangent.shape
    step, places = window.strides[0], [(i, j) for i in range(edges[0]) for j in range(edges[1])]
    parts = -(-height // TERMS)  # of the rows of an example,
    rows = -(-height // parts)
    together = min(batch, max(1, TERMS // rows)) if parts == 1 else 1  # or examples at once
    turns = -(-batch // together)
    needed = ((parts * rows - 1) * step + edges[0], images.shape[2] + sum(window.padding[1]))
    left_over = ((0, turns * together - batch), (0, 0), (0, 0), (0, 0))  # images and rows that meet cotangents of 0
    images, cotangent = jnp.pad(images, left_over), jnp.pad(cotangent, left_over)
    wide = _framed(_wide(images), needed, window.padding[0][0], window.padding[1][0])
    given = _framed(_wide(cotangent), (parts * rows, width), 0, 0)
    seen = (together, (rows - 1) * step + edges[0], wide.shape[2], channels)

    def turn(number: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
        example, row = number // parts * together, number % parts * rows
        ours = lax.dynamic_slice(wide, (example, row * step, 0, 0), seen)
        theirs = lax.dynamic_slice(given, (example, row, 0, 0), (together, rows, width, channels))
        for k, (i, j) in enumerate(places):
            shifted = _rows(ours, i, j, (rows, width), window.strides)
            terms = (shifted[b, y] * theirs[b, y] for b in range(together) for y in range(rows))
            sums[k] = functools.reduce(jnp.add, terms, sums[k])
        return sums

    none = [jnp.zeros((width, channels), wide.dtype) for _ in places]
    sums = lax.fori_loop(0, turns * parts, turn, none)
    return jnp.sum(jnp.stack(sums), axis=1).reshape(*edges, 1, channels).astype(images.dtype)


def _to_image(cotangent, kernel, window: Window, size: tuple[int, int]):
    return to_image.bind(cotangent, kernel, window=window, size=size)


def _to_kernel(images, cotangent, window: Window, edges: tuple[int, int]):
    return to_kernel.bind(images, cotangent, window=window, edges=edges)


def _primitive(name: str, compute: Callable, left: Callable, right: Callable, merges: bool) -> Primitive:
    """A bilinear one.

    Args:
        name: shown in programs.
        compute: what it computes.
        left, right: its transposes with respect to each argument.
        merges: whether many first arguments with one second one are one large batch; else they take turns.
    """
    made = Primitive(name)

    def abstract(first, second, **settings):
        out = jax.eval_shape(functools.partial(compute, **settings), first, second)
        return first.update(shape=out.shape, dtype=out.dtype, weak_type=False)

    def batched(arguments, axes, **settings):
        bound = functools.partial(made.bind, **settings)
        first, second = (
            one if axis is None else jnp.moveaxis(one, axis, 0) for one, axis in zip(arguments, axes, strict=True)
        )
        if axes[1] is None and merges:
            out = bound(first.reshape(-1, *first.shape[2:]), second)
            return out.reshape(*first.shape[:2], *out.shape[1:]), 0
        if axes[0] is None:
            return lax.map(lambda one: bound(first, one), second), 0
        if axes[1] is None:
            return lax.map(lambda one: bound(one, second), first), 0
        return lax.map(lambda pair: bound(*pair), (first, second)), 0

    made.def_impl(jax.jit(compute, static_argnames=inspect.getfullargspec(compute).kwonlyargs))
    made.def_abstract_eval(abstract)
    ad.defbilinear(made, left, right)
    batching.primitive_batchers[made] = batched
    mlir.register_lowering(made, mlir.lower_fun(compute, multiple_results=False))
    return made


forward = _primitive(
    "convolution_by_channel",
    _sum_of_shifted,
    lambda out, images, kernel, window: _to_image(out, kernel, window, images.aval.shape[1:3]),
    lambda out, images, kernel, window: _to_kernel(images, out, window, kernel.aval.shape[:2]),
    merges=True,
)
to_image = _primitive(
    "convolution_by_channel_to_image",
    _sum_of_gradients,
    lambda out, cotangent, kernel, window, size: _forward(out, kernel, window),
    lambda out, cotangent, kernel, window, size: _to_kernel(out, cotangent, window, kernel.aval.shape[:2]),
    merges=True,
)
to_kernel = _primitive(
    "convolution_by_channel_to_kernel",
    _sum_of_products,
    lambda out, images, cotangent, window, edges: _to_image(cotangent, out, window, images.aval.shape[1:3]),
    lambda out, images, cotangent, window, edges: _forward(images, out, window),
    merges=False,
)
