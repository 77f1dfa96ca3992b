"""Mixup and CutMix: images and labels are mixed by one number, with keys of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import Split, image_batches, on_device
from jaxtl.data.mixing import box, cutmix, mixup, then
from jaxtl.errors import InputError
from jaxtl.losses import mean_of, softmax_cross_entropy

KEY = jax.random.key(5)
CLASSES = 4


def batch(size=8):
    """Every image has one number everywhere, its own, and tells its class by it."""
    labels = jnp.arange(size) % CLASSES
    return {"image": jnp.ones((size, 6, 6, 1)) * labels[:, None, None, None], "label": labels}


@pytest.mark.parametrize("mix", [mixup(0.4, CLASSES), cutmix(1.0, CLASSES)])
def test_labels_are_mixed_as_images_are_under_jit_and_a_scan(mix):
    keys = jax.random.split(KEY, 20)
    images, labels = jax.jit(lambda: jax.lax.map(lambda key: _mixed(mix, key), keys))()
    np.testing.assert_allclose(labels.sum(axis=-1), np.ones(labels.shape[:2]), rtol=1e-5)
    np.testing.assert_allclose(images.mean(axis=(2, 3, 4)), labels @ np.arange(CLASSES), rtol=1e-4, atol=1e-5)
    shares = labels.max(axis=-1).min(axis=-1)
    assert len(np.unique(shares.round(4))) > 5  # another number in every step
    assert np.any(np.abs(shares - 1) > 0.05)


def _mixed(mix, key):
    mixed = mix(batch(), key)
    return mixed["image"], mixed["label"]


def test_one_number_and_one_pairing_serve_a_batch():
    mixed, plain = mixup(1.0, CLASSES)(batch(), KEY), batch()
    pairing, number = jax.random.split(KEY)
    order, share = jax.random.permutation(pairing, 8), jax.random.beta(number, 1.0, 1.0)
    np.testing.assert_allclose(mixed["image"], share * plain["image"] + (1 - share) * plain["image"][order], rtol=1e-6)


def test_the_box_is_that_of_fixed_numbers_and_its_share_counts_what_was_clipped():
    inside, share = box(16, 16, 0.7, 3, 12)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (rows.tolist(), columns.tolist()) == (list(range(7)), list(range(8, 16)))
    assert float(share) == 0.78125
    assert int(inside.sum()) == 56
    assert [float(box(16, 16, edge, 8, 8)[1]) for edge in (0.0, 1.0)] == [0.0, 1.0]


def test_a_loss_of_mixed_labels_is_the_mixed_loss():
    logits = jax.random.normal(KEY, (8, CLASSES))
    mixed = mixup(0.4, CLASSES)(batch(), KEY)
    of_pairs = jnp.stack([softmax_cross_entropy(logits, jnp.full(8, c)) for c in range(CLASSES)], axis=1)
    expected = jnp.mean(jnp.sum(mixed["label"] * of_pairs, axis=1))
    found = mean_of(softmax_cross_entropy)({"head": logits}, mixed, None)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_what_comes_before_draws_what_it_draws_alone():
    """A small number folded in would be one of the keys that the batch has used: fold_in(key, 1) is split(key)[1]."""
    images = np.random.default_rng(0).integers(0, 255, (12, 6, 6, 1), np.uint8)
    data = on_device(Split(images, np.arange(12) % CLASSES), KEY)
    prepare, seen = image_batches(8, np.zeros(1), np.ones(1), crop=2, flip=True), []

    def watch(batch, rng):
        seen.append(jax.random.key_data(rng))
        return batch

    plain, after = (make(data, KEY, 3)["image"] for make in (prepare, then(prepare, watch)))
    np.testing.assert_array_equal(plain, after)
    used = jax.random.key_data(jax.random.split(KEY, 64))
    assert (jax.random.key_data(jax.random.fold_in(KEY, 1)) == used[1]).all()  # the trap
    assert not any((key == seen[0]).all() for key in [*used, jax.random.key_data(KEY)])


def test_soft_labels_are_mixed_again_and_a_label_of_no_class_is_seen():
    twice = cutmix(1.0, CLASSES)(mixup(1.0, CLASSES)(batch(), KEY), jax.random.key(1))
    np.testing.assert_allclose(twice["label"].sum(axis=1), np.ones(8), rtol=1e-5)
    wrong = {**batch(), "label": jnp.full(8, CLASSES)}
    assert np.isnan(mixup(1.0, CLASSES)(wrong, KEY)["label"]).all()


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: mixup(0.0, 2), "0.0"),
        (lambda: cutmix(-1.0, 2), "-1.0"),
        (lambda: mixup(1.0, CLASSES)({**batch(), "mask": jnp.ones(8)}, KEY), "mask"),
        (lambda: cutmix(1.0, CLASSES)({"image": jnp.ones((8, 3)), "label": jnp.arange(8)}, KEY), "shape"),
    ],
)
def test_what_cannot_be_mixed_is_refused(call, what):
    with pytest.raises(InputError, match=what):
        call()
