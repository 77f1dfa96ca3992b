import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import channel_statistics, normalise, random_crop, random_flip
from jaxtl.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 6, 5, 3), dtype=np.uint8)


def crops(image, padding):
    """Every crop of one image after NumPy's reflecting pad, by its offset."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    height, width, _ = image.shape
    span = range(2 * padding + 1)
    return {(i, j): padded[i : i + height, j : j + width] for i in span for j in span}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("padding", [1, 3])
def test_crops_are_those_of_a_reflected_image(dtype, padding):
    images = IMAGES.astype(dtype)
    cropped = np.asarray(jax.jit(random_crop, static_argnums=2)(images, jax.random.key(0), padding))
    assert cropped.dtype == dtype
    offsets = []
    for image, result in zip(images, cropped, strict=True):
        matching = [offset for offset, crop in crops(image, padding).items() if np.array_equal(crop, result)]
        assert len(matching) == 1
        offsets += matching
    for axis in np.array(offsets).T:  # every offset occurs, about equally often
        counts = np.bincount(axis, minlength=2 * padding + 1)
        assert counts.min() > 0.4 * len(images) / (2 * padding + 1)
    assert abs(np.corrcoef(np.array(offsets).T)[0, 1]) < 0.2  # rows and columns move apart from each other


def test_no_padding_changes_nothing():
    np.testing.assert_array_equal(random_crop(jnp.asarray(IMAGES), jax.random.key(0), 0), IMAGES)


def test_cropping_commutes_with_normalising():
    rng, (mean, std) = jax.random.key(3), channel_statistics(IMAGES)
    first = normalise(random_crop(jnp.asarray(IMAGES), rng, 2), mean, std)
    np.testing.assert_array_equal(first, random_crop(normalise(jnp.asarray(IMAGES), mean, std), rng, 2))


@pytest.mark.parametrize("padding", [-1, 5])
def test_padding_that_cannot_be_reflected_is_refused(padding):
    with pytest.raises(InputError, match="6x5"):
        random_crop(jnp.asarray(IMAGES), jax.random.key(0), padding)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_about_half_of_the_images_are_mirrored(dtype):
    images = IMAGES.astype(dtype)
    flipped = np.asarray(jax.jit(random_flip)(images, jax.random.key(1)))
    assert flipped.dtype == dtype
    mirrored = [np.array_equal(result, image[:, ::-1]) for image, result in zip(images, flipped, strict=True)]
    kept = [np.array_equal(result, image) for image, result in zip(images, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 0.4 < np.mean(mirrored) < 0.6


@pytest.mark.parametrize("augment", [lambda x, rng: random_crop(x, rng, 2), random_flip], ids=["crop", "flip"])
def test_pure_functions_of_the_key(augment):
    images = jnp.asarray(IMAGES)
    np.testing.assert_array_equal(augment(images, jax.random.key(0)), augment(images, jax.random.key(0)))
    assert not np.array_equal(augment(images, jax.random.key(0)), augment(images, jax.random.key(1)))


def test_statistics_and_normalising():
    images = np.concatenate([IMAGES, IMAGES[:7]])  # not a multiple of the block
    mean, std = channel_statistics(images)
    assert (mean.dtype, std.dtype, mean.shape) == (np.float32, np.float32, (3,))
    np.testing.assert_allclose(mean, images.astype(np.float64).mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, images.astype(np.float64).std((0, 1, 2)), rtol=1e-6)
    result = jax.jit(normalise)(images, mean, std)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (images - mean) / std, atol=1e-6)
    np.testing.assert_allclose(np.mean(result, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(result, (0, 1, 2)), 1, atol=1e-5)


def test_statistics_of_features_with_a_large_mean():
    features = (1e4 + np.random.default_rng(0).normal(size=(5000, 2))).astype(np.float32)
    mean, std = channel_statistics(features)
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-7)
    np.testing.assert_allclose(std, features.astype(np.float64).std(0), rtol=1e-6)


@pytest.mark.parametrize("value", [0, 0.1, -1234.567])
@pytest.mark.parametrize("last_digit", [False, True], ids=["constant", "up to the last digit"])
def test_a_constant_channel_becomes_zero(value, last_digit):
    images = np.full((50, 4, 4, 1), value, np.float32)
    if last_digit and value:
        images[::2] = np.nextafter(images[::2], np.float32(np.inf))
    mean, std = channel_statistics(images)
    assert std.tolist() == [1.0]
    np.testing.assert_allclose(normalise(jnp.asarray(images), mean, std), 0, atol=1e-3)
