"""A trunk whose batch statistics stay those that it came with, while its weights are trained."""

from __future__ import annotations

from typing import Any

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

    trunk: Any

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each of its stages gives to the next."""
        return tuple(self.trunk.widths[self.trunk.start : self.trunk.stop])

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Of the stages that it has, as among the taps."""
        return tuple(self.trunk.stage_names[self.trunk.start : self.trunk.stop])

    @nn.nowrap
    def parts(self, depth: int) -> tuple[Still, Still]:
        """(so many of its stages from its input on, the rest)."""
        trunk: Any = self.trunk
        where = trunk.start + depth
        return Still(trunk.clone(stop=where)), Still(trunk.clone(start=where))

    def setup(self) -> None:
        """Take the trunk's own scope, so that nothing is renamed."""
        nn.share_scope(self, self.trunk)

    def __call__(self, images: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As the trunk, in evaluation."""
        return self.trunk(images, False)
