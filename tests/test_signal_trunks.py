"""Convolution along time against PyTorch and NumPy, the trunks of signals, and their spectra."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.labels import label_by_depth
from jaxtl.models import Classifier, Cnn, cut, initial_model_state, initialise, stage_paths
from jaxtl.models.convolution import by_the_library, convolve_in_time
from jaxtl.models.signals import FLOOR, SignalCnn, SpectrogramCnn, Spectrum, log_spectrogram
from jaxtl.trees import named_leaves

RANDOM = np.random.default_rng(0)
CASES = [(64, 8, 1, 100), (3, 1, 4, 17), (4, 2, 3, 31), (5, 3, 2, 12), (1, 1, 2, 6)]  # kernel, stride, channels, T


def arrays(length, channels, samples):
    signals = RANDOM.normal(size=(2, samples, channels)).astype(np.float32)
    return signals, RANDOM.normal(size=(length, channels, 5)).astype(np.float32)


def by_hand(signals, kernel, stride):
    """The sum as it is written, sample by sample."""
    batch, samples, _ = signals.shape
    count = -(-samples // stride)
    padding = max((count - 1) * stride + len(kernel) - samples, 0)
    padded = np.pad(signals, ((0, 0), (padding // 2, padding - padding // 2), (0, 0)))
    out = np.zeros((batch, count, kernel.shape[2]))
    for t in range(count):
        part = padded[:, t * stride : t * stride + len(kernel)]
        out[:, t] = np.einsum("bic,icd->bd", part, kernel)
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_along_time_is_the_sum_that_is_written(case):
    length, stride, channels, samples = case
    signals, kernel = arrays(length, channels, samples)
    expected = by_hand(signals, kernel, stride)
    assert np.allclose(convolve_in_time(signals, kernel, stride), expected, atol=1e-4)
    with by_the_library():
        assert np.allclose(convolve_in_time(signals, kernel, stride), expected, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_pytorch(case):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch: pip install '.[oracles]'")
    import torch

    length, stride, channels, samples = case
    signals, kernel = arrays(length, channels, samples)
    count = -(-samples // stride)
    padding = max((count - 1) * stride + length - samples, 0)
    theirs = [torch.tensor(a, requires_grad=True) for a in (signals.transpose(0, 2, 1), kernel.transpose(2, 1, 0))]
    padded = torch.nn.functional.pad(theirs[0], (padding // 2, padding - padding // 2))
    out = torch.nn.functional.conv1d(padded, theirs[1], stride=stride)
    weights = RANDOM.normal(size=(2, count, 5)).astype(np.float32)
    (out * torch.tensor(weights.transpose(0, 2, 1))).sum().backward()

    def weighed(signals, kernel):
        return jnp.sum(convolve_in_time(signals, kernel, stride) * weights)

    of_signals, of_kernel = jax.jit(jax.grad(weighed, (0, 1)))(signals, kernel)
    assert np.allclose(convolve_in_time(signals, kernel, stride), out.detach().numpy().transpose(0, 2, 1), atol=1e-4)
    assert np.allclose(of_signals, theirs[0].grad.numpy().transpose(0, 2, 1), atol=1e-4)
    assert np.allclose(of_kernel, theirs[1].grad.numpy().transpose(2, 1, 0), atol=1e-4)


def test_many_kernels_side_by_side_are_as_one_after_another():
    signals, _ = arrays(4, 3, 31)
    kernels = RANDOM.normal(size=(3, 4, 3, 5)).astype(np.float32)
    together = jax.vmap(lambda kernel: convolve_in_time(signals, kernel, 2))(kernels)
    assert np.allclose(together, [convolve_in_time(signals, kernel, 2) for kernel in kernels], atol=1e-5)


def test_a_spectrogram_is_that_of_numpy_and_does_not_see_the_mean():
    signals, _ = arrays(1, 2, 96)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / 32)
    found = np.asarray(log_spectrogram(jnp.asarray(signals), 32, 16))
    assert found.shape == (2, 5, 16, 2)
    for t in range(5):
        part = signals[:, 16 * t : 16 * t + 32] * hann[None, :, None]
        energy = np.abs(np.fft.rfft(part, axis=1)[:, 1:]) ** 2 / np.sum(hann**2)
        assert np.allclose(found[:, t], np.log(energy + FLOOR), atol=1e-3)
    silent = np.asarray(log_spectrogram(jnp.zeros((1, 32, 1)), 32, 16))
    assert np.allclose(silent, np.log(FLOOR))
    moved = np.asarray(log_spectrogram(jnp.asarray(signals + 1.0), 32, 16))
    assert np.allclose(moved[:, :, 1:], found[:, :, 1:], atol=1e-2)  # a window of Hann leaks into the first column
    with pytest.raises(InputError, match="windows of 64"):
        log_spectrogram(jnp.zeros((1, 32, 1)), 64, 16)


@pytest.mark.parametrize("trunk", [SignalCnn((8, 8, 16)), SpectrogramCnn((8, 8, 16)), SignalCnn((8, 8, 16), "none")])
def test_a_trunk_cut_in_two_is_the_trunk_and_examples_do_not_mix(trunk):
    model = Classifier(trunk, (("head", 3),))
    signals = jnp.asarray(RANDOM.normal(size=(4, 512, 2)), jnp.float32)
    params = initialise(model, jax.random.key(0), (512, 2))
    whole = model.apply({"params": params}, signals, False)
    assert whole["features"].shape == (4, 16)
    assert list(whole["taps"]) == ["conv_0", "conv_1", "conv_2"]
    assert np.allclose(model.apply({"params": params}, signals[:1], False)["head"], whole["head"][:1], atol=1e-4)
    for depth in (1, 2):
        below, above = cut(model, depth)
        kept, _ = below.apply({"params": params["trunk"]}, signals, False)
        assert np.array_equal(above.apply({"params": params}, kept, False)["head"], whole["head"])
    labels = named_leaves(label_by_depth(params, stage_paths(model)))
    assert labels["trunk/conv_0/kernel"] == "depth:0"
    assert labels["head/kernel"] == "depth:3"
    assert not initial_model_state(model, (512, 2))


def test_batch_normalisation_averages_over_examples_and_time():
    model = Classifier(SignalCnn((8,), "batch", first=3, stride=1), ())
    signals = jnp.asarray(RANDOM.normal(size=(6, 32, 1)), jnp.float32)
    params, state = initialise(model, jax.random.key(0), (32, 1)), initial_model_state(model, (32, 1))
    _, after = model.apply({"params": params, **state}, signals, True, mutable=["batch_stats"])
    raw = convolve_in_time(signals, params["trunk"]["conv_0"]["kernel"])
    mean = after["batch_stats"]["trunk"]["norm_0"]["mean"]
    assert np.allclose(mean, 0.1 * np.asarray(raw).mean(axis=(0, 1)), atol=1e-5)


def test_the_wide_kernel_finds_a_tone_wherever_it_is_and_a_signal_that_is_too_short_is_refused():
    model = Classifier(SignalCnn(), (("head", 2),))
    params = initialise(model, jax.random.key(0), (1024, 1))
    assert params["trunk"]["conv_0"]["kernel"].shape == (64, 1, 16)
    assert params["trunk"]["conv_1"]["kernel"].shape == (3, 16, 32)
    with pytest.raises(InputError, match="cannot be halved"):
        initialise(Classifier(SignalCnn(), ()), jax.random.key(0), (8, 1))


def test_the_spectrum_has_no_parameter_and_tells_two_tones_apart():
    model = Classifier(Spectrum(), (("head", 2),))
    assert set(initialise(model, jax.random.key(0), (64, 1))) == {"head"}
    time = np.arange(64) / 64
    tones = np.stack([np.sin(2 * np.pi * f * time) for f in (5, 20)])[..., None].astype(np.float32)
    params = initialise(model, jax.random.key(0), (64, 1))
    features = model.apply({"params": params}, jnp.asarray(tones), False)["features"]
    assert features.shape == (2, 32)
    assert np.argmax(features, axis=1).tolist() == [4, 19]
    assert isinstance(SpectrogramCnn(), Cnn)
