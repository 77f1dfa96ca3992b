import itertools
import math

import numpy as np
import pytest

from jaxtl.data import by_class, from_arrays, hold_out, imbalanced, label_noise, per_class, stratified_folds
from jaxtl.errors import InputError

LABELS = np.random.default_rng(1).permutation(np.repeat(np.arange(4), [40, 20, 10, 7]))
NAMES = ["cat", "dog", "ship", "frog"]


def dataset():
    numbers = np.arange(24, dtype=np.float32)[:, None]
    return from_arrays(numbers, np.arange(24) % 4, numbers[:6], np.arange(6) % 4, classes=NAMES, origin="here")


@pytest.mark.parametrize("classes", [["frog", "cat"], [3, 0], ["frog", np.int64(0)]], ids=["names", "numbers", "both"])
def test_by_class_renumbers_in_the_order_given(classes):
    data = by_class(dataset(), classes)
    assert data.classes == ("frog", "cat")
    assert data.train.images.ravel().tolist() == [i for i in range(24) if i % 4 in (0, 3)]
    np.testing.assert_array_equal(data.train.labels, np.where(data.train.images.ravel() % 4 == 3, 0, 1))
    assert data.test.images.ravel().tolist() == [0, 3, 4]
    assert data.test.labels.tolist() == [1, 0, 1]
    assert data.train.labels.dtype == np.int32
    assert data.origin == "here; classes frog, cat only"


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["frogg"], "did you mean 'frog'?"),
        ([4], "no class 4"),
        ([-1], "no class -1"),
        ([1.0], "no class 1.0"),
        (["cat", 0], "class 'cat' occurs twice"),
        ([], "classes is []"),
        ("cat", "classes is 'cat'"),
    ],
)
def test_by_class_names_mistakes(classes, said):
    with pytest.raises(InputError) as caught:
        by_class(dataset(), classes)
    assert said in str(caught.value)


def test_by_class_needs_test_examples():
    data = from_arrays(np.zeros((6, 2)), [0, 1, 2] * 2, np.zeros((1, 2)), [0])
    with pytest.raises(InputError, match="no test example of the classes 1, 2"):
        by_class(data, [1, 2])


@pytest.mark.parametrize("count", [1, 7, 19, 38, 73])
def test_hold_out_is_proportional(count):
    held, rest = hold_out(LABELS, count, seed=5)
    assert sorted([*held, *rest]) == list(range(len(LABELS)))
    assert (len(held), held.tolist(), rest.tolist()) == (count, sorted(held), sorted(rest))
    exact = count * np.bincount(LABELS) / len(LABELS)
    took = np.bincount(LABELS[held], minlength=4)
    if count < 73:
        assert np.all(np.abs(took - exact) < 1)
    assert np.all(took < np.bincount(LABELS))


def test_hold_out_does_not_favour_low_classes():
    """With 1 of 8 equal classes to choose, every class is chosen by some seed."""
    labels = np.repeat(np.arange(8), 3)
    assert {int(labels[hold_out(labels, 1, seed)[0][0]]) for seed in range(80)} == set(range(8))


def test_per_class_draws_n_of_each_without_repetition():
    drawn = per_class(LABELS, 7, seed=0)
    assert len(set(drawn.tolist())) == 28
    np.testing.assert_array_equal(LABELS[drawn], np.repeat(np.arange(4), 7))
    assert set(per_class(LABELS, 3, seed=0)) < set(drawn)
    assert set(per_class(LABELS, 3, seed=1)) != set(per_class(LABELS, 3, seed=0))


def test_per_class_among():
    held, rest = hold_out(LABELS, 30, seed=0)
    drawn = per_class(LABELS, 2, seed=0, among=rest)
    assert set(drawn) <= set(rest)
    assert not set(drawn) & set(held)
    np.testing.assert_array_equal(drawn, per_class(LABELS, 2, seed=0, among=rest[::-1]))


def test_every_member_can_be_drawn():
    seen = set()
    for seed in range(100):
        seen |= set(per_class(LABELS, 1, seed).tolist())
    assert len(seen) > 60  # 77 members; classes of 7 to 40, each drawn from 100 times


