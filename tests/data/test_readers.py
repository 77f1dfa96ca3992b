"""Each format is written here by hand, from its description, and read back; then it is damaged in every way."""

import dataclasses
import gzip
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxtl.data import load, readers
from jaxtl.errors import InputError

RANDOM = np.random.default_rng(0)


def refused(path, *said):
    with pytest.raises(InputError) as caught:
        load(path)
    for words in said:
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


# ---- NumPy archives


def plain(prefix="", names=True, **changes):
    arrays = {
        f"{prefix}train_images": RANDOM.integers(0, 256, (12, 4, 4), dtype=np.uint8),
        f"{prefix}train_labels": (np.arange(12) % 3).astype(np.uint8),
        f"{prefix}test_images": RANDOM.integers(0, 256, (6, 4, 4), dtype=np.uint8),
        f"{prefix}test_labels": (np.arange(6) % 3).astype(np.uint8),
    }
    if names:
        arrays[f"{prefix}label_names"] = np.array(["a", "b", "c"])
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def test_plain_npz(tmp_path):
    arrays = plain()
    np.savez(tmp_path / "mine.npz", **arrays)
    data = load(tmp_path / "mine.npz")
    for part, split in (("train", data.train), ("test", data.test)):
        np.testing.assert_array_equal(split.images[..., 0], arrays[f"{part}_images"])
        np.testing.assert_array_equal(split.labels, arrays[f"{part}_labels"])
    assert (data.name, data.classes, data.origin) == ("mine", ("a", "b", "c"), str(tmp_path / "mine.npz"))


def test_npz_without_names(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", **plain(names=False))
    assert load(str(tmp_path / "mine.npz")).classes == ("0", "1", "2")


def test_pictures_for_validation_are_trained_on_as_in_medmnist(tmp_path):
    images, labels = RANDOM.integers(0, 256, (20, 6, 6), dtype=np.uint8), np.arange(20)[:, None] % 2
    parts = {"train": slice(0, 10), "val": slice(10, 14), "test": slice(14, 20)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays)
    data = load(tmp_path / "pneumoniamnist.npz")
    np.testing.assert_array_equal(data.train.images[..., 0], images[:14])
    np.testing.assert_array_equal(data.train.labels, labels[:14, 0])
    np.testing.assert_array_equal(data.test.images[..., 0], images[14:])
    np.savez(tmp_path / "other.npz", **{**arrays, "val_images": np.zeros((4, 5, 5), np.uint8)})
    with pytest.raises(InputError, match=r"val and train have examples of \[5, 5\] and \[6, 6\]"):
        load(tmp_path / "other.npz")


def test_npz_with_prefixes(tmp_path):
    mnist, usps = plain("mnist_"), plain("us_ps_", names=False)
    path = tmp_path / "both.npz"
    np.savez(path, **mnist, **usps)
    data = load(f"{path}#us_ps")
    np.testing.assert_array_equal(data.test.images[..., 0], usps["us_ps_test_images"])
    assert (data.name, data.classes, data.origin) == ("us_ps", ("0", "1", "2"), f"{path}#us_ps")
    assert load(f"{path}#mnist").classes == ("a", "b", "c")
    refused(path, "holds 2 data sets", "both.npz#mnist, both.npz#us_ps")
    refused(f"{path}#mnst", "no mnst_train_images", "did you mean 'mnist'?")
    np.savez(path, **mnist)
    np.testing.assert_array_equal(load(path).train.images[..., 0], mnist["mnist_train_images"])


def test_a_hash_in_a_file_name_is_part_of_it(tmp_path):
    np.savez(tmp_path / "a#b.npz", **plain())
    assert load(tmp_path / "a#b.npz").name == "a#b"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_labels": None}, "has no test_labels"),
        ({"train_images": None}, "has no train_images"),
        ({"train_labels": np.arange(12) % 3 + 1}, "label 3, but the 3 class names"),
        ({"train_labels": np.arange(12) % 3 / 1}, "labels are float64"),
        ({"label_names": np.array(["a", "b", "c", "d"])}, "class 3 (d)"),
        ({"test_images": np.zeros((6, 4, 5), np.uint8)}, "[4, 5, 1]"),
        ({"train_images": np.full((12, 4, 4), {}, object)}, "cannot be read (Object arrays"),
    ],
)
def test_npz_with_wrong_contents(tmp_path, changes, said):
    np.savez(tmp_path / "mine.npz", **plain(**changes))
    refused(tmp_path / "mine.npz", "mine.npz", said)


