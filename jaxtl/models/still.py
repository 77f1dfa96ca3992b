"""A trunk whose batch statistics stay those that it came with, while its weights are trained."""

from __future__ import annotations

import flax.linen as nn
import jax


class Still(nn.Module):
    """A trunk that runs as in evaluation, always: with the batch statistics that it was pretrained with.

    Of few examples the statistics of a batch are noise, and averages of them replace what a million pictures have said.
    Parameters have the names that they have without it.

    Attributes:
        trunk: module (images, train) -> (features, taps).

    Source: what Keras's guide to transfer learning does (`training=False` while the trunk is unfrozen).
    """

    trunk: nn.Module

    def setup(self) -> None:
        """Take the trunk's own scope, so that nothing is renamed."""
        nn.share_scope(self, self.trunk)

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As the trunk, in evaluation."""
        return self.trunk(images, False)
