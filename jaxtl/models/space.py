"""A linear map of features into a space where directions mean something: the image side of a joint space."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.layers import at_least_float32

INPUTS = "inputs"  # of the model state: by what features are normalised, {"trunk": {"mean": [D], "std": [D]}}


class Space(nn.Module):
    """√width · z/‖z‖ with z = W (x − mean)/std + b; `taps` holds z.

    Mean and deviation are carried in the model state, as whoever trains the map has found them. Numbers of a feature
    are about 1, so that a head on them learns at rates like those of other trunks.

    Attributes:
        width: of the space.
    """

    width: int

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return ("dense_0",)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images [B, D] float32, features of another model -> (features [B, width], taps)."""
        size = images.shape[-1]
        mean = self.variable(INPUTS, "mean", jnp.zeros, (size,))
        std = self.variable(INPUTS, "std", jnp.ones, (size,))
        z = nn.Dense(self.width, name="dense_0")((images - mean.value[None]) / std.value[None])
        z = at_least_float32(z)
        squares = jnp.sum(jnp.square(z), axis=-1, keepdims=True)
        somewhere = squares > 0  # a root has no slope at 0
        return z * jnp.where(somewhere, jnp.sqrt(self.width / jnp.where(somewhere, squares, 1.0)), 0.0), {"dense_0": z}
