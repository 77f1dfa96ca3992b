"""Images with boxes: read as they were written, refused where they do not fit together, mirrored with their boxes."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from PIL import Image

from jaxtl.data import load
from jaxtl.data.boxed import flip_boxed, set_down
from jaxtl.errors import InputError

BOXES = [[1, 2, 5, 8], [0, 0, 12, 10], [3, 3, 4, 9], [2, 0, 12, 3]]


def archive(**changes):
    """Four pictures of 10x12 pixels: two boxes on the first, none on the second, one each on the others."""
    pictures = np.random.default_rng(0).integers(0, 256, (4, 10, 12, 3), np.uint8)
    coded = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        coded.append(file.getvalue())
    arrays = {
        "blob": np.frombuffer(b"".join(coded), np.uint8),
        "offsets": np.cumsum([0, *map(len, coded)]),
        "image_split": np.array([0, 1, 2, 2], np.uint8),
        "split_names": np.array(["train", "val", "test"]),
        "image_size": np.array([10, 12]),
        "boxes": np.array(BOXES, np.float32),
        "box_image": np.array([0, 0, 2, 3], np.int32),
        "box_class": np.array([1, 0, 1, 0], np.uint8),
        "class_names": np.array(["cat", "dog"]),
    }
    return pictures, arrays | changes


def test_pictures_and_boxes_are_those_that_were_written(tmp_path):
    pictures, arrays = archive()
    np.savez(tmp_path / "boxed.npz", **arrays)
    data = load(tmp_path / "boxed.npz")
    np.testing.assert_array_equal(data.train.images, pictures[:2])
    np.testing.assert_array_equal(data.test.images, pictures[2:])
    assert data.train["box"].tolist() == [BOXES[:2], [[0.0] * 4] * 2]
    assert data.train["box_class"].tolist() == [[1, 0], [-1, -1]]
    assert data.test["box"].tolist() == [[BOXES[2], [0.0] * 4], [BOXES[3], [0.0] * 4]]
    assert data.test["box_class"].tolist() == [[1, -1], [0, -1]]
    assert (data.classes, data.train.target, data.name) == (("cat", "dog"), "none", "boxed")
    assert (data.train["box"].dtype, data.train["box_class"].dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": np.array([0, 5])}, "do not cut the blob"),
        ({"image_size": np.array([12, 10])}, "picture 0: has 12x10 pixels, and image_size says 10x12"),
        ({"image_size": np.array([0, 12])}, "not rows and columns"),
        ({"boxes": np.zeros((4, 3), np.float32)}, "not \\[K, 4\\]"),
        ({"boxes": np.array([*BOXES[:3], [2, 0, 2, 3]], np.float32)}, "1 boxes have no area .* number 3"),
        ({"boxes": np.array([*BOXES[:3], [2, 0, 13, 3]], np.float32)}, "no area within their picture"),
        ({"boxes": np.array([*BOXES[:3], [2, 0, np.nan, 3]], np.float32)}, "no area within their picture"),
        ({"box_image": np.array([0, 0, 2, 4])}, "box_image is not a number from 0 to 3"),
        ({"box_class": np.array([0, 1, 2, 0])}, "box_class is not a number from 0 to 1"),
        ({"box_class": np.array([0, 1, 1])}, "for each of 4 boxes"),
        ({"image_split": np.array([0, 1, 2, 3])}, "which pictures are for testing"),
        ({"image_split": np.array([0, 0, 1, 1])}, "none for testing"),
        ({"class_names": np.array(["cat", "cat"])}, "occurs twice"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_line(changes, message, tmp_path):
    np.savez(tmp_path / "boxed.npz", **archive(**changes)[1])
    with pytest.raises(InputError, match=message) as refused:
        load(tmp_path / "boxed.npz")
    assert len(str(refused.value).splitlines()) <= 2


def test_a_picture_that_is_none_and_an_archive_that_is_too_large_are_refused(tmp_path):
    _, arrays = archive()
    arrays["blob"] = arrays["blob"].copy()
    arrays["blob"][:8] = 0
    np.savez(tmp_path / "boxed.npz", **arrays)
    with pytest.raises(InputError, match="picture 0"):
        load(tmp_path / "boxed.npz")
    with pytest.raises(InputError, match="may take"):
        load(tmp_path / "boxed.npz", memory=1000)
    del arrays["box_class"]
    np.savez(tmp_path / "boxed.npz", **arrays)
    with pytest.raises(InputError, match="has no box_class"):
        load(tmp_path / "boxed.npz")


def test_digits_are_where_their_boxes_are_and_no_two_in_one_place():
    data = set_down(load("digits"), 30, 10, (32, 48), 4, seed=1)
    again = set_down(load("digits"), 30, 10, (32, 48), 4, seed=1)
    np.testing.assert_array_equal(data.train.images, again.train.images)
    assert "made up" in data.notice
    for image, boxes, labels in zip(data.train.images, data.train["box"], data.train["box_class"], strict=True):
        left = image[..., 0].astype(int)
        for x0, y0, x1, y1 in boxes[labels >= 0].astype(int):
            ink = left[y0:y1, x0:x1]
            assert min(ink[0].max(), ink[-1].max(), ink[:, 0].max(), ink[:, -1].max()) > 0  # it is tight
            left[y0:y1, x0:x1] = 0
        assert left.max() == 0
    with pytest.raises(InputError, match="give 16"):
        set_down(load("digits"), 1, 1, (15, 48), 4)


@pytest.mark.parametrize("upright", [True, False])
def test_what_is_in_a_box_is_in_it_after_mirroring(upright):
    image = np.zeros((40, 6, 9, 1), np.float32)
    image[:, 1:3, 1:6] = 1.0
    batch = {"image": image, "box": np.tile([1.0, 1, 6, 3], (40, 1, 1)), "label": np.arange(40)}
    turned = jax.jit(flip_boxed(upright=upright))(batch, jax.random.key(0))
    seen = set()
    for picture, (box,) in zip(np.asarray(turned["image"]), np.asarray(turned["box"]), strict=True):
        x0, y0, x1, y1 = box.astype(int)
        assert picture[y0:y1, x0:x1].min() == 1.0
        assert picture.sum() == 10.0
        seen.add((x0, y0))
    assert seen == ({(1, 1), (3, 1)} if upright else {(1, 1), (3, 1), (1, 3), (3, 3)})
    np.testing.assert_array_equal(turned["label"], batch["label"])