@pytest.mark.parametrize("folds", [2, 3, 5, 7])
def test_folds(folds):
    parts = stratified_folds(LABELS, folds, seed=2)
    assert sorted(np.concatenate([validation for _, validation in parts])) == list(range(len(LABELS)))
    sizes = np.array([np.bincount(LABELS[validation], minlength=4) for _, validation in parts])
    assert np.ptp(sizes, axis=0).max() <= 1
    assert np.ptp(sizes.sum(axis=1)) <= 1
    for train, validation in parts:
        assert sorted([*train, *validation]) == list(range(len(LABELS)))
    assert any(
        mine[1].tolist() != other[1].tolist()
        for mine, other in zip(parts, stratified_folds(LABELS, folds, seed=3), strict=True)
    )


def test_pure_functions_of_their_arguments():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    draws = (
        lambda: hold_out(LABELS, 9, 4)[0],
        lambda: per_class(LABELS, 4, 4),
        lambda: stratified_folds(LABELS, 3, 4)[1][1],
    )
    for draw in draws:
        np.testing.assert_array_equal(draw(), draw())
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


MISTAKES = {
    "hold out none": (lambda: hold_out(LABELS, 0, 0), "hold out 1 to 73"),
    "hold out too many": (lambda: hold_out(LABELS, 74, 0), "hold out 1 to 73"),
    "no labels": (lambda: hold_out(LABELS[:0], 1, 0), "no examples"),
    "class too small": (lambda: per_class(LABELS, 8, 0), "class 3 has 7 examples to draw from, 8 are wanted"),
    "class not among": (lambda: per_class(LABELS, 1, 0, np.flatnonzero(LABELS != 2)), "class 2 has 0 examples"),
    "n is zero": (lambda: per_class(LABELS, 0, 0), "0 examples of a class"),
    "index beyond": (lambda: per_class(LABELS, 1, 0, np.array([77])), "indices from 77 to 77 into 77 labels"),
    "negative index": (lambda: per_class(LABELS, 1, 0, np.array([-1])), "indices from -1"),
    "index twice": (lambda: per_class(LABELS, 1, 0, np.array([1, 1])), "each once"),
    "class too small by name": (lambda: per_class(LABELS, 8, 0, classes=NAMES), "class 'frog' has 7 examples"),
    "folds above class by name": (lambda: stratified_folds(LABELS, 8, 0, classes=NAMES), "class 'frog' has 7 examples"),
    "a mask": (lambda: per_class(LABELS, 1, 0, LABELS == 1), "each once"),
    "folds above class": (lambda: stratified_folds(LABELS, 8, 0), "class 3 has 7 examples for 8 folds"),
    "one fold": (lambda: stratified_folds(LABELS, 1, 0), "1 folds"),
    "seed": (lambda: stratified_folds(LABELS, 2, -1), "seed -1 is negative"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    call, said = MISTAKES[mistake]
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)


# ---- long tails and wrong labels


FEW = np.repeat(np.arange(5), 5)
SKEWED = np.repeat([0, 1, 2, 3], [80, 40, 60, 100])[np.random.default_rng(1).permutation(280)]


@pytest.mark.parametrize("ratio", [1, 2, 10.5, 1000])
def test_imbalanced_keeps_the_shares(ratio):
    kept = imbalanced(SKEWED, ratio, seed=3)
    shares = np.array([80, 40, 60, 100]) * ratio ** (-np.arange(4) / 3)
    assert np.all(np.abs(np.bincount(SKEWED[kept]) - np.maximum(1, shares)) < 1)
    assert np.all(np.diff(kept) > 0)


@pytest.mark.parametrize("ratio", [1.05, 1.1, 2.0])
def test_a_share_of_few_examples_is_right_on_average(ratio):
    """Rounded to whole examples, 1.1 of 5 examples would thin out nothing."""
    sizes = np.array([np.bincount(FEW[imbalanced(FEW, ratio, seed)]) for seed in range(400)])
    np.testing.assert_allclose(sizes.mean(axis=0), 5 * ratio ** (-np.arange(5) / 4), atol=4 * 0.5 / np.sqrt(400))
    assert np.all(np.diff(sizes) <= 0)


def test_a_larger_ratio_keeps_a_part_of_the_same_draw():
    small, large = imbalanced(SKEWED, 3, seed=0), imbalanced(SKEWED, 30, seed=0)
    assert set(large) < set(small)
    assert set(imbalanced(SKEWED, 30, seed=1)) != set(large)


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_one_vocabulary_are_disjoint(seed):
    """Held out, then thinned out, then drawn from: no example in two roles."""
    held, rest = hold_out(SKEWED, 60, seed)
    tail = imbalanced(SKEWED, 5, seed, among=rest)
    drawn = per_class(SKEWED, 2, seed, among=tail)
    left = np.setdiff1d(tail, drawn)
    assert set(drawn) < set(tail) < set(rest)
    assert not set(held) & set(tail)
    assert len({*held, *drawn, *left}) == len(held) + len(drawn) + len(left)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.33, 1.0])
