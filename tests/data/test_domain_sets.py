"""Two domains out of one set: no image on both sides, labels that mean the same, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from jaxtl.data import contrast, from_arrays, gaussian_noise
from jaxtl.data.domain_sets import UNKNOWN, by_field, halved, open_set, partial, two_by_field
from jaxtl.errors import InputError


def numbered(count=60, classes=6):
    """Images that can be told apart by their level."""
    images = np.repeat(np.arange(count, dtype=np.uint8), 16).reshape(count, 4, 4) * 4
    fields = {"image": images, "lab": np.arange(count) % 2}
    return from_arrays(fields, np.arange(count) // 2 % classes)


def test_halves_share_no_image_and_only_one_is_changed():
    data = numbered()
    source, target = halved(data, lambda images, key: contrast(images, 0.5) + 1, "paler")
    levels = [{int(image[0, 0, 0]) for image in part.train.images} for part in (source, target)]
    assert len(levels[0]) + len(levels[1]) == len(data.train)
    assert not levels[0] & {level - 1 for level in levels[1]}
    np.testing.assert_array_equal(target.test.images, source.test.images + 1)
    np.testing.assert_array_equal(target.test.labels, data.test.labels)
    assert target.name == "arrays, paler"


def test_noise_differs_from_block_to_block_and_is_always_the_same():
    data = from_arrays(np.full((2300, 2, 2), 100, np.uint8), np.arange(2300) % 2, test_fraction=0.02)
    noisy = [halved(data, lambda images, key: gaussian_noise(images, key, 20.0), "noise")[1] for _ in range(2)]
    np.testing.assert_array_equal(noisy[0].train.images, noisy[1].train.images)
    images = noisy[0].train.images
    assert len(images) > 1000
    assert not np.array_equal(images[: len(images) - 1000], images[1000:])


def test_a_partial_target_has_fewer_classes_and_an_open_one_a_further_one():
    data = numbered()
    first, second = by_field(data, "lab")
    _, target = partial(first, second, 4)
    assert {*target.train.labels} == {0, 1, 2, 3}
    assert {*target.test.labels} <= {0, 1, 2, 3}
    assert target.classes == first.classes
    source, target = open_set(first, second, 4)
    assert source.classes == target.classes == ("0", "1", "2", "3", UNKNOWN)
    assert {*source.train.labels} == {0, 1, 2, 3}
    assert {*target.train.labels} == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(target.test.labels, np.minimum(second.test.labels, 4))
    for shared in (0, 6):
        with pytest.raises(InputError, match=f"{shared} of 6 classes are shared"):
            partial(first, second, shared)
        with pytest.raises(InputError, match=f"{shared} of 6 classes are shared"):
            open_set(first, second, shared)


def test_a_set_for_each_value_of_a_field():
    data = numbered()
    parts = by_field(data, "lab")
    assert sum(len(part.train) for part in parts) == len(data.train)
    for lab, part in enumerate(parts):
        assert {*part.train["lab"], *part.test["lab"]} == {lab}
    with pytest.raises(InputError, match=r"has no field 'site'\n  it has image, lab, label"):
        by_field(data, "site")
    with pytest.raises(InputError, match="'lab' of 'arrays, lab 0' is 0 in training"):
        by_field(parts[0], "lab")


def test_two_values_of_a_field_and_classes_that_both_have_enough_of():
    labels, lab = np.array([0, 0, 1, 1, 2, 2] * 6), np.arange(36) % 2
    labels[(lab == 1) & (labels == 2)] = 0
    fields = {"image": np.arange(36, dtype=np.uint8).repeat(4).reshape(36, 2, 2), "lab": lab}
    data = from_arrays(fields, labels, fields, labels, classes=["a", "b", "c"])
    first, second = two_by_field(data, "lab", 4)
    assert first.classes == second.classes == ("a", "b")
    assert {*first.train["lab"]} == {0}
    assert {*second.train["lab"]} == {1}
    with pytest.raises(InputError, match="0 classes have 7 training examples for each 'lab'"):
        two_by_field(data, "lab", 7)
    three = from_arrays({**fields, "lab": np.arange(36) % 3}, labels, {**fields, "lab": np.arange(36) % 3}, labels)
    with pytest.raises(InputError, match="'lab' has 3 values"):
        two_by_field(three, "lab", 1)
