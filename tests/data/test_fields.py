"""Examples of any kind: fields are checked once, split and drawn whole, and reach the step as they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import Split, batches, feed, from_arrays, hold_out, on_device, paired, stratified_folds
from jaxtl.data.stream import Stream
from jaxtl.data.transforms import crop, drop_tokens, flip, normalised, on, standardised
from jaxtl.errors import InputError

KEY = jax.random.key(0)
N = 24
LABELS = np.arange(N) % 3
TEXTS = {"token": np.arange(N * 5).reshape(N, 5), "length": np.full(N, 5)}


def test_every_field_keeps_its_numbers_and_goes_through_a_split_whole():
    data = from_arrays({**TEXTS, "price_number": np.linspace(0, 1, N)}, LABELS, test_fraction=0.25)
    assert data.train.names == ("token", "length", "price_number", "label")
    assert {name: str(data.train[name].dtype) for name in data.train.names} == {
        "token": "int32",
        "length": "int32",
        "price_number": "float32",
        "label": "int32",
    }
    for part in (data.train, data.test):
        first = part["token"][:, 0]
        np.testing.assert_array_equal(part.labels, (first // 5) % 3)
        np.testing.assert_allclose(part["price_number"][:, 0], (first / 5) / (N - 1), rtol=1e-6)
    assert sorted([*data.train["token"][:, 0], *data.test["token"][:, 0]]) == [5 * i for i in range(N)]


def test_a_signal_is_no_grey_image_and_an_image_is_no_signal():
    pixels = np.zeros((N, 8, 2), np.uint8)
    assert from_arrays(pixels, LABELS).train.images.shape[1:] == (8, 2, 1)
    assert from_arrays({"signal": pixels}, LABELS).train["signal"].shape[1:] == (8, 2)


def test_several_labels_numbers_and_none_are_data_sets_too():
    marks = np.eye(3, dtype=int)[LABELS] | np.eye(3, dtype=int)[(LABELS + 1) % 3]
    several = from_arrays(np.zeros((N, 2)), marks, target="labels", classes="abc")
    assert (several.train.target, several.train.labels.shape[1], several.classes) == ("labels", 3, ("a", "b", "c"))
    number = from_arrays(np.zeros((N, 2)), np.linspace(-1, 1, N), target="number")
    assert (number.train.target, number.train.labels.dtype, number.classes) == ("number", np.float32, ())
    nothing = from_arrays(np.zeros((N, 2)))
    assert (nothing.train.target, len(nothing.train) + len(nothing.test)) == ("none", N)
    half = from_arrays(np.zeros((N, 2)), None, np.ones((N, 2)), LABELS)
    assert (half.train.target, half.test.target, half.classes) == ("none", "class", ("0", "1", "2"))


def test_a_class_that_training_lacks_is_told_where_it_is_named():
    data = from_arrays(np.arange(N * 2.0).reshape(N, 2), LABELS, classes=["a", "b", "c", "d"])
    assert (data.classes, data.notice) == (("a", "b", "c", "d"), "no training example of d")


@pytest.mark.parametrize(
    ("inputs", "labels", "options", "says"),
    [
        ({"token": np.full((N, 2), 2**31)}, LABELS, {}, "tokens run from 2147483648"),
        ({"token": np.full((N, 2), -1)}, LABELS, {}, "integers >= 0, [N, L]"),
        ({"token": np.zeros((N, 2, 2), int)}, LABELS, {}, "shape [24, 2, 2]"),
        ({"token": np.zeros((N, 2))}, LABELS, {}, "tokens float32 from 0.0"),
        ({"box": np.zeros((N, 2, 3))}, LABELS, {}, "[N, M, 4]"),
        ({"signal": np.full((N, 4), np.nan)}, LABELS, {}, "24 signals have numbers that are NaN"),
        ({"label": LABELS}, LABELS, {}, "a field is called 'label'"),
        ({}, LABELS, {}, "no fields"),
        ({"token": TEXTS["token"], "length": np.full(N - 1, 5)}, LABELS, {}, "24 tokens but 23 lengths"),
        (np.full((N, 2), 2**25), LABELS, {}, "of which float32 holds 16,777,216"),
        (np.zeros((N, 2)), LABELS / 2, {}, "target='number'"),
        (np.zeros((N, 2)), np.ones((N, 2), int), {}, "target='labels'"),
        (np.zeros((N, 2)), LABELS, {"target": "classes"}, "target is 'classes'"),
        (np.zeros((N, 2)), LABELS, {"groups": LABELS[:3]}, "24 images but 3 groups"),
        (np.zeros((N, 2)), LABELS, {"groups": np.zeros((N, 2))}, "groups are float64"),
        (np.zeros((N, 2)), LABELS, {"groups": np.zeros(N, int)}, "1 groups cannot be parted"),
    ],
)
def test_what_a_field_cannot_hold_is_told(inputs, labels, options, says):
    with pytest.raises(InputError) as caught:
        from_arrays(inputs, labels, **options)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


# ---- groups


def test_no_group_is_divided_and_classes_stay_in_proportion():
    random = np.random.default_rng(0)
    patients = random.integers(0, 40, 400)
    labels = random.integers(0, 3, 400)
    held, rest = hold_out(labels, 100, 0, patients)
    assert not set(patients[held]) & set(patients[rest])
    assert sorted([*held, *rest]) == list(range(400))
    assert 70 <= len(held) <= 130
    share, kept = (np.bincount(labels[index]) / len(index) for index in (held, rest))
    assert np.abs(share - kept).max() < 0.1
    folds = stratified_folds(labels, 5, 0, groups=patients)
    assert sorted(np.concatenate([validation for _, validation in folds])) == list(range(400))
    for train, validation in folds:
        assert not set(patients[train]) & set(patients[validation])
    data = from_arrays(random.random((400, 3)), labels, groups=[f"patient {p}" for p in patients])
    assert not set(data.train.groups) & set(data.test.groups)
    assert len(np.unique(np.concatenate([data.train.groups, data.test.groups]))) == 40


def test_a_class_of_one_group_cannot_be_folded_and_is_named():
    labels, groups = np.repeat([0, 1, 2], 8), np.concatenate([np.arange(16) % 4, np.full(8, 9)])
    with pytest.raises(InputError, match="class 'c' is in one group only"):
        stratified_folds(labels, 3, 0, classes="abc", groups=groups)
    with pytest.raises(InputError, match="2 groups for 3 folds"):
        stratified_folds(labels[:8], 3, 0, groups=groups[:8] % 2)


def test_groups_and_examples_in_both_parts_are_told_in_a_line():
    numbers = np.arange(N * 2.0).reshape(N, 2)
    data = from_arrays(
        numbers, LABELS, np.add(numbers[:5], [0.5, 0]), LABELS[:5], groups=[*"ab"] * 12, test_groups=[*"abcde"]
    )
    assert data.notice == "2 of 5 test groups are in the training part too"
    data = from_arrays(numbers, LABELS, numbers[[3, 5]], LABELS[:2])
    assert data.notice == "2 of 2 test examples are training examples too, byte for byte"
    assert "\n" not in data.notice
    both = {"token": TEXTS["token"], "length": TEXTS["length"]}
    other = {"token": TEXTS["token"], "length": TEXTS["length"] - 1}  # one field differs: no copies
    assert from_arrays(both, LABELS, other, LABELS).notice == ""


# ---- batches


def test_a_batch_has_all_fields_of_the_same_examples_from_memory_and_from_a_stream():
    pytest.importorskip("grain")
    split = from_arrays(TEXTS, LABELS, groups=np.arange(N)).train
    index = np.arange(3, len(split))
    prepare = batches(4)
    stream = Stream(split, KEY, index, batch_size=4)
    assert {name: (s.shape, s.dtype) for name, s in stream.like.items()} == {
        "token": ((4, 5), jnp.int32),
        "length": ((4,), jnp.int32),
        "label": ((4,), jnp.int32),
        "group": ((4,), jnp.int32),
    }
    streamed = stream.batches(0)
    for step in range(6):
        batch, read = prepare(on_device(split, KEY, index), KEY, step), prepare(next(streamed), KEY, step)
        assert set(batch) == set(read) == {*split.names}
        for name in batch:
            np.testing.assert_array_equal(batch[name], read[name])
        np.testing.assert_array_equal(batch["label"], (batch["token"][:, 0] // 5) % 3)
    streamed.close()
    assert isinstance(feed(split, KEY, batch_size=4, memory=1), Stream)


def test_transforms_are_a_chain_with_a_key_each():
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)).astype(np.uint8)
    batch = {"image": images, "label": np.arange(8)}
    a, b, c = jax.random.split(KEY, 3)
    expected = normalised(np.ones(3), np.full(3, 2.0))(flip()(crop(1)(batch, a), b), c)
    data = {**batch, "index": jnp.arange(8), "order": KEY}
    order = batches(8)(data, KEY, 0)["label"]
    found = batches(8, crop(1), flip(), normalised(np.ones(3), np.full(3, 2.0)))(data, KEY, 0)
    shuffled = {name: array[np.asarray(order)] for name, array in batch.items()}
    expected = normalised(np.ones(3), np.full(3, 2.0))(flip()(crop(1)(shuffled, a), b), c)
    np.testing.assert_array_equal(found["image"], expected["image"])
    with pytest.raises(InputError, match="no field 'token'"):
        drop_tokens(0.5)(batch, KEY)


def test_tokens_are_dropped_at_their_rate_and_signals_stand_on_their_own():
    tokens = jnp.arange(1, 40_001, dtype=jnp.int32).reshape(400, 100)
    dropped = drop_tokens(0.2, replacement=7)({"token": tokens}, KEY)["token"]
    assert dropped.dtype == tokens.dtype
    assert abs(float(jnp.mean(dropped == 7)) - 0.2) < 0.01
    assert bool(jnp.all((dropped == tokens) | (dropped == 7)))
    signal = np.random.default_rng(0).normal(3, 5, (4, 50, 2)).astype(np.float32)
    own = np.asarray(standardised()({"signal": signal}, KEY)["signal"])
    np.testing.assert_allclose(own.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(own.std(1), 1, atol=1e-5)
    own = on("signal", lambda x, _: 2 * x)({"signal": signal}, KEY)["signal"]
    np.testing.assert_array_equal(own, 2 * signal)


def test_two_sets_are_drawn_from_side_by_side():
    split = Split(token=np.arange(16, dtype=np.int32).reshape(8, 2), label=np.arange(8, dtype=np.int32))
    data = {"source": on_device(split, KEY), "target": on_device(split.without("label"), KEY)}
    both = paired(source=batches(4), target=batches(2, drop_tokens(1.0, 9)))(data, KEY, 3)
    assert {name: {field: array.shape for field, array in batch.items()} for name, batch in both.items()} == {
        "source": {"token": (4, 2), "label": (4,)},
        "target": {"token": (2, 2)},
    }
    assert (np.asarray(both["target"]["token"]) == 9).all()