def test_label_noise_changes_that_part_of_each_class(fraction):
    before = SKEWED.copy()
    noisy = label_noise(SKEWED, fraction, seed=0)
    np.testing.assert_array_equal(SKEWED, before)
    wrong = noisy != SKEWED
    assert abs(wrong.sum() - fraction * len(SKEWED)) < 1
    assert np.all(np.abs(np.bincount(SKEWED[wrong], minlength=4) - fraction * np.bincount(SKEWED)) < 2)
    assert set(noisy) <= set(SKEWED)
    assert noisy.dtype == SKEWED.dtype


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5, 0.98])
@pytest.mark.parametrize("labels", [FEW, np.repeat([0, 1, 2], [1, 2, 8])], ids=["five of each", "1, 2 and 8"])
def test_every_example_is_equally_often_wrong_however_few_there_are(labels, fraction):
    """Rounded by class, a tenth of five examples would be none."""
    wrong = np.array([label_noise(labels, fraction, seed) != labels for seed in range(600)])
    exact = fraction * len(labels)
    assert set(wrong.sum(axis=1)) == {math.floor(exact), math.ceil(exact)}
    np.testing.assert_allclose(wrong.mean(axis=0), fraction, atol=4.5 * np.sqrt(fraction * (1 - fraction) / 600))


def test_label_noise_grows_with_the_fraction():
    some, more = label_noise(SKEWED, 0.2, seed=0), label_noise(SKEWED, 0.5, seed=0)
    wrong = some != SKEWED
    np.testing.assert_array_equal(some[wrong], more[wrong])
    for seed in range(5):
        noisy = [label_noise(FEW, fraction, seed) for fraction in np.linspace(0, 1, 26)]
        for few, many in itertools.pairwise(noisy):
            np.testing.assert_array_equal(many[few != FEW], few[few != FEW])
    assert np.any(label_noise(SKEWED, 0.2, seed=1) != some)


def test_wrong_labels_are_spread_evenly():
    labels = np.repeat(np.arange(5), 2000)
    noisy = label_noise(labels, 1.0, seed=0)
    counts = np.array([np.bincount(noisy[labels == label], minlength=5) for label in range(5)])
    assert np.diag(counts).tolist() == [0] * 5
    others = counts[~np.eye(5, dtype=bool)]
    assert np.abs(others - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: imbalanced(SKEWED, 0.5, 0), "ratio 0.5"),
        (lambda: imbalanced(SKEWED, np.inf, 0), "ratio inf"),
        (lambda: imbalanced(SKEWED, 2, 0, among=np.array([0, 0])), "no indices, each once"),
        (lambda: imbalanced(SKEWED, 2, -1), "seed -1"),
        (lambda: label_noise(SKEWED, 1.5, 0), "fraction 1.5"),
        (lambda: label_noise(SKEWED, float("nan"), 0), "fraction nan"),
        (lambda: label_noise(np.zeros(4, int), 0.5, 0), "one class only"),
        (lambda: label_noise(np.zeros(0, int), 0.5, 0), "no examples"),
    ],
)
def test_impossible_tails_and_noise(call, said):
    with pytest.raises(InputError, match=said):
        call()
