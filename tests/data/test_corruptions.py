"""Against NumPy and SciPy, compiled and not, on uint8 and on floats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxtl.data import contrast, gaussian_blur, gaussian_noise, pixelate
from jaxtl.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype(np.float32)], ids=["uint8", "float32"])
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 2.5])
def test_blur_is_that_of_scipy(images, sigma):
    expected = ndimage.gaussian_filter(
        images.astype(np.float64), (0, sigma, sigma, 0), mode="nearest", radius=(0, *[int(np.ceil(4 * sigma))] * 2, 0)
    )
    found = jax.jit(gaussian_blur, static_argnums=1)(images, sigma)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("factor", [0.0, 0.15, 1.0, 3.0])
def test_contrast(factor):
    mean = IMAGES.astype(np.float64).mean(axis=(1, 2), keepdims=True)
    expected = np.clip(mean + factor * (IMAGES - mean), 0, 255)
    np.testing.assert_allclose(jax.jit(contrast)(IMAGES, factor), expected, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pixelate(size):
    expected = np.empty(IMAGES.shape)
    for row in range(0, 8, size):
        for column in range(0, 12, size):
            block = IMAGES[:, row : row + size, column : column + size].astype(np.float64)
            expected[:, row : row + size, column : column + size] = block.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(jax.jit(pixelate, static_argnums=1)(IMAGES, size), expected, atol=1e-3)


def test_noise_has_the_deviation_asked_for_and_is_a_function_of_the_key():
    grey = jnp.full((4, 64, 64, 3), 128, jnp.uint8)
    noisy = jax.jit(gaussian_noise)(grey, jax.random.key(0), 20.0)
    assert noisy.shape == grey.shape
    assert abs(float(noisy.mean()) - 128) < 0.3
    assert abs(float(noisy.std()) - 20) < 0.3
    channels = np.asarray(noisy).reshape(-1, 3).T
    assert np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.05
    np.testing.assert_allclose(noisy, gaussian_noise(grey, jax.random.key(0), 20.0), atol=1e-4)
    assert not np.allclose(noisy, gaussian_noise(grey, jax.random.key(1), 20.0), atol=1.0)
    np.testing.assert_array_equal(gaussian_noise(IMAGES, jax.random.key(0), 0.0), IMAGES)


def test_grey_levels_stay_within_their_range():
    noisy = gaussian_noise(IMAGES, jax.random.key(0), 100.0)
    assert (float(noisy.min()), float(noisy.max())) == (0.0, 255.0)
    assert (float(contrast(IMAGES, 9.0).min()), float(contrast(IMAGES, 9.0).max())) == (0.0, 255.0)


@pytest.mark.parametrize(
    ("corrupt", "said"),
    [
        (lambda: gaussian_noise(IMAGES, jax.random.key(0), -1.0), "std: -1.0 is negative"),
        (lambda: gaussian_blur(IMAGES, -0.5), "sigma: -0.5 is negative"),
        (lambda: contrast(IMAGES, float("nan")), "factor: nan"),
        (lambda: pixelate(IMAGES, 3), "blocks of 3 pixels in images of 8x12"),
        (lambda: pixelate(IMAGES, 0), "blocks of 0 pixels"),
    ],
)
def test_wrong_strengths(corrupt, said):
    with pytest.raises(InputError, match=said):
        corrupt()
