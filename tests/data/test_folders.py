import numpy as np
import pytest
from PIL import Image

from jaxtl.data import load
from jaxtl.errors import InputError


def picture(path, number, mode="RGB", size=(6, 4)):
    """A file of noise that is a function of its number; returns the pixels."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def fill(directory, parts=("train", "test"), count=5, **given):
    """`count` images for dog and cat in each part: {(part, class, number): pixels}."""
    names = [(part, name, number) for part in parts for name in ("dog", "cat") for number in range(count)]
    return {
        (part, name, number): picture(directory / part / name / f"{number}.png", index, **given)
        for index, (part, name, number) in enumerate(names)
    }


def refused(path, *said):
    with pytest.raises(InputError) as caught:
        load(path)
    for words in said:
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_parts_and_classes(tmp_path, test):
    written = fill(tmp_path / "pets", parts=("train", test))
    data = load(tmp_path / "pets")
    assert (data.name, data.classes) == ("pets", ("cat", "dog"))
    assert data.origin == f"{tmp_path}/pets (image folders, tested on {test})"
    for part, split in (("train", data.train), (test, data.test)):
        expected = [written[part, name, number] for name in ("cat", "dog") for number in range(5)]
        np.testing.assert_array_equal(split.images, np.stack(expected))
        np.testing.assert_array_equal(split.labels, [0] * 5 + [1] * 5)


def test_without_parts_a_fifth_is_split_off(tmp_path):
    written = fill(tmp_path / "pets", parts=("",))
    data = load(tmp_path / "pets")
    assert (len(data.train), len(data.test), data.classes) == (8, 2, ("cat", "dog"))
    assert "split off here" in data.origin
    found = sorted(image.tobytes() for split in (data.train, data.test) for image in split.images)
    assert found == sorted(pixels.tobytes() for pixels in written.values())


def test_grey_stays_grey_unless_there_is_colour(tmp_path):
    fill(tmp_path / "pets", mode="L")
    assert load(tmp_path / "pets").train.images.shape == (10, 4, 6, 1)
    coloured = picture(tmp_path / "pets/test/cat/9.png", 99)
    data = load(tmp_path / "pets")
    assert data.train.images.shape == (10, 4, 6, 3)
    assert np.ptp(data.train.images, axis=-1).max() == 0
    np.testing.assert_array_equal(data.test.images[5], coloured)


def test_jpeg_and_hidden_files(tmp_path):
    fill(tmp_path / "pets")
    picture(tmp_path / "pets/train/cat/9.JPG", 99)
    (tmp_path / "pets/train/cat/.DS_Store").write_text("hidden")
    (tmp_path / "pets/train/.cache").mkdir()
    assert len(load(tmp_path / "pets").train) == 11


def test_what_is_wrong_is_named(tmp_path):
    pets = tmp_path / "pets"
    fill(pets)
    picture(pets / "test/cat/9.png", 0, size=(6, 5))
    refused(pets, "test/cat/9.png: is 6x5 pixels", "is 6x4")
    (pets / "test/cat/9.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(pets, "test/cat/9.png", "cannot be read")
    (pets / "test/cat/9.png").rename(pets / "test/cat/notes.txt")
    refused(pets, "notes.txt: is no image")
    (pets / "test/cat/notes.txt").unlink()
    picture(pets / "test/cow/0.png", 0)
    refused(pets, "has a class cow", "the classes of train are cat, dog")


def test_every_cut_of_an_image(tmp_path):
    fill(tmp_path / "pets")
    file = tmp_path / "pets/train/dog/0.png"
    whole = file.read_bytes()
    for cut in range(0, len(whole) - 24, 7):  # Pillow does without the last chunk and checksums
        file.write_bytes(whole[:cut])
        refused(tmp_path / "pets", "train/dog/0.png", "cannot be read")


def test_parts_that_are_not_there(tmp_path):
    fill(tmp_path / "pets", parts=("train",))
    refused(tmp_path / "pets", "has train and no test or val")
    (tmp_path / "pets/test/cat").mkdir(parents=True)
    refused(tmp_path / "pets", "pets/test: holds no images")


def test_a_class_without_images(tmp_path):
    fill(tmp_path / "pets")
    (tmp_path / "pets/train/ape").mkdir()
    refused(tmp_path / "pets", "ape")


def test_other_directories_are_none(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/x.txt").touch()
    refused(tmp_path, "no data set of a known format", "one folder of images for each class")
