"""Clips: a trunk of images on every frame, and what is made of the frames."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.models.classifiers import Cnn
from jaxtl.models.recurrent import LstmDirection

TIME = "time"  # what is new beside the parameters of the trunk of images, in "trunk/time"


class OverFrames(nn.Module):
    """A trunk of images on every frame: the mean of its features, or an LSTM over its last maps.

    x_t = trunk(frame_t),   features = (1/T) Σ_t x_t,   or the last state of an LSTM over maps_t as they lie

    Parameters of the trunk have the names that they have without it, so that those of a model of images fit. The mean
    does not see the order of frames.

    Attributes:
        trunk: of images.
        hidden: size of the LSTM's state, which sees where in a frame something is; 0 for the mean.

    Source: a network of images on frames and an LSTM over them: Donahue et al., "Long-term Recurrent Convolutional
        Networks for Visual Recognition and Description", 2015; means over time: Karpathy et al., "Large-scale Video
        Classification with Convolutional Neural Networks", 2014.
    """

    trunk: Cnn
    hidden: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Of a batch: the order of frames is seen, or is no matter."""
        return ("clip",) if self.hidden else ("frames",)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that each stage of the trunk gives to the next."""
        return tuple(self.trunk.widths)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Of the trunk."""
        return self.trunk.stage_names

    def setup(self) -> None:
        """Take the trunk's own scope, so that nothing is renamed."""
        nn.share_scope(self, self.trunk)
        if self.hidden:
            self.time = LstmDirection(self.hidden)

    def __call__(self, clips: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """clips [B, T, H, W, C] -> (features [B, widths[-1]] or [B, hidden], the trunk's taps [B, T, h, w, c])."""
        count, length = clips.shape[:2]
        features, taps = self.trunk(clips.reshape(-1, *clips.shape[2:]), train)
        taps = {name: tap.reshape(count, length, *tap.shape[1:]) for name, tap in taps.items()}
        if not self.hidden:
            return features.reshape(count, length, -1).mean(axis=1), taps
        maps = taps[self.stage_names[-1]].reshape(count, length, -1)
        _, last = self.time(jnp.swapaxes(maps, 0, 1), jnp.ones((length, count), bool))
        return last, taps
