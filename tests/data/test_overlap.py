"""What two tasks have in common: known by its pixels, and in one of them only."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.data import Stored, by_class, from_arrays, load, source_and_target
from jaxtl.data.overlap import apart, without_copies
from jaxtl.errors import InputError


def made(numbers, labels, test_numbers=(1000, 1001), dtype=np.uint8):
    """A set whose images are numbers in two bytes, so that equal numbers are copies."""

    def images(values):
        return np.array([divmod(value, 256) for value in values], dtype).reshape(-1, 1, 2, 1)

    return from_arrays(images(numbers), labels, images(test_numbers), [0, 0])


def numbers(part):
    images = np.asarray(part.images).astype(int)
    return (256 * images[:, 0, 0, 0] + images[:, 0, 1, 0]).tolist()


def test_tasks_without_a_class_in_common_stay_as_they_are():
    digits = load("digits")
    for split in ("0-4:5-9", "0:1"):
        source, target = source_and_target(split, digits, digits)
        for task in (source, target):
            whole = by_class(digits, task.classes)
            np.testing.assert_array_equal(task.train.images, whole.train.images)
            assert (task.origin, task.notice) == (whole.origin, "")


def test_each_class_of_both_is_divided_in_halves_and_the_others_are_whole():
    digits = load("digits")
    source, target = source_and_target("0-4:3-7", digits, digits)
    sizes = np.bincount(digits.train.labels)
    theirs, ours = np.bincount(source.train.labels), np.bincount(target.train.labels)
    np.testing.assert_array_equal(theirs[:3], sizes[:3])
    np.testing.assert_array_equal(ours[2:], sizes[5:8])
    np.testing.assert_array_equal(theirs[3:] + ours[:2], sizes[3:5])
    assert np.all(np.abs(theirs[3:] - ours[:2]) <= 1)
    seen = {image.tobytes() for image in source.train.images}
    assert not seen & {image.tobytes() for part in (target.train, target.test) for image in part.images}
    for task in (source, target):
        np.testing.assert_array_equal(task.test.images, by_class(digits, task.classes).test.images)
        assert task.notice in task.origin
    assert f"without {sizes[3:5].sum() - theirs[3:].sum()} of its" in source.notice


def test_two_names_of_one_set_are_divided_as_it_is():
    """In another order, and as floats: what counts are the pixels."""
    one = load("digits")
    order = np.random.default_rng(0).permutation(len(one.train))
    shuffled = one.train.take(order)
    other = dataclasses.replace(one, name="copy", train=shuffled)
    expected, found = source_and_target("0-4:3-7", one, one), source_and_target("0-4:3-7", one, other)
    for a, b in zip(expected, found, strict=True):
        assert sorted(map(bytes, a.train.images)) == sorted(map(bytes, b.train.images))
    assert not source_and_target("0-4:5-9", one, other)[0].notice
    parts = (part.having(image=part.images.astype(np.float32)) for part in (one.train, one.test))
    in_floats = dataclasses.replace(one, **dict(zip(("train", "test"), parts, strict=True)))
    source, target = source_and_target("0-4:3-7", one, in_floats)
    assert len(source.train) + len(target.train) == len(expected[0].train) + len(expected[1].train)
    assert not set(map(bytes, source.train.images)) & set(map(bytes, target.train.images.astype(np.uint8)))


def test_what_the_target_is_tested_on_is_no_source_example():
    source = made(range(8), [0, 1] * 4)
    target = made(range(100, 106), [0, 1] * 3, test_numbers=(6, 7))
    cut, same = apart(source, target)
    assert numbers(cut.train) == list(range(6))
    assert numbers(same.train) == numbers(target.train)


def test_images_of_another_shape_have_nothing_in_common():
    source, target = made(range(4), [0, 1] * 2), from_arrays(np.zeros((8, 2, 2), np.uint8), [0, 1] * 4)
    assert apart(source, target) == (source, target)


def test_images_on_disk_are_divided_like_those_in_memory():
    digits = load("digits")

    def on_disk(part):
        read = lambda rows: part.images[rows]  # noqa: E731
        return part.having(image=Stored(read, np.arange(len(part)), part.images.shape[1:]))

    stored = dataclasses.replace(digits, train=on_disk(digits.train), test=on_disk(digits.test))
    for a, b in zip(
        source_and_target("0-2:2", digits, digits), source_and_target("0-2:2", stored, stored), strict=True
    ):
        np.testing.assert_array_equal(a.train.images, np.asarray(b.train.images))
        np.testing.assert_array_equal(a.train.labels, b.train.labels)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=1, max_size=40), st.integers(0, 2**32))
def test_whatever_they_have_in_common_nothing_serves_both_and_nothing_is_lost(extra, seed):
    """Copies, also under other labels."""
    random = np.random.default_rng(seed)
    whole = [(200 + i, i % 3) for i in range(30)] + extra  # enough that each class keeps some
    parts = [random.permutation(whole), random.permutation(whole)]
    source, target = (made(part[:, 0], part[:, 1]) for part in parts)
    cut = apart(source, target)
    theirs, ours = (numbers(task.train) for task in cut)
    assert not set(theirs) & set(ours)
    assert {*theirs, *ours} == {number for number, _ in whole}
    for task, before in zip(cut, (source, target), strict=True):  # who stays keeps label and copies
        pairs = list(zip(numbers(before.train), before.train.labels, strict=True))
        assert list(zip(numbers(task.train), task.train.labels, strict=True)) == [
            pair for pair in pairs if pair[0] in set(numbers(task.train))
        ]
        assert set(task.train.labels) == {0, 1, 2}


def test_a_class_that_cannot_be_divided_is_named():
    data = made([0, 1, 2, 3, 7], [0, 0, 0, 0, 1])
    with pytest.raises(InputError, match="class '1' is left for the source"):
        apart(data, data)


# ---------------------------------------------------------------- one set, trained and tested on


def pictures_of(numbers_, labels, patients, tested, tested_labels, tested_patients):
    """Pictures that are numbers, of patients."""
    arrays = [np.array(values, np.int32).reshape(-1, 1) for values in (numbers_, tested)]
    known = {"groups": patients, "test_groups": tested_patients} if patients is not None else {}
    return from_arrays(arrays[0], labels, arrays[1], tested_labels, **known)


def test_copies_of_others_what_is_tested_and_patients_who_are_tested_are_not_trained_on():
    data = pictures_of([0, 1, 1, 2, 9, 3, 9], [0, 1, 1, 0, 0, 1, 1], list("aabbcdc"), [9, 8], [0, 1], ["e", "d"])
    found = without_copies(data)
    assert found.train["image"].ravel().tolist() == [0, 1, 2]  # not the second 1, no 9, not patient d's 3
    assert found.train.labels.tolist() == [0, 1, 0]
    assert not {*found.train.groups} & {*found.test.groups}
    assert found.test is data.test
    assert found.notice.endswith(
        "trained without 4 of 7 examples: 1 repeats another, 2 are tested, 1 is of a group that is tested"
    )
    assert found.notice.rpartition("; ")[2] in found.origin
    assert without_copies(found) is found


def test_a_class_that_is_tested_whole_is_refused():
    with pytest.raises(InputError, match="all training examples of class '1' are tested too"):
        without_copies(pictures_of([0, 9], [0, 1], None, [9], [1], None))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=40), st.integers(0, 2**32))
def test_after_it_no_picture_stands_twice_and_no_patient_on_both_sides(extra, seed):
    random = np.random.default_rng(seed)
    whole = random.permutation([(100 + k, 100 + k) for k in range(4)] + extra).T
    tested, patients = random.integers(0, 20, 5), random.integers(0, 7, 5)
    labels = np.where(whole[0] >= 100, whole[0] % 2, random.integers(0, 2, len(whole[0])))
    data = pictures_of(whole[0], labels, whole[1], tested, [0, 1, 0, 1, 0], patients)
    found = without_copies(data)
    kept = found.train["image"].ravel().tolist()
    assert len(set(kept)) == len(kept)
    assert not set(kept) & set(tested.tolist())
    assert not {*found.train.groups} & {*found.test.groups}
    tested_groups = {*data.test.groups}
    allowed = {n for n, g in zip(whole[0].tolist(), data.train.groups, strict=True) if g not in tested_groups}
    assert set(kept) <= allowed
