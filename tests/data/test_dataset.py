import numpy as np
import pytest

from jaxtl.data import from_arrays, load
from jaxtl.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4


def test_both_parts_are_kept_as_given():
    data = from_arrays(IMAGES[:12], LABELS[:12], IMAGES[12:], LABELS[12:], classes="abcd", name="n", origin="o")
    np.testing.assert_array_equal(data.train.images, IMAGES[:12])
    np.testing.assert_array_equal(data.test.images, IMAGES[12:])
    np.testing.assert_array_equal(data.test.labels, LABELS[12:])
    assert (data.train.images.dtype, data.train.labels.dtype) == (np.uint8, np.int32)
    assert (data.classes, data.name, data.origin, data.notice) == (("a", "b", "c", "d"), "n", "o", "")
    assert (len(data.train), len(data.test)) == (12, 8)


def test_split_off_test_part_is_stratified_and_disjoint():
    tagged = np.arange(20, dtype=np.float32)[:, None]  # the one feature of an example is its number
    data = from_arrays(tagged, LABELS, test_fraction=0.4, seed=3)
    numbers = np.concatenate([data.train.images, data.test.images]).ravel()
    assert sorted(numbers) == list(range(20))
    for split in (data.train, data.test):
        np.testing.assert_array_equal(split.labels, split.images.ravel() % 4)
    np.testing.assert_array_equal(np.bincount(data.test.labels), [2, 2, 2, 2])
    other = from_arrays(tagged, LABELS, test_fraction=0.4, seed=4)
    assert sorted(other.test.images.ravel()) != sorted(data.test.images.ravel())


@pytest.mark.parametrize(
    ("given", "shape", "dtype"),
    [
        (IMAGES[..., 0], (6, 5, 1), np.uint8),
        (IMAGES.astype(np.float64) / 7, (6, 5, 3), np.float32),
        (IMAGES.astype(np.int64), (6, 5, 3), np.float32),
        (IMAGES.reshape(20, -1), (90,), np.uint8),
    ],
    ids=["grey", "float64", "int64", "features"],
)
def test_shapes_and_dtypes(given, shape, dtype):
    data = from_arrays(given, LABELS)
    assert (data.train.images.shape[1:], data.train.images.dtype) == (shape, dtype)
    assert data.classes == ("0", "1", "2", "3")


def with_value(array, value):
    array = array.astype(np.float64)
    array[7, 0] = value
    return array


def with_label(label, labels=LABELS):
    return np.where(np.arange(20) == 7, label, labels)


