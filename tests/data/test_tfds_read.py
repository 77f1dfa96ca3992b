"""Directories of tensorflow-datasets, written by the library itself in miniature."""

import io
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jaxtl.data import load, tfds_read
from jaxtl.errors import InputError

CLASSES = ["cat", "dog", "ship"]


def example(part, number, channels=3):
    """What example `number` holds: noise that is a function of its name."""
    shape = (32, 32, channels)
    image = np.random.default_rng([number, part == "test"]).integers(0, 256, shape, dtype=np.uint8)
    return image, number % 3


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())
    picture.save(file, form, **options)
    return file.getvalue()


def prepare(
    directory, version="3.0.2", parts=("train", "test"), channels=3, height=32, more=None, encode=encoded, **image_kind
):
    import tensorflow_datasets as tfds

    given_version, features = version, tfds.features
    kinds = {
        "id": features.Text(),
        "picture": features.Image(shape=(height, 32, channels), **image_kind),
        "label": features.ClassLabel(names=CLASSES),
    } | (more(features) if more else {})

    class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(given_version)

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

        def _split_generators(self, download_manager):
            return {part: self._generate_examples(part) for part in parts}

        def _generate_examples(self, part):
            for number in range(12 if part == "train" else 6):
                image, label = example(part, number, channels)
                png = io.BytesIO(encode(image))
                row = {"id": f"{part}_{number}", "picture": png, "label": label, "coarse_label": 0, "second": png}
                yield number, {key: row[key] for key in kinds}

    Cifar10(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory / "cifar10" / version


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def directory(written, tmp_path):
    return shutil.copytree(written, tmp_path / "cifar10" / "3.0.2")


def check(data, channels=3):
    for part, split in (("train", data.train), ("test", data.test)):
        found = sorted((label, image.tobytes()) for image, label in zip(split.images, split.labels, strict=True))
        wanted = [example(part, number, channels) for number in range(len(split))]
        assert found == sorted((label, image.tobytes()) for image, label in wanted)
    assert (len(data.train), len(data.test), data.name, data.classes) == (12, 6, "cifar10", tuple(CLASSES))


def refused(path, *said):
    with pytest.raises(InputError) as caught:
        load(path)
    for words in (str(path), *said):
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_version_or_its_parent(directory, capfd):
    check(load(directory))
    data = load(directory.parent)
    check(data)
    assert data.origin == f"{directory} (tensorflow-datasets cifar10/3.0.2)"
    assert "tensorflow" not in sys.modules
    assert capfd.readouterr() == ("", "")


def test_the_newest_version_counts_as_a_number(directory):
    shutil.copytree(directory, directory.parent / "3.0.10")
    (directory.parent / "10.0.0").mkdir()  # not prepared
    shutil.copytree(directory, directory.parent / "incomplete.ABC_99.0.0")
    assert tfds_read.newest_version(directory.parent).name == "3.0.10"
    assert tfds_read.newest_version(directory.parent / "nowhere") is None


def test_grey_images(tmp_path):
    check(load(prepare(tmp_path, channels=1)), channels=1)


def test_the_label_is_found_among_several(tmp_path):
    check(load(prepare(tmp_path, more=lambda features: {"coarse_label": features.ClassLabel(num_classes=2)})))


def test_a_set_of_another_name_with_features_of_other_names(tmp_path, monkeypatch):
    """Written by a builder of its own; found by name, read by the types of its features."""
    import tensorflow_datasets as tfds

    kinds = {
        "where": tfds.features.Text(),
        "photo": tfds.features.Image(shape=(8, 9, 3)),
        "species": tfds.features.ClassLabel(names=["cockle", "whelk"]),
        "age": tfds.features.Scalar(np.int32),
    }
    photos = np.random.default_rng(0).integers(0, 256, (10, 8, 9, 3), dtype=np.uint8)

    class Shells(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, download_manager):
            return {part: self._generate_examples() for part in ("train", "test")}

        def _generate_examples(self):
            for number, photo in enumerate(photos):
                png = io.BytesIO()
                Image.fromarray(photo).save(png, "PNG")
                png.seek(0)
                yield number, {"where": "shore", "photo": png, "species": number % 2, "age": 7}

    Shells(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for memory in (None, 0):
        data = load("shells", memory=memory)
        assert (data.name, data.classes) == ("shells", ("cockle", "whelk"))
        found = [
            (image.tobytes(), label)
            for image, label in zip(np.asarray(data.train.images), data.train.labels, strict=True)
        ]
        assert sorted(found) == sorted((photo.tobytes(), number % 2) for number, photo in enumerate(photos))


def test_two_images_are_one_too_many(tmp_path):
    refused(prepare(tmp_path, more=lambda features: {"second": features.Image(shape=(32, 32, 3))}), "second")


def test_images_without_a_fixed_shape(tmp_path):
    refused(prepare(tmp_path, height=None), "one image of fixed shape")


def test_a_part_validation_stands_in_for_test(tmp_path):
    data = load(prepare(tmp_path, parts=("train", "validation")))
    assert (len(data.train), len(data.test)) == (12, 6)
    assert "tested on its part validation" in data.origin


def test_any_prepared_set_is_found_by_name(directory, tmp_path, monkeypatch):
    shutil.move(directory.parent, tmp_path / "pets")
    assert load("pets", tmp_path).classes == tuple(CLASSES)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load("pets").origin.startswith(f"{tmp_path}/pets/3.0.2")
    assert load("pets/3.0.2").origin.startswith(f"{tmp_path}/pets/3.0.2")
    for name in ("../pets", "pet", "pets:3.0.2"):
        with pytest.raises(InputError, match="no data set of this name"):
            load(name)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("memory", [None, 0])
def test_16_bits_are_scaled_to_8(tmp_path, bits, memory):
    ramp = np.arange(32 * 32).reshape(32, 32)
    levels = np.rint(ramp * ((2**bits - 1) / ramp.max())).astype(np.uint16)
    directory = prepare(tmp_path, channels=1, encode=lambda _: encoded(levels), dtype=np.uint16)
    data = load(directory, memory=memory)
    np.testing.assert_array_equal(
        np.asarray(data.train.images[:1])[0, ..., 0], np.rint(levels.astype(float) * (255 / (2**bits - 1)))
    )
    assert f"cifar10: images scaled to 8 bits ({2**bits - 1} is white)" in data.notice


def test_16_bits_of_colour_keep_the_upper_8(tmp_path):
    data = load(prepare(tmp_path, dtype=np.uint16))
    check(data)  # of files of 8 bits
    assert data.notice == "cifar10: images scaled to 8 bits (65535 is white)"


def test_more_bits_than_are_announced(tmp_path):
    levels = np.full((32, 32), 999, np.uint16)
    refused(prepare(tmp_path, channels=1, encode=lambda _: encoded(levels)), "has more than 8 bits")


def test_floats_are_refused(tmp_path):
    directory = prepare(tmp_path, channels=1)
    features = directory / "features.json"
    features.write_text(features.read_text().replace('"uint8"', '"float32"'))
    refused(directory, "has images of float32; uint8 and uint16 are read")


def test_what_is_transparent_lies_on_white(tmp_path):
    def cut_out(image):
        return encoded(
            Image.fromarray(np.dstack([image[..., :3], np.where(image[..., :1] > 127, 255, 0)]).astype(np.uint8))
        )

    data = load(prepare(tmp_path, channels=4, encode=cut_out))
    image = next(example("train", n, 4)[0] for n in range(12) if example("train", n, 4)[1] == data.train.labels[0])
    assert data.train.images.shape == (12, 32, 32, 3)
    np.testing.assert_array_equal(data.train.images[0], np.where(image[..., :1] > 127, image[..., :3], 255))


def test_pictures_are_turned_upright(tmp_path):
    tag = Image.Exif()
    tag[0x112] = 6
    check(load(prepare(tmp_path, encode=lambda image: encoded(np.rot90(image).copy(), exif=tag))))


def test_parts_are_needed(tmp_path):
    refused(prepare(tmp_path, parts=("train",)), "has the parts train")


def test_tfrecord_is_refused(directory):
    for file in directory.glob("*.array_record*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    refused(directory, "not as array_record", 'file_format="array_record"')


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "7", "[" * 100_000, '{"a": "\\ud800"}'])
@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_damaged_descriptions(directory, name, content):
    (directory / name).write_text(content)
    refused(directory, "cannot be read")


@pytest.mark.parametrize("keep", [0, 1000, 100_000])
def test_truncated_records(directory, keep):
    file = next(directory.glob("*train.array_record*"))
    file.write_bytes(file.read_bytes()[:keep])
    refused(directory, "cannot be read")


def test_missing_records(directory):
    next(directory.glob("*train.array_record*")).unlink()
    refused(directory, "there is no such file")
