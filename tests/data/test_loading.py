import subprocess
import sys

import numpy as np
import pytest

from jaxtl.data import load
from jaxtl.data.loading import FASHION, default_directory
from jaxtl.errors import InputError


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """Nothing of this machine's own data is found."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("JAXTL_DATA", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def write(path):
    images, labels = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def test_digits_are_embedded():
    from sklearn.datasets import load_digits

    data = load("digits")
    ink = {image.tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}
    for split in (data.train, data.test):
        back = np.round(split.images.reshape(-1, 64) * (16 / 255))
        assert all(ink[image.tobytes()] == label for image, label in zip(back, split.labels, strict=True))
    assert (data.train.images.dtype, data.train.images.min(), data.train.images.max()) == (np.uint8, 0, 255)
    assert set(np.unique(data.train.images)) == {round(255 * ink / 16 + 1e-9) for ink in range(17)}
    assert (len(data.train), len(data.test), data.name, data.notice) == (1438, 359, "digits", "")
    assert np.ptp(np.bincount(data.test.labels)) <= 3
    np.testing.assert_array_equal(data.test.images, load("digits").test.images)


def test_auto_falls_back_to_the_digits_and_says_so(tmp_path):
    data = load("auto")
    assert data.name == "digits"
    assert str(tmp_path / "home/.cache/jaxtl") in data.notice
    assert "path" in data.notice
    assert len(data.notice.splitlines()) == 1


def test_auto_takes_cifar10_where_it_is(tmp_path):
    write(tmp_path / "cifar10.npz")
    data = load("auto", tmp_path)
    assert (data.name, data.origin) == ("cifar10", str(tmp_path / "cifar10.npz"))
    assert "not found" not in data.notice


def test_auto_does_not_hide_a_damaged_file(tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="no complete npz"):
        load("auto", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_a_name_never_falls_back(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "records"))
    with pytest.raises(InputError) as caught:
        load(name)
    message = str(caught.value)
    for place in ("records", "home/tensorflow_datasets", "home/.cache/jaxtl"):
        assert str(tmp_path / place) in message
    assert f"{name}.npz" in message
    assert "JAXTL_DATA" in message
    assert len(message.splitlines()) == 2


def test_where_names_are_looked_for(tmp_path, monkeypatch):
    assert default_directory() == tmp_path / "home/.cache/jaxtl"
    write(tmp_path / "home/.cache/jaxtl/mnist.npz")
    assert load("mnist").origin == str(tmp_path / "home/.cache/jaxtl/mnist.npz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "cache/jaxtl/mnist.npz")
    assert load("mnist").origin == str(tmp_path / "cache/jaxtl/mnist.npz")
    monkeypatch.setenv("JAXTL_DATA", str(tmp_path / "mine"))
    write(tmp_path / "mine/mnist.npz")
    assert load("mnist").origin == str(tmp_path / "mine/mnist.npz")
    write(tmp_path / "given/mnist.npz")
    assert load("mnist", tmp_path / "given").origin == str(tmp_path / "given/mnist.npz")


def write_idx(directory):
    directory.mkdir(parents=True)
    for part in ("train", "t10k"):
        (directory / f"{part}-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(40)
        )
        (directory / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + bytes(range(10)))


def test_idx_files_by_name(tmp_path):
    write_idx(tmp_path / "mnist")
    write_idx(tmp_path / "fashion_mnist")
    assert load("mnist", tmp_path).classes == tuple("0123456789")
    assert load("fashion_mnist", tmp_path).classes == FASHION


def test_a_directory_of_another_kind_does_not_count(tmp_path):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(InputError, match="mnist: not found"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("given", ["data_dir", "TFDS_DATA_DIR", "home"])
def test_prepared_directories_come_first(tmp_path, monkeypatch, given):
    """Found by looking at file names; reading this empty one then fails, and says where."""
    write(tmp_path / "here/cifar10.npz")
    root = {"data_dir": "here", "TFDS_DATA_DIR": "records", "home": "home/tensorflow_datasets"}[given]
    if given == "TFDS_DATA_DIR":
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / root))
    version = tmp_path / root / "cifar10/3.0.2"
    version.mkdir(parents=True)
    (version / "cifar10-train.tfrecord-00000-of-00001").touch()
    (version / "dataset_info.json").touch()
    assert load("cifar10", tmp_path / "here").origin.endswith("cifar10.npz")
    (version / "cifar10-train.array_record-00000-of-00001").touch()
    with pytest.raises(InputError, match="cannot be read") as caught:
        load("cifar10", tmp_path / "here")
    assert str(version) in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("cifar", "did you mean 'cifar10'?"),
        ("/no/such.npz", "known: auto, cifar10, cifar100, digits, fashion_mnist, mnist"),
        ("{tmp}", "no data set of a known format"),
        ("{tmp}/notes.txt", "no data set of a known format"),
        ("{tmp}/notes.txt#usps", "chooses keys of an .npz"),
    ],
)
def test_what_is_no_data_set(tmp_path, wanted, said):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError) as caught:
        load(wanted.format(tmp=tmp_path))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_a_data_dir_must_exist(tmp_path):
    with pytest.raises(InputError, match="is no directory"):
        load("auto", tmp_path / "nowhere")


def test_home_in_a_path(tmp_path):
    write(tmp_path / "home/mine.npz")
    assert load("~/mine.npz").name == "mine"


def test_importing_is_light():
    heavy = "{'sklearn', 'scipy', 'tensorflow_datasets', 'PIL', 'matplotlib', 'flax'}"
    code = f"import sys, jaxtl.data; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