MISTAKES = {
    "no examples": ((IMAGES[:0], LABELS[:0]), {}, "shape [0, 6, 5, 3]"),
    "no pixels": ((IMAGES[:, :0], LABELS), {}, "shape [20, 0, 5, 3]"),
    "one axis": ((np.arange(20), LABELS), {}, "shape [20]"),
    "lengths": ((IMAGES, LABELS[:19]), {}, "20 images but 19 labels"),
    "NaN": ((with_value(IMAGES, np.nan), LABELS), {}, "1 images have pixels that are NaN or infinite, the first"),
    "infinite": ((with_value(IMAGES, -np.inf), LABELS), {}, "number 7"),
    "beyond float32": ((with_value(IMAGES, 1e300), LABELS), {}, "number 7"),
    "objects": ((np.full((20, 2), None), LABELS), {}, "images are Python objects"),
    "ragged": (([[1, 2], [3]], [0, 1]), {}, "images are ragged"),
    "complex": ((IMAGES * 1j, LABELS), {}, "images are complex128"),
    "text": ((np.full((20, 2), "a"), LABELS), {}, "images are <U1"),
    "negative label": ((IMAGES, with_label(-1)), {}, "labels run from -1 to 3"),
    "label above the names": ((IMAGES, with_label(4)), {"classes": "abcd"}, "label 4, but the 4 class names"),
    "huge label": ((IMAGES, with_label(2**40)), {}, "labels run from 0 to"),
    "class missing below a large label": ((IMAGES, with_label(2**30)), {}, "the first is class 4"),
    "class missing": ((IMAGES, np.where(LABELS == 2, 1, LABELS)), {}, "1 of 4 classes have no example"),
    "float labels": ((IMAGES, LABELS / 1.0), {}, "labels are float64"),
    "bool labels": ((IMAGES, LABELS > 1), {}, "labels are bool"),
    "one-hot labels": ((IMAGES, np.eye(4, dtype=int)[LABELS]), {}, "labels.argmax(axis=1)"),
    "soft labels": ((IMAGES, np.full((20, 4), 0.25)), {}, "labels.argmax(axis=1)"),
    "several labels": ((IMAGES, np.ones((20, 4), int)), {}, "name none or several classes"),
    "columns of other numbers": ((IMAGES, np.full((20, 2), 7)), {}, "give one integer per example, [N]"),
    "labels in a row": ((IMAGES, LABELS[None]), {}, "labels.ravel()"),
    "zeros and ones in a row": ((IMAGES, LABELS[None] % 2), {}, "labels.ravel()"),
    "labels in a cube": ((IMAGES, LABELS[:, None, None]), {}, "labels.ravel()"),
    "one label": ((IMAGES, 3), {}, "labels of shape []"),
    "no labels": ((IMAGES, []), {}, "labels of shape [0]"),
    "text labels": ((IMAGES, list("abcd" * 5)), {}, "np.unique(labels, return_inverse=True)"),
    "whole floats": ((IMAGES, LABELS[:, None] / 1.0), {}, "labels.astype(int)"),
    "fractions": ((IMAGES, LABELS / 2), {}, "no classes"),
    "NaN labels": ((IMAGES, np.where(LABELS == 2, np.nan, LABELS)), {}, "leave the 5 out that are NaN"),
    "unlabelled": ((IMAGES, with_label(-1)), {}, "leave the 1 out that have none: labels >= 0"),
    "from 1": ((IMAGES, LABELS + 1), {}, "labels - 1"),
    "from 1 with names": ((IMAGES, LABELS + 1), {"classes": "abcd"}, "labels - 1"),
    "channels in front": ((IMAGES.transpose(0, 3, 1, 2), LABELS), {}, "images.transpose(0, 2, 3, 1)"),
    "one channel in front": ((IMAGES[:, None, :, :, 0], LABELS), {}, "images.transpose(0, 2, 3, 1)"),
    "channels in front of the test part": (
        (IMAGES, LABELS, IMAGES.transpose(0, 3, 1, 2), LABELS), {}, "mine, test: images of shape [20, 3, 6, 5]"
    ),
    "examples last": ((IMAGES.transpose(1, 2, 3, 0), LABELS), {}, "np.moveaxis(images, -1, 0)"),
    "name twice": ((IMAGES, LABELS), {"classes": "abca"}, "a class name occurs twice"),
    "only test images": ((IMAGES, LABELS, IMAGES), {}, "only one of test_images and test_labels"),
    "only test labels": ((IMAGES, LABELS, None, LABELS), {}, "only one of test_images and test_labels"),
    "test shape": ((IMAGES, LABELS, IMAGES[:, 1:], LABELS), {}, "uint8[5, 5, 3], a training image uint8[6, 5, 3]"),
    "test dtype": ((IMAGES, LABELS, IMAGES / 2, LABELS), {}, "float32[6, 5, 3], a training image uint8[6, 5, 3]"),
    "test label": ((IMAGES, LABELS, IMAGES, with_label(4)), {}, "label 4, but the classes of the training part"),
    "fraction": ((IMAGES, LABELS), {"test_fraction": 1.0}, "test_fraction is 1.0"),
    "too few to split": ((IMAGES[:4], LABELS[:4]), {}, "each of the 4 classes keeps one"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake):
    arguments, options, said = MISTAKES[mistake]
    with pytest.raises(InputError) as caught:
        from_arrays(*arguments, name="mine", **options)
    assert said in str(caught.value)
    assert "mine" in str(caught.value) or "hold_out" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_labels_in_a_column_are_one_integer_an_example():
    for column in (LABELS[:, None], LABELS[:, None].astype(np.uint8), LABELS[:, None].tolist()):
        data = from_arrays(IMAGES, column, IMAGES, column)
        for part in (data.train, data.test):
            assert part.labels.tolist() == LABELS.tolist()
            assert part.labels.dtype == np.int32
    assert sorted(from_arrays(IMAGES, LABELS[:, None]).classes) == list("0123")


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (np.eye(4)[LABELS], lambda labels: labels.argmax(axis=1)),
        (np.eye(4, dtype=bool)[LABELS], lambda labels: labels.argmax(axis=1)),
        (LABELS[None], np.ravel),
        (LABELS / 1.0, lambda labels: labels.astype(int)),
        (np.array(list("abcd"))[LABELS], lambda labels: np.unique(labels, return_inverse=True)[1]),
        (LABELS + 1, lambda labels: labels - 1),
    ],
    ids=["one-hot", "one-hot of truth values", "row", "floats", "text", "from 1"],
)
def test_who_does_what_the_message_says_gets_the_labels_meant(labels, advice):
    with pytest.raises(InputError):
        from_arrays(IMAGES, labels, IMAGES, labels)
    assert from_arrays(IMAGES, advice(labels), IMAGES, LABELS).train.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("shape", [(20, 3, 6, 3), (20, 1, 6, 1), (20, 3, 5, 4), (20, 6, 5, 2), (20, 1, 9, 3)])
def test_images_whose_last_axis_can_be_channels_are_taken_as_they_are(shape):
    assert from_arrays(np.zeros(shape, np.uint8), LABELS).train.images.shape[1:] == shape[1:]


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS], ids=["column", "line"])
def test_an_archive_is_held_to_the_same(labels, tmp_path):
    parts = {"train_labels": labels, "test_images": IMAGES, "test_labels": labels}
    np.savez(tmp_path / "a.npz", train_images=IMAGES, **parts)
    assert load(tmp_path / "a.npz").train.labels.tolist() == LABELS.tolist()
    np.savez(tmp_path / "b.npz", train_images=IMAGES.transpose(0, 3, 1, 2), **parts)
    with pytest.raises(InputError, match=r"b\.npz, train: .* channels in front\n.*transpose"):
        load(tmp_path / "b.npz")


def test_a_class_may_be_missing_in_the_test_part():
    data = from_arrays(IMAGES, LABELS, IMAGES[:2], LABELS[:2])
    assert data.test.labels.tolist() == [0, 1]


def test_the_arrays_given_stay_as_they_are():
    images, labels = IMAGES / 2, LABELS.copy()
    from_arrays(images, labels)
    np.testing.assert_array_equal(images, IMAGES / 2)
    np.testing.assert_array_equal(labels, LABELS)
