"""The `prepare` of a step: which examples, normalised how, augmented only when asked."""

import jax
import numpy as np
import pytest

from jaxtl.data import Split, image_batches, on_device

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
SPLIT = Split(RANDOM.integers(0, 256, (30, 6, 6, 3), dtype=np.uint8), np.arange(30, dtype=np.int32))
MEAN, STD = np.array([10.0, 20.0, 30.0], np.float32), np.array([1.0, 2.0, 4.0], np.float32)


def test_images_stay_uint8_on_the_device_and_leave_normalised():
    data = on_device(SPLIT, KEY)
    assert data["image"].dtype == np.uint8
    batch = image_batches(8, MEAN, STD)(data, KEY, 3)
    expected = (SPLIT.images[batch["label"]].astype(np.float64) - MEAN) / STD
    np.testing.assert_allclose(batch["image"], expected, rtol=1e-6)


def test_an_epoch_holds_every_chosen_example_once_and_no_other():
    chosen = np.array([2, 3, 5, 7, 11, 13, 17, 19])
    prepare = jax.jit(image_batches(4, MEAN, STD))
    data = on_device(SPLIT, KEY, chosen)
    for epoch in range(3):
        labels = np.concatenate([prepare(data, KEY, 2 * epoch + i)["label"] for i in range(2)])
        assert sorted(labels) == list(chosen)


def test_the_order_depends_on_its_own_key_and_the_augmentation_on_the_other():
    prepare = image_batches(8, MEAN, STD, crop=2, flip=True)
    same = prepare(on_device(SPLIT, KEY), jax.random.key(1), 0)
    other_rng = prepare(on_device(SPLIT, KEY), jax.random.key(2), 0)
    other_order = prepare(on_device(SPLIT, jax.random.key(9)), jax.random.key(1), 0)
    np.testing.assert_array_equal(same["label"], other_rng["label"])
    assert not np.array_equal(same["image"], other_rng["image"])
    assert not np.array_equal(same["label"], other_order["label"])


def test_a_batch_is_never_larger_than_the_examples():
    assert len(image_batches(50, MEAN, STD)(on_device(SPLIT, KEY, np.arange(7)), KEY, 0)["label"]) == 7


@pytest.mark.parametrize(("how", "changes"), [({}, False), ({"crop": 2}, True), ({"flip": True}, True)])
def test_only_what_is_asked_for_is_done(how, changes):
    batch = image_batches(30, MEAN, STD, **how)(on_device(SPLIT, KEY), KEY, 0)
    plain = (SPLIT.images[batch["label"]].astype(np.float64) - MEAN) / STD
    assert np.allclose(batch["image"], plain, rtol=1e-6) != changes
