"""A detector as a trunk and a head that answers for every cell of the trunk's last map, as separate subtrees."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import InputError, suggest
from jaxtl.models.layers import Convolution, at_least_float32, mean_pool, normalised

RARE = -2.19  # logit of 0.1: of each class before anything is learned, or all cells but a few would pull at first
SIZE = 1.4  # logarithm of 4 cells


def _biases(classes: int):
    """What is said of a cell before anything is learned: hardly anything is there, 4 cells large, in the middle."""
    first = [RARE] * classes + [SIZE] * 2 + [0.5] * 2
    return lambda key, shape, dtype=jnp.float32: jnp.array(first, dtype).reshape(shape)


class CellHead(nn.Module):
    """Numbers for every cell of a map, which see what is near and, at half of the resolution, what is further away.

    Attributes:
        classes: C; of each cell it says C logits, and four numbers more, as `jaxtl.detection` reads them.
        width: channels within.
        normalisation: see `layers.normalised`.
    """

    classes: int
    width: int = 64
    normalisation: str = "group"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, D] -> [B, H, W, C + 4] float32."""

        def convolved(x, name):
            x = Convolution(self.width, use_bias=self.normalisation == "none", name=f"conv_{name}")(x)
            return nn.relu(normalised(x, self.normalisation, train, f"norm_{name}"))

        near = convolved(x, "near")
        far = convolved(convolved(mean_pool(near), "far"), "further")
        rows, columns = (jnp.minimum(jnp.arange(n) // 2, n // 2 - 1) for n in near.shape[1:3])  # odd edges: the last
        x = convolved(near + far[:, rows][:, :, columns], "both")
        out = nn.Dense(self.classes + 4, bias_init=_biases(self.classes), name="out")(x)
        return at_least_float32(out)


class Detector(nn.Module):
    """A trunk of classifiers, of which one map is used, and a `CellHead` on it.

    Attributes:
        trunk: module (images, train) -> (features, taps); its parameters live under "trunk".
        classes: C.
        tap: the map that is used, among the trunk's taps; "" is the last one.
        width, normalisation: of the head, whose parameters live under "head".
    """

    trunk: nn.Module
    classes: int
    tap: str = ""
    width: int = 64
    normalisation: str = "group"

    @property
    def fields(self) -> tuple[str, ...]:
        """Of a batch, that it is called with."""
        return ("image",)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, Any]:
        """images [B, H, W, C] float32 -> {"head": [B, h, w, C + 4], "features": the map}."""
        _, taps = self.trunk(images, train)
        name = self.tap or next(reversed(taps))
        if name not in taps or taps[name].ndim != 4:
            maps = [tap for tap, value in taps.items() if value.ndim == 4]
            raise InputError(f"'{name}' is no map", where="Detector tap", todo=suggest(name, maps))
        head = CellHead(self.classes, self.width, self.normalisation, name="head")
        return {"head": head(taps[name], train), "features": taps[name]}


class Maps(nn.Module):
    """A trunk of classifiers as it gives maps: those of some stages, coarse ones repeated, side by side.

    It runs as in evaluation, always, with the batch statistics that it came with, as `Still` does. Parameters have the
    names that they have without it.

    Attributes:
        trunk: module (images, train) -> (features, taps).
        taps: names of the maps, the finest first.
    """

    trunk: Any
    taps: tuple[str, ...]

    def setup(self) -> None:
        """Take the trunk's own scope, so that nothing is renamed."""
        nn.share_scope(self, self.trunk)

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (the maps side by side [B, h, w, D], the same as the only tap)."""
        _, taps = self.trunk(images, False)
        height, width = taps[self.taps[0]].shape[1:3]
        x = jnp.concatenate([_repeated(taps[name], height, width) for name in self.taps], axis=-1)
        return x, {"maps": x}


def _repeated(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, h, w, D] -> [B, height, width, D], each cell as often as it takes."""
    rows, columns = (jnp.arange(n) * of // n for n, of in ((height, x.shape[1]), (width, x.shape[2])))
    return x[:, rows][:, :, columns]


def map_taps(trunk: Any, shape: tuple[int, ...], strides: tuple[int, ...] = (8, 16)) -> tuple[str, ...]:
    """Which taps of a trunk are its last maps with cells of so many pixels, the finest first.

    Args:
        trunk: module (images, train) -> (features, taps).
        shape: [H, W, C] of an image, whose edges all strides divide.
        strides: pixels of a cell.

    Raises:
        InputError: it has no map of the finest of them.

    Example:
        >>> from jaxtl.models import Cnn
        >>> map_taps(Cnn((8, 8, 8), input_pooling=2), (32, 32, 3)), map_taps(Cnn((8, 8)), (8, 8, 1), (1, 2))
        (('conv_2',), ('conv_0', 'conv_1'))
    """
    kind = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    taps = jax.eval_shape(lambda images: trunk.init_with_output(jax.random.key(0), images, False)[0][1], kind)
    cells = {tuple(edge // stride for edge in shape[:2]): stride for stride in strides}
    last = {cells.get(tap.shape[1:3]): name for name, tap in taps.items() if tap.ndim == 4}
    found = tuple(last[stride] for stride in strides if stride in last)
    if strides[0] not in last:
        what = f"has no map of cells of {strides[0]} pixels"
        raise InputError(
            what, where=f"trunk {type(trunk).__name__}", todo="use efficientnet_lite0 or a residual network"
        )
    return found


def stride_of(model: Detector, shape: tuple[int, ...]) -> int:
    """Pixels of a cell of a detector's map, in images of a shape.

    Args:
        model: a detector.
        shape: [H, W, C] of an image.

    Raises:
        InputError: rows and columns are not divided alike, or not evenly.

    Example:
        >>> from jaxtl.models import Cnn
        >>> stride_of(Detector(Cnn((8, 8, 8), input_pooling=2), 3), (32, 48, 1))
        8
    """
    kind = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    of = jax.eval_shape(lambda images: model.init_with_output(jax.random.key(0), images, train=False)[0], kind)
    cells = of["head"].shape[1:3]
    strides = {length / count for length, count in zip(shape[:2], cells, strict=True)}
    if len(strides) > 1 or not (stride := strides.pop()).is_integer():
        what = f"images of {shape[0]}x{shape[1]} pixels become a map of {cells[0]}x{cells[1]} cells"
        raise InputError(what, where="Detector", todo="give images whose edges are multiples of what a cell spans")
    return int(stride)
