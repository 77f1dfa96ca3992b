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
