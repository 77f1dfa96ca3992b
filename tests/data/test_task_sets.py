"""Several tasks on one input: what the images show is what the targets say, and nothing is on both sides."""

import dataclasses

import numpy as np
import pytest

from jaxtl.data import from_arrays, load
from jaxtl.data.task_sets import class_and_group, linnerud, low_rank, standardised, two_digits
from jaxtl.errors import InputError


@pytest.fixture(scope="module")
def telling():
    """Ten classes whose pixels say which digit it is and which one of them."""
    labels = np.arange(200) % 10
    images = np.zeros((200, 3, 2, 1), np.uint8)
    images[:, 0], images[:, 1] = labels[:, None, None], np.arange(200)[:, None, None]
    return from_arrays(images[:150], labels[:150], images[150:], labels[150:])


def test_two_digits_stand_side_by_side_and_every_answer_is_theirs(telling):
    for part in (two_digits(telling).train, two_digits(telling).test):
        left, right = part.images[:, 0, 0, 0].astype(int), part.images[:, 0, 2, 0].astype(int)
        assert part.images.shape[1:] == (3, 4, 1)
        assert np.array_equal(part["left"], left)
        assert np.array_equal(part["right"], right)
        assert np.array_equal(part["larger"], left > right)
        assert np.array_equal(part["sum"], left + right)
        assert np.array_equal(part["parity"], (left + right) % 2)
        assert {target.dtype for name, target in part.fields.items() if name != "image"} == {np.dtype(np.int32)}


def test_a_digit_is_what_its_class_is_called_in_whatever_order(telling):
    names = list("9036124587")
    order = np.array([names.index(name) for name in telling.classes])
    parts = [part.having(label=order[part.labels].astype(np.int32)) for part in (telling.train, telling.test)]
    renumbered = dataclasses.replace(telling, train=parts[0], test=parts[1], classes=tuple(names))
    for task in ("left", "sum", "parity", "larger"):
        expected, found = (two_digits(data).train[task] for data in (telling, renumbered))
        assert np.array_equal(expected, found)


def test_no_digit_occurs_twice_and_none_on_both_sides(telling):
    pairs = two_digits(telling)
    seen = [np.concatenate([part.images[:, 1, 0, 0], part.images[:, 1, 2, 0]]) for part in (pairs.train, pairs.test)]
    assert len(set(seen[0])) == len(seen[0]) == 150
    assert len(set(seen[1])) == len(seen[1]) == 50
    assert set(seen[0]).isdisjoint(seen[1])


def test_the_order_of_pairs_is_fixed_by_the_seed(telling):
    first, again, other = two_digits(telling, 3), two_digits(telling, 3), two_digits(telling, 4)
    assert np.array_equal(first.train.images, again.train.images)
    assert not np.array_equal(first.train.images, other.train.images)


def test_two_digits_need_ten_classes():
    data = from_arrays(np.zeros((9, 4, 4), np.uint8), np.arange(9) % 3)
    with pytest.raises(InputError, match="3 classes"):
        two_digits(data)


def test_the_group_is_that_of_the_class():
    data = class_and_group(load("digits"), {"low": ["0", "1", "2"], "high": list("3456789")})
    assert np.array_equal(data.train["group"], data.train["class"] >= 3)
    assert data.classes == {"class": 10, "group": 2}


@pytest.mark.parametrize(
    ("groups", "what"),
    [
        ({"low": list("0123")}, "class '4' is in no group"),
        ({"low": list("01234"), "high": list("456789")}, "class '4' is in two groups"),
        ({"low": ["cat"]}, "no class 'cat'"),
    ],
)
def test_groups_cover_every_class_once(groups, what):
    with pytest.raises(InputError, match=what):
        class_and_group(load("digits"), groups)


def test_low_rank_tasks_have_the_noise_and_the_rank_that_they_say():
    data = low_rank(tasks=5, rank=2, inputs=6, noise=0.5, train=20_000, test=10)
    y = np.concatenate(list(data.train.without("image").fields.values()), axis=1)
    solution, *_ = np.linalg.lstsq(data.train.images, y, rcond=None)
    left_over = np.mean((y - data.train.images @ solution) ** 2, axis=0)
    np.testing.assert_allclose(left_over, list(data.noise.values()), rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(solution, axis=0), 1.0, atol=0.03)
    assert np.linalg.matrix_rank(solution, tol=0.1) == 2


@pytest.mark.parametrize("wrong", [{"tasks": 0}, {"rank": 0}, {"rank": 9, "inputs": 8}, {"noise": -1.0}, {"test": 0}])
def test_low_rank_refuses_numbers_out_of_range(wrong):
    with pytest.raises(InputError):
        low_rank(**wrong)


def test_linnerud_is_split_and_whole():
    from sklearn.datasets import load_linnerud

    data = linnerud(test=5)
    theirs = load_linnerud()
    for task, column in (("weight", 0), ("waist", 1), ("pulse", 2)):
        both = np.concatenate([data.train[task], data.test[task]])[:, 0]
        assert sorted(both) == sorted(theirs.target[:, column])
    inputs = np.concatenate([data.train.images, data.test.images])
    match = [int(np.flatnonzero((theirs.data == row).all(axis=1))[0]) for row in inputs]
    weights = np.concatenate([data.train["weight"], data.test["weight"]])[:, 0]
    assert np.array_equal(theirs.target[match, 0], weights)
    with pytest.raises(InputError, match="20 of 20"):
        linnerud(test=20)


def test_standardised_inputs_are_averaged_over_blocks_and_scaled_by_the_training_part():
    pairs = two_digits(load("digits"))
    small = standardised(pairs, 4)
    assert small.train.images.shape == (719, 4, 8, 1)
    means = pairs.train.images.reshape(719, 4, 2, 8, 2).mean((2, 4), dtype=np.float64)
    expected = (means - means.mean()) / means.std()
    np.testing.assert_allclose(small.train.images[..., 0], expected, atol=1e-5)
    tested = pairs.test.images.reshape(179, 4, 2, 8, 2).mean((2, 4), dtype=np.float64)
    np.testing.assert_allclose(small.test.images[..., 0], (tested - means.mean()) / means.std(), atol=1e-5)
    assert small.train["left"] is pairs.train["left"]


@pytest.mark.parametrize("shape", [(24, 9), (9, 24)])
def test_tall_and_wide_images_are_averaged_by_their_shorter_edge(shape):
    images = np.random.default_rng(0).integers(0, 256, (12, *shape), np.uint8)
    tasks = class_and_group(from_arrays(images, np.arange(12) % 2, images, np.arange(12) % 2), {"all": "01"})
    assert standardised(tasks, 4).train.images.shape == (12, shape[0] // 2, shape[1] // 2, 1)
    assert standardised(tasks, 9).train.images.shape == (12, *shape, 1)


def test_standardised_numbers_keep_their_noise_in_proportion():
    data = low_rank(tasks=2, inputs=4, noise=2.0)
    scaled = standardised(data, 1)
    for task in data.classes:
        assert scaled.noise[task] == pytest.approx(4.0 / np.var(data.train[task]), rel=1e-5)
        assert scaled.train[task].std() == pytest.approx(1.0, rel=1e-5)
        assert scaled.test[task].mean() != 0.0  # the scale is that of the training part
