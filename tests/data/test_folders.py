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


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("train", "valid"),
        ("Training", "Testing"),
        ("train", "Dev"),
        ("train", "Val"),
    ],
)
def test_parts_by_other_names(tmp_path, train, test):
    written = fill(tmp_path / "pets", parts=(train, test))
    data = load(tmp_path / "pets")
    assert (data.classes, len(data.train), len(data.test), data.notice) == (("cat", "dog"), 10, 10, "")
    assert data.origin.endswith(f"tested on {test})")
    np.testing.assert_array_equal(data.test.images[0], written[test, "cat", 0])


def test_folders_beside_the_parts_are_told(tmp_path):
    fill(tmp_path / "pets", parts=("train", "test", "val", "unlabelled"))
    assert load(tmp_path / "pets").notice == "pets: not read: unlabelled, val"


def test_images_beside_the_folders_are_told(tmp_path):
    fill(tmp_path / "pets", parts=("",))
    picture(tmp_path / "pets/9.png", 9)
    assert load(tmp_path / "pets").notice == "pets: not read: 1 images beside the folders"
    fill(tmp_path / "birds")
    for place in ("", "train", "test"):
        picture(tmp_path / "birds" / place / "9.png", 9)
    assert load(tmp_path / "birds").notice == "birds: not read: 3 images beside the folders"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("val", "test"), "has test and val and no train"),
        (("Valid", "cow"), "has Valid and no train"),
        (("train", "Training", "test"), "and more than one train"),
        (("train", "Train", "test"), "holds both Train and train"),
        (("test", "TEST", "train"), "holds both TEST and test"),
    ],
)
def test_parts_that_do_not_make_a_set(tmp_path, parts, said):
    fill(tmp_path / "pets", parts=parts)
    refused(tmp_path / "pets", said)


@pytest.mark.parametrize("classes", [("train", "bus"), ("valid", "invalid"), ("Test", "cow", "dog")])
def test_a_class_may_be_called_like_a_part(tmp_path, classes):
    for name in classes:
        for number in range(5):
            picture(tmp_path / "set" / name / f"{number}.png", number)
    assert load(tmp_path / "set").classes == tuple(sorted(classes))


def test_parts_without_classes_are_no_classes(tmp_path):
    for name in ("train", "test"):
        picture(tmp_path / "set" / name / "0.png", 0)
    (tmp_path / "set/train.csv").write_text("image,size")
    refused(tmp_path / "set", "set/train: holds images and no folders of them", "one folder for each class")


@pytest.mark.parametrize("table", ["annotations.json", "metadata.jsonl", "train.tsv", "list.txt"])
@pytest.mark.parametrize("names", [("images",), ("photos",), ("Images", "masks"), ("img", "more")])
def test_a_folder_beside_a_table_of_labels_is_no_class(tmp_path, table, names):
    for name in names:
        for number in range(5):
            picture(tmp_path / "set" / name / f"{number}.png", number)
    (tmp_path / "set" / table).write_text("image,label\n0,cat\n")
    refused(tmp_path / "set", "set: holds", f"{table} beside it is not read", "make one folder for each class")


@pytest.mark.parametrize("names", [("images",), ("cat",), ("images", "masks")])
def test_one_class_is_nothing_to_learn(tmp_path, names):
    for name in names:
        for number in range(5):
            picture(tmp_path / "set" / name / f"{number}.png", number)
            for part in ("train", "test"):
                picture(tmp_path / "parts" / part / name / f"{number}.png", number)
    refused(tmp_path / "set", "set: holds", "make one folder for each class")
    refused(tmp_path / "parts", "parts/train: holds", "make one folder for each class")


def test_classes_beside_a_table_that_says_nothing_about_them(tmp_path):
    fill(tmp_path / "pets", parts=("",))
    (tmp_path / "pets/breeds.csv").write_text("name,weight")
    assert load(tmp_path / "pets").classes == ("cat", "dog")


def test_all_files_that_cannot_be_used_are_told_at_once(tmp_path):
    pets = tmp_path / "pets"
    fill(pets)
    (pets / "train/cat/0.png").write_bytes(b"hello")
    (pets / "train/cat/1.png").write_bytes(b"%PDF-1.4")
    picture(pets / "train/dog/2.png", 0, size=(6, 5))
    (pets / "test/dog/notes.txt").touch()
    first = "train/cat/0.png (cannot be read", "train/cat/1.png (is a PDF document, which is not opened as a picture)"
    refused(
        pets, f"{pets}: 4 of 21 files cannot be used: ", *first, "train/dog/2.png (is 6x5 pixels", ", ...", "repair"
    )
    (pets / "test/dog/notes.txt").unlink()
    for number in range(2):
        (pets / f"train/cat/{number}.png").unlink()
    refused(pets, f"{pets}/train/dog/2.png: is 6x5 pixels", "is 6x4", "bring all images to one size first")


def test_damage_behind_intact_headers_is_told_at_once(tmp_path):
    fill(tmp_path / "pets")
    for number in range(5):
        file = tmp_path / f"pets/train/cat/{number}.png"
        file.write_bytes(file.read_bytes()[:80])
    refused(tmp_path / "pets", "5 of 20 files cannot be used: ", "train/cat/0.png (cannot be read", ", ...")


def test_the_size_that_most_images_have_is_the_right_one(tmp_path):
    fill(tmp_path / "pets")
    picture(tmp_path / "pets/train/cat/0.png", 0, size=(9, 9))
    refused(tmp_path / "pets", "train/cat/0.png: is 9x9 pixels")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7", "a PDF document"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"  <svg xmlns=", "an SVG drawing"),
        (b"\0\0\0\x18ftypheic", "a picture in HEIF or AVIF"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x93NUMPY\x01\0", "a single NumPy array"),
    ],
)
def test_an_intact_file_of_another_kind_is_not_called_damaged(tmp_path, content, said):
    fill(tmp_path / "pets")
    (tmp_path / "pets/train/cat/0.png").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(tmp_path / "pets")
    assert f"is {said}" in str(caught.value)
    assert "damaged" not in str(caught.value)


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
