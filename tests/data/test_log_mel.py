"""Log-mel pictures against a loop in NumPy, PyTorch's transform, and known tones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import chirp

from jaxtl.data.log_mel import log_mel, mel_filters
from jaxtl.errors import InputError

RATE, WINDOW, HOP = 8000, 256, 160


def signals():
    """A chirp, noise, a tone that begins late, and silence."""
    time = np.arange(4000) / RATE
    late = np.where(time > 0.2, np.sin(2 * np.pi * 1234 * time), 0.0)
    noise = 0.1 * np.random.default_rng(0).normal(size=4000)
    return np.stack([chirp(time, 50, 0.5, 3900), noise, late, np.zeros(4000)]).astype(np.float32)


def filters(bands):
    """The triangles of HTK, one by one."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    found = np.zeros((WINDOW // 2 + 1, bands))
    for band in range(bands):
        low, peak, high = edges[band : band + 3]
        for k in range(WINDOW // 2 + 1):
            frequency = k * RATE / WINDOW
            if low < frequency <= peak:
                found[k, band] = (frequency - low) / (peak - low)
            elif peak < frequency < high:
                found[k, band] = (high - frequency) / (high - peak)
    return found


def by_loop(signal, bands):
    """Window by window, in float64."""
    rows, shape = [], 0.5 * (1 - np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW))
    for start in range(0, len(signal) - WINDOW + 1, HOP):
        energy = np.abs(np.fft.rfft(signal[start : start + WINDOW].astype(np.float64) * shape)) ** 2 / WINDOW
        rows.append(np.log(energy @ filters(bands) + 1e-6))
    return np.array(rows)


@pytest.mark.parametrize("bands", [20, 32])
def test_it_is_a_loops_in_double_precision_to_1e_4(bands):
    found = log_mel(signals(), rate=RATE, window=WINDOW, hop=HOP, bands=bands)
    assert found.shape == (4, 24, bands)
    np.testing.assert_allclose(found, [by_loop(signal, bands) for signal in signals()], atol=1e-4)
    np.testing.assert_allclose(mel_filters(RATE, WINDOW, bands), filters(bands), atol=1e-12)
    np.testing.assert_allclose(found[3], np.log(1e-6), rtol=1e-6)


def test_energies_are_pytorchs():
    torch = pytest.importorskip("torch")
    window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
    wide = torch.tensor(signals(), dtype=torch.float64)
    found = torch.stft(wide, WINDOW, HOP, window=window, center=False, return_complex=True)
    expected = np.log((found.abs() ** 2 / WINDOW).numpy().transpose(0, 2, 1) @ filters(32) + 1e-6)
    np.testing.assert_allclose(log_mel(signals(), rate=RATE), expected, atol=1e-4)


def test_a_tone_is_where_it_is_and_twice_as_loud_is_log_4_more():
    tone = np.sin(2 * np.pi * 1000 * np.arange(2000) / RATE).astype(np.float32)[None]
    found = np.asarray(log_mel(tone, rate=RATE))
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 34) / 2595) - 1)
    loudest = found[0].mean(axis=0).argmax()
    assert edges[loudest] < 1000 < edges[loudest + 2]
    gain = (np.asarray(log_mel(2 * tone, rate=RATE)) - found)[0, :, loudest]
    np.testing.assert_allclose(gain, np.log(4), atol=1e-4)


def test_what_is_too_short_and_bands_without_a_frequency_are_refused():
    with pytest.raises(InputError, match="for windows of 256"):
        log_mel(np.zeros((2, 100), np.float32), rate=RATE)
    with pytest.raises(InputError, match="one lies between two frequencies"):
        mel_filters(RATE, 64, 40)
