"""Waveforms as pictures: the logarithm of the energy in bands of the mel scale, window by window."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import InputError

FLOOR = 1e-6  # of the energy, whose logarithm is taken: that of silence


@functools.partial(jax.jit, static_argnames=("rate", "window", "hop", "bands"))
def log_mel(signal: jax.Array, *, rate: int, window: int = 256, hop: int = 160, bands: int = 32) -> jax.Array:
    """log(M |FFT(w · x_t)|² / window + 1e-6): a row for each window x_t, a column for each of the bands M.

    Windows are Hann's (periodic), begin every `hop` samples and lie within the signal; what does not fill one is left
    out.

    Args:
        signal: [B, T] float, T >= window; at most 1 in size, or the floor means something else.
        rate: samples a second.
        window, hop: samples.
        bands: of the mel scale from 0 to rate / 2.

    Returns:
        [B, 1 + (T − window) // hop, bands] float32.

    Raises:
        InputError: a signal that is shorter than a window, or a band that no frequency falls into.

    Example:
        >>> tone = jnp.sin(2 * jnp.pi * 1000 * jnp.arange(8000) / 8000)[None]
        >>> found = log_mel(tone, rate=8000)
        >>> found.shape, int(found[0, 0].argmax())  # 1000 Hz are 47 % of 4000 on this scale
        ((1, 49, 32), 14)

    Source: Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in
    Continuously Spoken Sentences", 1980 (without the cosine transform).
    """
    if signal.ndim != 2 or signal.shape[1] < window:
        what = f"signals {list(signal.shape)} for windows of {window}"
        raise InputError(what, where="log_mel", todo="give [B, T], as long as a window at least")
    starts = np.arange(0, signal.shape[1] - window + 1, hop)
    frames = signal.astype(jnp.float32)[:, starts[:, None] + np.arange(window)[None]]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    energy = jnp.square(jnp.abs(jnp.fft.rfft(frames * jnp.asarray(hann, jnp.float32)[None, None]))) / window
    return jnp.log(energy @ jnp.asarray(mel_filters(rate, window, bands), jnp.float32) + FLOOR)


def mel_filters(rate: int, window: int, bands: int) -> np.ndarray:
    """Triangles that overlap by half, evenly spaced on m(f) = 2595 log₁₀(1 + f/700), each 1 at its peak.

    Args:
        rate: samples a second.
        window: samples.
        bands: how many.

    Returns:
        [window // 2 + 1, bands].

    Raises:
        InputError: so many that one falls between two frequencies.

    Example:
        >>> mel_filters(8000, 256, 32).shape
        (129, 32)

    Source: O'Shaughnessy, "Speech Communication: Human and Machine", 1987 (the scale).
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequency = np.arange(window // 2 + 1)[:, None] * rate / window
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))
    if not filters.any(axis=0).all():
        what = f"{bands} bands for windows of {window}: one lies between two frequencies"
        raise InputError(what, where="mel_filters", todo="take fewer bands, or longer windows")
    return filters