def every_tenth_cut(path):
    whole = path.read_bytes()
    for cut in range(0, len(whole), max(1, len(whole) // 10)):
        path.write_bytes(whole[:cut])
        yield cut
    path.write_bytes(whole)


def test_truncated_or_other_npz(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **plain())
    for _ in every_tenth_cut(path):
        refused(path, "mine.npz", "is no complete npz archive")
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # within the pixels: the checksum of the zip member finds it
    path.write_bytes(content)
    refused(path, "mine.npz", "cannot be read (Bad CRC-32")


def test_pickles_are_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for name in ("mine.npz", "mine.tar.gz", "data_batch_1", "x.pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        refused(tmp_path / name, name, "pickles", "cifar-10-binary.tar.gz")
    refused(tmp_path, "pickles", "binary")  # a directory with data_batch_1
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    refused(tmp_path / "cifar-10-python.tar.gz", "pickles", "binary")
    assert not (tmp_path / "exploded").exists()


# ---- mosaics


def encoded(image, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


def mosaics(images, columns, per_mosaic, form, **options):
    """The images, tile by tile, in as many mosaics as needed; the last row is filled up with black."""
    files = []
    for start in range(0, len(images), per_mosaic):
        part = images[start : start + per_mosaic]
        rows = -(-len(part) // columns)
        mosaic = np.zeros((rows * 8, columns * 8, 3), np.uint8)
        for i, image in enumerate(part):
            y, x = 8 * (i // columns), 8 * (i % columns)
            mosaic[y : y + 8, x : x + 8] = image
        files.append(encoded(mosaic, form, **options))
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])


def mosaic_archive(form="PNG", **changes):
    smooth = np.linspace(0, 200, 17)[:, None, None, None] + np.linspace(0, 50, 8)[:, None, None]
    train = np.broadcast_to(smooth, (17, 8, 8, 3)).astype(np.uint8)
    test = RANDOM.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    train_blob, train_offsets = mosaics(train, 3, 6, form)
    test_blob, test_offsets = mosaics(test, 3, 6, "WEBP", lossless=True)
    arrays = {
        "train_blob": train_blob,
        "train_offsets": train_offsets,
        "train_labels": (np.arange(17) % 2).astype(np.uint8),
        "test_blob": test_blob,
        "test_offsets": test_offsets,
        "test_labels": (np.arange(5) % 2).astype(np.uint8),
        "label_names": np.array(["cat", "dog"]),
        "columns": np.int64(3),
    }
    return train, test, arrays | changes


@pytest.mark.parametrize(
    ("form", "error", "how"), [("PNG", 0, "encoded without loss"), ("JPEG", 12, "re-encoded as JPEG, not the original")]
)
def test_mosaics(tmp_path, form, error, how):
    train, test, arrays = mosaic_archive(form)
    np.savez(tmp_path / "tiles.npz", **arrays)
    data = load(tmp_path / "tiles.npz")
    assert data.train.images.shape == train.shape
    assert np.abs(data.train.images.astype(int) - train).max() <= error
    np.testing.assert_array_equal(data.test.images, test)
    np.testing.assert_array_equal(data.train.labels, np.arange(17) % 2)
    assert data.classes == ("cat", "dog")
    assert f"train images {how}" in data.origin
    assert "test images encoded without loss" in data.origin


WRONG_MOSAICS = {
    "cut blob": (lambda a: {"train_blob": a["train_blob"][:-9]}, "offsets do not cut"),
    "offsets that go back": (lambda a: {"train_offsets": a["train_offsets"][[0, 2, 1, 3]]}, "offsets do not cut"),
    "no offsets": (lambda a: {"train_offsets": a["train_offsets"][:0]}, "offsets do not cut"),
    "float offsets": (lambda a: {"train_offsets": a["train_offsets"] / 1}, "offsets do not cut"),
    "no image": (lambda a: {"train_blob": np.zeros_like(a["train_blob"])}, "cannot be read (no picture"),
    "columns": (lambda a: {"columns": np.int64(5)}, "no 5 square tiles"),
    "no columns": (lambda a: {"columns": np.array([3, 3])}, "columns is [3 3]"),
    "too many labels": (lambda a: {"train_labels": np.arange(19) % 2}, "19 labels for 18 tiles"),
    "too few labels": (lambda a: {"train_labels": np.arange(11) % 2}, "11 labels for 18 tiles"),
}


@pytest.mark.parametrize("mistake", WRONG_MOSAICS)
def test_wrong_mosaics(tmp_path, mistake):
    change, said = WRONG_MOSAICS[mistake]
    arrays = mosaic_archive()[2]
    np.savez(tmp_path / "tiles.npz", **(arrays | change(arrays)))
    refused(tmp_path / "tiles.npz", "tiles.npz", said)


def test_no_prefix_in_mosaics(tmp_path):
    np.savez(tmp_path / "tiles.npz", **mosaic_archive()[2])
    refused(f"{tmp_path}/tiles.npz#mnist", "has no mnist_train_images")


# ---- mosaics of one set, whose examples say where they belong


def sheet_archive(**changes):
    """Cells 0..16 of two laboratories; the last two mosaics and the grey film stand beside."""
    train, _, arrays = mosaic_archive()
    cells = {"blob": arrays["train_blob"], "offsets": arrays["train_offsets"], "labels": arrays["train_labels"]}
    split, lab = np.arange(17) % 3, np.arange(17) % 5 % 2
    own = {"split": split.astype(np.uint8), "lab": lab.astype(np.uint8), "label_names": np.array(["cat", "dog"])}
    own["note"] = np.array(["cell"] * 17)
    return train, {f"cells_{key}": array for key, array in {**cells, **own}.items()} | {
        "split_names": np.array(["train", "val", "test"]),
        **changes,
    }


def test_a_set_whose_examples_say_which_are_for_testing(tmp_path):
    images, arrays = sheet_archive()
    np.savez(tmp_path / "lab.npz", **arrays)
    split = arrays["cells_split"]
    for name in ("lab.npz", "lab.npz#cells"):
        data = load(f"{tmp_path}/{name}")
        np.testing.assert_array_equal(data.train.images, images[split != 2])
        np.testing.assert_array_equal(data.test.images, images[split == 2])
        np.testing.assert_array_equal(data.test["lab"], arrays["cells_lab"][split == 2])
        assert {*data.train.fields} == {"image", "lab", "label"}
        assert (data.name, data.classes) == ("cells", ("cat", "dog"))
        assert "images encoded without loss" in data.origin


def test_grey_mosaics_have_one_channel_and_several_sets_are_told_apart(tmp_path):
    _, arrays = sheet_archive()
    film = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    coded = encoded(np.tile(film, (2, 2)), "PNG")
    own = {"blob": np.frombuffer(coded, np.uint8), "offsets": np.array([0, len(coded)]), "labels": np.arange(4) % 2}
    arrays |= {f"film_{key}": array for key, array in {**own, "split": np.array([0, 0, 2, 2])}.items()}
    np.savez(tmp_path / "lab.npz", **arrays)
    data = load(f"{tmp_path}/lab.npz#film")
    np.testing.assert_array_equal(data.train.images, np.stack([film, film])[..., None])
    refused(tmp_path / "lab.npz", "holds 2 data sets", "lab.npz#cells, lab.npz#film")
    refused(f"{tmp_path}/lab.npz#cels", "has no cels_blob", "cells")


WRONG_SHEETS = {
    "no names of parts": ({"split_names": np.array(["a", "b", "c"])}, "which examples are for testing"),
    "a split of others": ({"cells_split": np.zeros(3, np.uint8)}, "which examples are for testing"),
    "too many labels": ({"cells_labels": np.arange(30) % 2}, "0 edges of tiles give 30 images"),
    "cut blob": ({"cells_blob": np.zeros(9, np.uint8)}, "offsets do not cut"),
}


@pytest.mark.parametrize("mistake", WRONG_SHEETS)
def test_wrong_sheets(tmp_path, mistake):
    changes, said = WRONG_SHEETS[mistake]
    np.savez(tmp_path / "lab.npz", **sheet_archive(**changes)[1])
    refused(tmp_path / "lab.npz", "lab.npz", said)


# ---- CIFAR, binary


@pytest.fixture(params=["CIFAR_10", "CIFAR_100"])
def cifar(request, monkeypatch):
    """A miniature of the official archive: its files by name, and the arrays in them."""
    layout = dataclasses.replace(getattr(readers, request.param), records=6, test_records=4)
    monkeypatch.setattr(readers, request.param, layout)
    files, parts = {}, {"train": ([], []), "test": ([], [])}
    for file in (*layout.train, layout.test):
        count, part = (4, "test") if file == layout.test else (6, "train")
        images = RANDOM.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) % 3
        content = b""
        for image, label in zip(images, labels, strict=True):
            content += bytes([label] if request.param == "CIFAR_10" else [19 - label, label])
            content += b"".join(image[:, :, channel].tobytes() for channel in range(3))
        files[file] = content
        parts[part][0].append(images)
        parts[part][1].append(labels)
    files[layout.names] = b"cat\ndog\nship\n\n"
    arrays = {part: tuple(map(np.concatenate, both)) for part, both in parts.items()}
    return layout, files, arrays


def write_tar(path, folder, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_directory(path, files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)


def test_binary_cifar(tmp_path, cifar):
    layout, files, arrays = cifar
    write_directory(tmp_path / layout.folder, files)
    write_tar(tmp_path / "packed.tar.gz", layout.folder, files)
    for path in (tmp_path / layout.folder, tmp_path / "packed.tar.gz"):
        data = load(path)
        for split, (images, labels) in zip((data.train, data.test), arrays.values(), strict=True):
            np.testing.assert_array_equal(split.images, images)
            np.testing.assert_array_equal(split.labels, labels)
        assert data.classes == ("cat", "dog", "ship")
        assert str(path) in data.origin


def test_only_the_expected_members_are_read(tmp_path, cifar):
    layout, files, _ = cifar
    outside = {"../../escaped": b"x", "data_batch_1": pickle.dumps(1), "readme.html": b"x" * 9}
    write_tar(tmp_path / "packed.tar.gz", layout.folder, outside | files)
    assert len(load(tmp_path / "packed.tar.gz").classes) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["packed.tar.gz"]
    write_tar(tmp_path / "packed.tar.gz", "elsewhere", files)
    refused(tmp_path / "packed.tar.gz", "holds no file of the binary CIFAR archives", "binary version")


def test_members_that_are_links_are_not_followed(tmp_path, cifar):
    layout, files, _ = cifar
    secret = tmp_path / "secret"
    secret.write_bytes(files[layout.test])
    write_tar(tmp_path / "packed.tar.gz", layout.folder, {k: v for k, v in files.items() if k != layout.test})
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        link = tarfile.TarInfo(f"{layout.folder}/{layout.test}")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    refused(tmp_path / "packed.tar", "holds no file")


def test_damaged_binary_cifar(tmp_path, cifar):
    layout, files, _ = cifar
    short = files | {layout.test: files[layout.test][:-1]}
    long = files | {layout.train[0]: files[layout.train[0]] + b"x"}
    record = layout.label_bytes + 3072
    missing = {name: content for name, content in files.items() if name != layout.names}
    label = bytearray(files[layout.train[0]])
    label[layout.label_bytes - 1] = 77
    cases = [
        (short, f"{layout.test} has {4 * record - 1} bytes instead of {4 * record}"),
        (long, f"{layout.train[0]} has {6 * record + 1} bytes instead of {6 * record}"),
        (files | {layout.names: bytes(2**16 + 1)}, f"{layout.names} has 65537 bytes"),
        (missing, f"has no {layout.names}"),
        (files | {layout.train[0]: bytes(label)}, "label 77, but the 3 class names"),
        (files | {layout.names: "ä".encode()}, "cannot be read ('ascii'"),
    ]
    for contents, said in cases:
        write_directory(tmp_path / layout.folder, contents)
        write_tar(tmp_path / "packed.tar.gz", layout.folder, contents)
        if contents is missing:
            (tmp_path / layout.folder / layout.names).unlink()
        refused(tmp_path / layout.folder, layout.folder, said)
        refused(tmp_path / "packed.tar.gz", "packed.tar.gz", said)


def test_truncated_tar(tmp_path, cifar):
    layout, files, _ = cifar
    path = tmp_path / "packed.tar.gz"
    write_tar(path, layout.folder, files)
    for _ in every_tenth_cut(path):
        refused(path, "packed.tar.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    refused(path, "packed.tar.gz", "cannot be read (CRC check failed")
    for content in (b"not a tar at all" * 100, gzip.compress(b"not a tar at all" * 100)):
        path.write_bytes(content)
        refused(path, "packed.tar.gz")


# ---- idx


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_arrays():
    arrays = plain(names=False)
    return dict(zip(NAMES, arrays.values(), strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_idx(tmp_path, packed, dotted):
    arrays = idx_arrays()
    for name, array in arrays.items():
        name = name.replace("-idx", ".idx") if dotted else name
        content = gzip.compress(idx(array)) if packed else idx(array)
        (tmp_path / f"{name}{'.gz' if packed else ''}").write_bytes(content)
    data = load(tmp_path)
    np.testing.assert_array_equal(data.train.images[..., 0], arrays[NAMES[0]])
    np.testing.assert_array_equal(data.test.labels, arrays[NAMES[3]])
    assert (data.classes, data.name) == (("0", "1", "2"), tmp_path.name)


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx(tmp_path, packed):
    def write(name, content):
        (tmp_path / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)

    arrays = idx_arrays()
    for name, array in arrays.items():
        write(name, idx(array))
    images = idx(arrays[NAMES[0]])
    for content, said in (
        (images[:-1], "has 191 bytes of data; its header says [12, 4, 4]"),
        (images + b"x", "has more than 192 bytes of data"),
        (images[:9], "starts with 00000803"),
        (b"", "starts with nothing instead of the magic number 00000803"),
        (idx(arrays[NAMES[1]]), "starts with 00000801 instead of the magic number 00000803"),
        (b"\0\0\x0d\x03" + images[4:], "starts with 00000d03"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "its header says [4294967295, 4294967295, 4294967295]"),
    ):
        write(NAMES[0], content)
        refused(tmp_path, NAMES[0], said)
    write(NAMES[0], images)
    load(tmp_path)
    next(tmp_path.glob("t10k-labels*")).unlink()
    refused(tmp_path, "has no t10k-labels-idx1-ubyte")


def test_truncated_gzip(tmp_path):
    for name, array in idx_arrays().items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    for cut in every_tenth_cut(tmp_path / f"{NAMES[0]}.gz"):
        refused(tmp_path, f"{NAMES[0]}.gz", "nothing" if cut == 0 else "cannot be read")
