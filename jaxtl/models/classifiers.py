"""Image classifiers with trunk and heads as separate subtrees: "trunk/…", "head/kernel", "source_head/kernel"."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers import Convolution, at_least_float32, max_pool, mean_pool, normalised
from jaxtl.trees import Tree


class Mlp(nn.Module):
    """Dense layers with ReLU; `taps` holds each layer's output.

    Attributes:
        widths: units of each layer.
        dtype: to compute in, such as "bfloat16"; None is that of the parameters, float32. What comes out is float32.
    """

    widths: Sequence[int] = (128,)
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, ...] float32 -> (features [B, widths[-1]], taps)."""
        x, taps = images.reshape(images.shape[0], -1), {}
        for i, width in enumerate(self.widths):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x))
            taps[f"dense_{i}"] = at_least_float32(x)
        return at_least_float32(x), taps


class Cnn(nn.Module):
    """Blocks of 3×3 convolution, normalisation, ReLU and 2×2 max pooling; the last block ends in a spatial mean.

    Attributes:
        widths: channels of each block.
        normalisation: see `layers.normalised`; with "none" the convolutions have biases.
        input_pooling: images are first averaged over blocks of this edge; 1 leaves them.
        dtype: as for `Mlp`.
    """

    widths: Sequence[int] = (16, 32, 64)
    normalisation: str = "group"
    input_pooling: int = 1
    dtype: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, H, W, C] float32 -> (features [B, widths[-1]], taps)."""
        x, taps = images if self.input_pooling == 1 else mean_pool(images, self.input_pooling), {}
        bare = self.normalisation == "none"
        for i, width in enumerate(self.widths):
            x = Convolution(width, use_bias=bare, dtype=self.dtype, name=f"conv_{i}")(x)
            x = normalised(x, self.normalisation, train, f"norm_{i}", self.dtype)
            taps[f"conv_{i}"] = at_least_float32(nn.relu(x))
            # the ReLU of the largest is the largest ReLU, of a quarter as many numbers
            x = jnp.mean(taps[f"conv_{i}"], axis=(1, 2)) if i == len(self.widths) - 1 else nn.relu(max_pool(x))
        return x, taps


class Classifier(nn.Module):
    """A trunk and any number of linear heads on its features.

    Attributes:
        trunk: module (images, train) -> (features, taps); its parameters live under "trunk".
        heads: (name, outputs) pairs; the parameters of each live under its name.
    """

    trunk: nn.Module
    heads: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> dict[str, Any]:
        """images [B, ...] float32 -> {"features", "taps", and each head's logits [B, outputs] by name}."""
        features, taps = self.trunk(images, train)
        logits = {name: nn.Dense(outputs, name=name)(features) for name, outputs in self.heads}
        return {"features": features, "taps": taps, **logits}


@functools.partial(jax.jit, static_argnums=(0, 2))
def initialise(model: nn.Module, rng: jax.Array, shape: tuple[int, ...]) -> Tree:
    """Fresh parameters of a model; compiled, because `model.init` by itself dispatches every operation one by one.

    Args:
        model: takes (images, train).
        rng: key.
        shape: of one image, without the batch axis.

    Returns:
        Tree of float32 arrays.
    """
    return model.init(rng, jnp.zeros((1, *shape)), train=False)["params"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def initial_model_state(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tree]:
    """What a model carries along beside its parameters, for `step.init_state`: {"batch_stats": …}, or {} without any.

    Args:
        model, shape: as for `initialise`.
    """
    variables = model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    return {name: tree for name, tree in variables.items() if name != "params"}
