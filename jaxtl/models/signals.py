"""Trunks of signals: convolutions along time, a CNN on log spectrograms, and the log spectrum without a parameter."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError
from jaxtl.models.classifiers import Cnn
from jaxtl.models.convolution import convolve_in_time
from jaxtl.models.layers import at_least_float32, normalised

FIELDS = ("signal",)  # of a batch
FLOOR = 1e-4  # of the energy, whose logarithm is taken: the part of a signal of deviation 1 that is silence


class TimeConvolution(nn.Module):
    """`convolution.convolve_in_time` with a kernel of its own, initialised as `flax.linen.Conv` does.

    Attributes:
        channels: D, of the output.
        length: of the kernel, in samples.
        stride: in samples.
        use_bias: add a number for each channel.
        dtype: to compute in; None is that of the parameters, float32.
    """

    channels: int
    length: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: str | None = None

    @nn.compact
    def __call__(self, signals: jax.Array) -> jax.Array:
        """[B, T, C] -> [B, ⌈T / stride⌉, D]."""
        shape = (self.length, signals.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,)) if self.use_bias else None
        signals, kernel, bias = nn.dtypes.promote_dtype(signals, kernel, bias, dtype=self.dtype)
        out = convolve_in_time(signals, kernel, self.stride)
        return out if bias is None else out + jnp.reshape(bias, (1, 1, -1))


class SignalCnn(nn.Module):
    """Blocks of convolution along time, normalisation, ReLU and max pooling by 2; the last ends in a mean over time.

    The first kernel is wide: it sees a stretch of the signal, as a filter does, and those behind it are of 3.

    Attributes:
        widths: channels of each block.
        normalisation: see `layers.normalised`; with "none" the convolutions have biases.
        first: length of the first kernel, in samples.
        stride: of the first convolution.
        dtype: as for `Mlp`.
        start, stop: only the blocks from `start` to before `stop`, see `cut`.
        fields: of a batch.

    Source: Zhang, Peng, Li, Chen and Zhang, "A New Deep Learning Model for Fault Diagnosis with Good Anti-Noise and
    Domain Adaptation Ability on Raw Vibration Signals", 2017 (the wide first kernel).
    """

    widths: Sequence[int] = (16, 32, 64)
    normalisation: str = "group"
    first: int = 64
    stride: int = 8
    dtype: str | None = None
    start: int = 0
    stop: int | None = None
    fields: tuple[str, ...] = FIELDS

    @property
    def stage_names(self) -> tuple[str, ...]:
        """As among the taps."""
        return tuple(f"conv_{i}" for i in range(len(self.widths)))

    @nn.compact
    def __call__(self, signals: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """signals [B, T, C] float32 -> (features [B, widths[-1]], taps)."""
        x, taps, bare = signals, {}, self.normalisation == "none"
        for i, width in list(enumerate(self.widths))[self.start : self.stop]:
            length, stride = (3, 1) if i else (self.first, self.stride)
            x = TimeConvolution(width, length, stride, bare, self.dtype, name=f"conv_{i}")(x)
            x = nn.relu(normalised(x[:, None], self.normalisation, train, f"norm_{i}", self.dtype)[:, 0])
            taps[f"conv_{i}"] = at_least_float32(x)
            x = jnp.mean(taps[f"conv_{i}"], axis=1) if i == len(self.widths) - 1 else max_pool_in_time(x)
        return x, taps


class SpectrogramCnn(Cnn):
    """A `Cnn` on log spectrograms: time downwards, frequency across.

    Attributes:
        window, hop: of the spectrogram, in samples.
    """

    window: int = 128
    hop: int = 64

    fields = FIELDS

    def __call__(self, signals: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """signals [B, T, C] float32 -> (features [B, widths[-1]], taps)."""
        images = signals if self.start else log_spectrogram(signals, self.window, self.hop)
        return super().__call__(images, train)


class Spectrum(nn.Module):
    """The log spectrum of a whole signal, the frequencies of each channel: no parameter, and no stage.

    Attributes:
        fields: of a batch.
    """

    fields: tuple[str, ...] = FIELDS

    widths = ()
    stage_names = ()

    def __call__(self, signals: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        """signals [B, T, C] float32 -> (features [B, T // 2 · C], no taps)."""
        found = log_spectrogram(signals, signals.shape[1], signals.shape[1])
        return found.reshape(signals.shape[0], -1), {}


def max_pool_in_time(signals: jax.Array) -> jax.Array:
    """The larger of every two samples [B, T, C] -> [B, T // 2, C]; an odd one at the end is left out.

    Example:
        >>> max_pool_in_time(jnp.array([1.0, 3.0, 2.0, 0.0, 9.0]).reshape(1, 5, 1))[0, :, 0].tolist()
        [3.0, 2.0]
    """
    even = signals.shape[1] // 2 * 2
    if not even:
        what = f"signals of {signals.shape[1]} samples cannot be halved"
        raise InputError(what, where="pooling", todo="give longer signals, or pool less often")
    return jnp.maximum(signals[:, 0:even:2], signals[:, 1:even:2])


def log_spectrogram(signals: jax.Array, window: int, hop: int) -> jax.Array:
    """ln(|FFT(w · x_t)|² / Σ w² + 1e-4): a row for each window x_t, a column for each frequency above 0.

    Windows are Hann's (periodic), begin every `hop` samples and lie within the signal; what does not fill one is left
    out. The mean of a signal has no column.

    Args:
        signals: [B, T, C] float, T >= window; of about deviation 1, or the floor means something else.
        window, hop: samples; the window is even.

    Returns:
        [B, 1 + (T − window) // hop, window // 2, C] float32.

    Raises:
        InputError: a window that is odd, or longer than the signal.

    Example:
        >>> tone = jnp.sin(2 * jnp.pi * 10 * jnp.arange(256) / 64).reshape(1, 256, 1)
        >>> found = log_spectrogram(tone, 64, 32)
        >>> found.shape, int(found[0, 0, :, 0].argmax())  # the first column is frequency 1 of 64
        ((1, 7, 32, 1), 9)
    """
    if signals.ndim != 3 or signals.shape[1] < window or window % 2:
        what = f"signals {list(signals.shape)} for windows of {window}"
        raise InputError(what, where="log_spectrogram", todo="give [B, T, C] of an even window at least")
    starts = np.arange(0, signals.shape[1] - window + 1, hop)
    frames = signals.astype(jnp.float32)[:, starts[:, None] + np.arange(window)[None]]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    angle = 2 * np.pi * np.outer(np.arange(window), np.arange(1, window // 2 + 1)) / window
    energy = jnp.zeros((), jnp.float32)
    for wave in (np.cos(angle), np.sin(angle)):  # as products of matrices, which every format has that a model goes to
        filters = jnp.asarray(hann[:, None] * wave / np.sqrt(np.sum(hann**2)), jnp.float32)
        energy += jnp.square(jnp.einsum("btwc,wf->btfc", frames, filters, precision="highest"))
    return jnp.log(energy + FLOOR)
