"""Data that somebody else has made must neither run anything, nor hang, nor fill the memory."""

import contextlib
import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtl.data import load, readers
from jaxtl.data.tfds_write import prepare
from jaxtl.errors import InputError

SECONDS = 20  # what hangs takes for ever; a busy machine takes its time
GROWTH = 400  # MB that a refusal may take on top: a bomb takes thousands


class Hang(BaseException):
    """Not an `Exception`: nothing may catch it."""


@contextlib.contextmanager
def soon():
    """Fails if the body takes long or much memory."""

    def stop(*_):
        raise Hang

    before, peak = signal.signal(signal.SIGALRM, stop), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < GROWTH * 1024


def refused(path, *said, work=load):
    with pytest.raises(InputError) as caught, soon():
        work(path)
    for words in said:
        assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


# ---- what is no file

OTHERS = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": lambda path: _bound(path),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a directory": lambda path: path.mkdir(),
}


def _bound(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as opened:  # the name of a socket is short
        opened.bind(path.name)


def folders(root):
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8)).save(root / name / f"{number}.png")
    return root


def idx_files(root, ending=""):
    root.mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 10, 2, 2) + bytes(40)
        labels = struct.pack(">4BI", 0, 0, 8, 1, 10) + bytes(range(10))
        for name, content in (("images-idx3", images), ("labels-idx1", labels)):
            (root / f"{part}-{name}-ubyte{ending}").write_bytes(gzip.compress(content) if ending else content)
    return root


def cifar_files(root):
    root.mkdir()
    for name in (*readers.CIFAR_10.sizes(), readers.CIFAR_10.names):
        (root / name).touch()
    return root


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A prepared set of tensorflow-datasets: 6 grey images of 8x8."""
    import tensorflow_datasets as tfds

    class Shells(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kinds = {
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
                "size": tfds.features.ClassLabel(num_classes=2),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, download_manager):
            return {part: self._generate_examples() for part in ("train", "test")}

        def _generate_examples(self):
            for number in range(6):
                png = io.BytesIO()
                Image.new("L", (8, 8), number).save(png, "PNG")
                png.seek(0)
                yield number, {"image": png, "label": number % 2, "size": 0}

    directory = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    Shells(data_dir=directory, file_format="array_record").download_and_prepare()
    tfds.enable_progress_bar()
    return directory / "shells/1.0.0"


@pytest.fixture
def prepared(records, tmp_path):
    return shutil.copytree(records, tmp_path / "shells/1.0.0")


SHARD = "shells-train.array_record-00000-of-00001"


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_among_images(tmp_path, kind):
    root = folders(tmp_path / "pets")
    OTHERS[kind](root / "cat" / "x.png")
    refused(root, f"cat/x.png: is {kind}")
    OTHERS[kind](root / "dog" / "x.png")
    refused(root, "2 of 10 files cannot be used", f"cat/x.png (is {kind}", f"dog/x.png (is {kind}")


def test_a_class_that_is_a_link_to_nowhere_is_not_left_out(tmp_path):
    root = folders(tmp_path / "pets")
    (root / "bird").symlink_to(tmp_path / "not mounted")
    refused(root, "bird: is a link that leads nowhere")
    (root / "bird").unlink()
    (root / "bird").symlink_to("bird")
    refused(root, "bird: is a link that leads nowhere")


def test_files_without_number_that_are_no_pictures(tmp_path):
    root = folders(tmp_path / "pets")
    for number in range(20_000):
        (root / "cat" / f"{number}.png").touch()
    refused(root, "at least 500 of 20004 files cannot be used: cat/")


@pytest.mark.parametrize("start", [b"P6\n#", b"P5 8 8 #", b"P6\n", b"P2\n8\n#", b"P4 8 #", b"Pf #"])
@pytest.mark.parametrize("filling", [b"x", b" ", b"#x\n"])
def test_a_header_without_end(tmp_path, start, filling):
    """Pillow reads it letter by letter."""
    root = folders(tmp_path / "pets")
    (root / "cat/0.png").write_bytes(start + filling * (30_000_000 // len(filling)))
    refused(root, "cat/0.png: ")


@pytest.mark.parametrize("plain", [b"P5\n# by a camera\n8 8\n#\n255\n", b"P5 8 8 255 ", b"P4\n8 8\n"])
def test_a_picture_with_a_header_of_its_own_is_read(tmp_path, plain):
    root = folders(tmp_path / "pets")
    (root / "cat/0.png").write_bytes(plain + bytes(64))
    assert load(root).train.images.shape[1:] == (8, 8, 1)


@pytest.mark.parametrize("name", ["x" * 10_000, "a/" * 10_000, "x" * 300, "set#" + "x" * 10_000, "x" * 300 + "#a"])
def test_a_name_of_any_length(tmp_path, name):
    refused(name, "x" if name[0] == "x" else name[:2])
    with pytest.raises(InputError, match="is no directory"):
        load("mnist", "x" * 300)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["set.npz", "set.tar.gz", "set.tar", "set"])
def test_what_is_no_file_as_a_data_set(tmp_path, kind, name):
    OTHERS[kind](tmp_path / name)
    refused(tmp_path / name, f"{name}: is {kind}" if kind in ("a pipe", "a device", "a socket") else "")
    refused(tmp_path / name, work=lambda path: prepare("cifar10", tmp_path / "root", source=path))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_what_is_no_file_among_idx_files(tmp_path, kind, ending):
    root = idx_files(tmp_path / "idx", ending)
    load(root)
    for file in sorted(root.iterdir()):
        file.unlink()
        OTHERS[kind](file)
        refused(root, file.name, f"is {kind}")
        refused(root, work=lambda path: prepare("mnist", tmp_path / "root", source=path))
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        idx_files(root, ending)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_file_among_cifar_files(tmp_path, kind):
    root = cifar_files(tmp_path / "cifar")
    for name in ("data_batch_1.bin", "test_batch.bin"):
        (root / name).unlink()
        OTHERS[kind](root / name)
        refused(root)
        refused(root, work=lambda path: prepare("cifar10", tmp_path / "root", source=path))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "label.labels.txt", SHARD])
def test_what_is_no_file_in_a_prepared_directory(prepared, kind, name):
    load(prepared)
    (prepared / name).unlink()
    OTHERS[kind](prepared / name)
    refused(prepared, "" if name == "dataset_info.json" else f"is {kind}")


# ---- pictures


def png(width, height, bits=8, colour=2, rows=b""):
    """A PNG that says it has this size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 10_000, 13_000, 14_000, 65_000, 2**31 - 1])
def test_a_picture_that_says_it_is_huge(tmp_path, side):
    root = folders(tmp_path / "pets")
    (root / "cat/0.png").write_bytes(png(side, side))
    refused(root, "cat/0.png")
    (root / "cat/0.png").write_bytes(b"P5 %d %d 255 " % (side, side))
    refused(root, "cat/0.png")


def test_twenty_mosaics_that_are_bearable_one_by_one(tmp_path):
    """20 times 64 million pixels in 40 kB: their sizes are added up before the first is decoded."""
    coded = [png(8000, 8000)] * 20
    arrays = {"columns": np.int64(1000), "label_names": np.array(["a", "b"])}
    for part in ("train", "test"):
        arrays[f"{part}_blob"] = np.frombuffer(b"".join(coded), np.uint8)
        arrays[f"{part}_offsets"] = np.cumsum([0, *map(len, coded)])
        arrays[f"{part}_labels"] = np.arange(10) % 2
    np.savez(tmp_path / "tiles.npz", **arrays)
    refused(tmp_path / "tiles.npz", "unpacks to", "images may take")


def test_a_folder_of_pictures_larger_than_the_memory_is_not_decoded(tmp_path):
    root = tmp_path / "pets"
    for number in range(40):
        file = root / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(8000, 8000))
    with soon():
        data = load(root, memory=2**31)
    assert data.train.images.shape == (32, 8000, 8000, 3)  # on disk


def test_a_progressive_jpeg_of_many_scans(tmp_path):
    root = folders(tmp_path / "pets")
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "JPEG", progressive=True)
    head, mark, scan = file.getvalue().rpartition(b"\xff\xda")
    (root / "cat/0.jpg").write_bytes(head + (mark + scan.removesuffix(b"\xff\xd9")) * 2000 + b"\xff\xd9")
    refused(root, "cat/0.jpg")


@pytest.mark.parametrize("progressive", [False, True])
def test_a_picture_in_a_file_of_terabytes(tmp_path, progressive):
    root = folders(tmp_path / "pets")
    Image.new("L", (8, 8)).save(root / "cat/0.jpg", progressive=progressive)
    os.truncate(root / "cat/0.jpg", 2**40)  # of which the disk holds only the beginning
    refused(root, "cat/0.jpg: has 1099512 MB")


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A stand-in for gs, which leaves a mark; returns the mark."""
    mark, program = tmp_path / "gs-was-run", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 10.0\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return mark


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nquit\n%%EOF\n"


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.gif", "x.webp", "x.bmp", "x.ppm"])
def test_no_picture_starts_a_program(tmp_path, ghostscript, name):
    root = folders(tmp_path / "pets")
    for content in (EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS):
        (root / "cat" / name).write_bytes(content)
        refused(root, f"cat/{name}: is a PostScript program")
    assert not ghostscript.exists()


def test_no_picture_within_another_file_starts_a_program(tmp_path, prepared, ghostscript):
    blob = np.frombuffer(EPS, np.uint8)
    mosaic = {"blob": blob, "offsets": np.array([0, len(blob)]), "labels": np.array([0])}
    arrays = {f"{part}_{key}": value for part in ("train", "test") for key, value in mosaic.items()}
    np.savez(tmp_path / "tiles.npz", columns=np.int64(1), **arrays)
    refused(tmp_path / "tiles.npz", "is a PostScript program")
    write_records(prepared / SHARD, [example(EPS, number % 2) for number in range(6)])
    refused(prepared, "is a PostScript program")
    assert not ghostscript.exists()


@pytest.mark.parametrize("form", ["ICNS", "PCX", "SGI", "TGA", "DDS", "MSP", "PDF"])
def test_formats_that_nobody_asked_for_are_not_opened(tmp_path, form):
    root = folders(tmp_path / "pets")
    mode = {"MSP": "1", "ICNS": "RGBA"}.get(form, "L")
    Image.new(mode, (16, 16)).save(root / "cat/0.png", form)
    refused(root, "cat/0.png")


# ---- archives


def test_an_npy_header_that_announces_more_than_there_is(tmp_path):
    for shape in ("(1000000000000,)", "(1000000, 1000000, 100)", "(-1,)", f"({10**4000},)", "(" * 3000 + ")" * 3000):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(10)
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("train_images.npy", npy)
        refused(tmp_path / "x.npz", "x.npz")


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_that_unpacks_to_more_than_the_memory(tmp_path, packing):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", packing) as archive, archive.open("train_images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (2**24,)})
        file.write(bytes(2**24))
    refused(path, "unpacks to", work=lambda path: load(path, memory=2**20))
    content = path.read_bytes().replace(struct.pack("<I", 2**24 + 128), struct.pack("<I", 1000))
    path.write_bytes(content)  # it says that it unpacks to little
    refused(path, "x.npz", work=lambda path: load(path, memory=2**20))


@pytest.mark.parametrize("wide", [False, True])
def test_an_npz_of_half_a_million_names(tmp_path, wide):
    count, head = 500_000, struct.pack("<I5H3I2H", 0x04034B50, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    entry = struct.pack("<I6H3I5H2I", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    index = b"".join(entry + b"%08d" % number for number in range(count))
    record = struct.pack("<IQ2H2I4Q", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(index), len(head))
    record += struct.pack("<IIQI", 0x07064B50, 0, len(head) + len(index), 1)
    said = (0xFFFF, 0xFFFF, 0 if wide else len(index), len(head))
    end = struct.pack("<I4H2IH", 0x06054B50, 0, 0, *said, 0)
    (tmp_path / "x.npz").write_bytes(head + index + (record if wide else b"") + end)
    refused(tmp_path / "x.npz", "has an index of 27 MB")


def packed_zeros(size):
    """gzip of zeros, as many times 16 MB as asked for."""
    return gzip.compress(bytes(2**24)) * (size // 2**24)


def test_idx_files_that_unpack_without_end(tmp_path):
    root = idx_files(tmp_path / "idx", ".gz")
    file = root / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes() + packed_zeros(2**34))  # 16 GB
    refused(root, file.name, "has more than 40 bytes")
    file.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, 2**20, 2**10, 2**10)) + packed_zeros(2**34))
    refused(root, file.name, "its header says [1048576, 1024, 1024]")


def tar_header(kind, size, name="cifar-10-batches-bin/data_batch_1.bin"):
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.REGTYPE]
)
def test_a_tar_whose_headers_unpack_without_end(tmp_path, kind):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_header(kind, 2**34, "pax")) + packed_zeros(2**34))
    refused(path, "x.tar.gz: unpacks to more than")
    refused(path, "unpacks to more than", work=lambda path: prepare("cifar10", tmp_path / "root", source=path))


def test_a_tar_of_a_hundred_thousand_pax_records(tmp_path):
    records = b"".join(b"%d k%d=v\n" % (len(f"k{i}=v\n") + 3, i) for i in range(100, 500)) * 20_000
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar_header(tarfile.XHDTYPE, len(records), "pax") + records + bytes(1024), 1))
    refused(path, "x.tar.gz")


def test_a_tar_that_goes_on_after_its_end(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(packed_zeros(2**34))
    refused(path, "x.tar.gz: unpacks to more than")


@pytest.mark.parametrize("form", ["bz2", "xz"])
def test_a_tar_that_is_packed_in_another_way_is_not_called_damaged(tmp_path, form):
    with tarfile.open(tmp_path / "x.tar.gz", f"w:{form}"):
        pass
    refused(tmp_path / "x.tar.gz", f"x.tar.gz: is {dict(bz2='a bzip2', xz='an xz')[form]} archive", "unpack it")


@pytest.mark.parametrize("size", [-1, -(2**40), 2**62])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE])
def test_a_tar_member_of_an_impossible_size(tmp_path, kind, size):
    (tmp_path / "x.tar").write_bytes(tar_header(kind, size) + bytes(2048))
    refused(tmp_path / "x.tar", "x.tar")


def test_a_sparse_tar_member_is_no_file(tmp_path):
    header = bytearray(tar_header(tarfile.GNUTYPE_SPARSE, 512))
    header[386:398], header[398:410] = b"00000000000\0", b"77777777777\0"  # 8 GB from offset 0
    header[483:495] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(2048))
    refused(tmp_path / "x.tar", "x.tar")


# ---- prepared directories


def example(encoded, label):
    from tensorflow_datasets.proto import tf_example_pb2

    made = tf_example_pb2.Example()
    made.features.feature["image"].bytes_list.value.append(encoded)
    made.features.feature["label"].int64_list.value.append(label)
    return made.SerializeToString()


def write_records(path, contents, options="group_size:1"):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), options)
    for content in contents:
        writer.write(content)
    writer.close()


def edited(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("packing", ["zstd", "brotli"])
@pytest.mark.parametrize(("count", "size"), [(1, 2**28 + 1), (6, 2**23)])
def test_records_that_unpack_to_more_than_is_sane(prepared, packing, count, size):
    write_records(prepared / SHARD, [bytes(size)] * count, f"group_size:1,{packing}")
    edited(prepared / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=[str(count)]))
    refused(prepared, SHARD, "holds records of")


@pytest.mark.parametrize(
    "dimensions", [[10**6, 10**6, 3], [2**40, 2**40, 1], [0, 8, 1], [8, 8, 10**9], [-1, -1, 3], [8]]
)
def test_shapes_that_no_picture_has(prepared, dimensions):
    given = {"shape": {"dimensions": list(map(str, dimensions))}, "dtype": "uint8"}
    edited(
        prepared / "features.json",
        lambda features: features["featuresDict"]["features"]["image"].update(image=given),
    )
    refused(prepared, str(prepared))


def test_counts_that_are_not_true(prepared):
    (prepared / "label.labels.txt").unlink()
    for count in (10**15, 0, -1):
        given = {"numClasses": str(count)}
        edited(
            prepared / "features.json",
            lambda features, given=given: features["featuresDict"]["features"]["label"].update(classLabel=given),
        )
        refused(prepared, f"is said to have {count} classes in 6 records")
    shutil.copy(prepared / "dataset_info.json", prepared / "intact")
    for lengths in (["7"], [str(10**15)], ["-1"], ["3", "3"], []):
        edited(prepared / "dataset_info.json", lambda info, said=lengths: info["splits"][0].update(shardLengths=said))
        refused(prepared, str(prepared))


def test_a_picture_in_a_record_that_is_not_of_the_shape(prepared):
    write_records(prepared / SHARD, [example(png(8000, 8000), number % 2) for number in range(6)])
    refused(prepared, "an image of 8000x8000 pixels; features.json says 8x8")
    with pytest.raises(InputError, match="8000x8000"), soon():
        np.asarray(load(prepared, memory=0).train.images[:1])


@pytest.mark.parametrize("record", [b"", b"\xff" * 9, example(b"", 0)[:-3]], ids=["empty", "no message", "cut off"])
def test_records_that_are_no_examples(prepared, record):
    write_records(prepared / SHARD, [record] * 6)
    refused(prepared, "cannot be read")


@pytest.mark.parametrize(
    "template",
    ["../{SPLIT}", "/etc/passwd", "{SPLIT}/../../x", "{DATASET}[0:2]", "", ".", "{NONSENSE}", "{SPLIT.__doc__}"],
)
def test_files_of_records_outside_the_directory_are_not_opened(prepared, template):
    os.mkfifo(prepared.parent / "train")
    edited(prepared / "dataset_info.json", lambda info: info["splits"][0].update(filepathTemplate=template))
    if template:
        refused(prepared, str(prepared), "names a file of records")
    else:
        load(prepared)  # of the usual names


def test_files_of_records_without_number(prepared):
    edited(prepared / "dataset_info.json", lambda info: info["splits"][0].update(shardLengths=["1"] * 1_000_000))
    refused(prepared, "names 1000000 files of records, more than 20000")


def test_names_of_a_set_that_lead_elsewhere(prepared):
    for name in ("../shells", "/tmp/shells", "a b", "x" * 300, ""):
        edited(prepared / "dataset_info.json", lambda info, name=name: info.update(name=name))
        refused(prepared, "which names no set")


def test_names_of_a_label_that_lead_elsewhere(prepared):
    (prepared.parent / "secret.labels.txt").write_text("told\nby heart\n")

    def change(features):
        kinds = features["featuresDict"]["features"]
        del kinds["size"]
        kinds["../secret"] = kinds.pop("label")

    edited(prepared / "features.json", change)
    with pytest.raises(InputError) as caught:
        load(prepared)
    assert "told" not in str(caught.value)


BUILT_IN = "tensorflow_datasets.core.features"
PLACES = {  # where a class may be named: what it makes of a description
    "a feature": lambda top, evil: top["featuresDict"]["features"].update(x={"pythonClassName": evil, "image": {}}),
    "the label": lambda top, evil: top["featuresDict"]["features"]["label"].update(pythonClassName=evil),
    "the set": lambda top, evil: top.update(pythonClassName=evil),
    "a nested feature": lambda top, evil: top["featuresDict"]["features"].update(
        x={
            "pythonClassName": f"{BUILT_IN}.features_dict.FeaturesDict",
            "featuresDict": {"features": {"y": {"pythonClassName": evil, "text": {}}}},
        }
    ),
    "a sequence": lambda top, evil: top["featuresDict"]["features"].update(
        x={
            "pythonClassName": f"{BUILT_IN}.sequence_feature.Sequence",
            "sequence": {"feature": {"pythonClassName": evil, "text": {}}, "length": "3"},
        }
    ),
    "a legacy feature": lambda top, evil: top["featuresDict"]["features"].update(x={"type": evil, "content": {}}),
    "a legacy set": lambda top, evil: (top.clear(), top.update(type=evil, content={}, proto_cls="")),
    "a legacy proto": lambda top, evil: (
        top.clear(),
        top.update(type=f"{BUILT_IN}.text_feature.Text", content="{}", proto_cls=evil),
    ),
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """(name of a class whose module leaves a mark, the mark); the module can be imported."""
    mark = tmp_path / "code-was-run"
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "strange.evil.Feature", mark


@pytest.mark.parametrize("place", PLACES)
def test_no_class_that_a_description_names_is_imported(prepared, evil, place):
    name, mark = evil
    edited(prepared / "features.json", lambda features: PLACES[place](features, name))
    refused(prepared, str(prepared))
    assert not mark.exists()
    assert "strange.evil" not in sys.modules


def test_the_module_of_a_builder_is_not_imported(prepared, evil):
    _, mark = evil
    edited(prepared / "dataset_info.json", lambda info: info.update(moduleName="strange.evil", configName="x"))
    assert load(prepared).origin.endswith("shells/x/1.0.0)")
    assert not mark.exists()


def test_two_keys_of_one_name_are_read_as_one(prepared, evil):
    """What is checked is what is used: no second reader sees another of the two."""
    name, mark = evil
    text = (prepared / "features.json").read_text()
    label = f"{BUILT_IN}.class_label_feature.ClassLabel"
    assert label in text
    (prepared / "features.json").write_text(text.replace(f'"{label}"', f'"{name}", "pythonClassName": "{label}"'))
    load(prepared)
    assert not mark.exists()


def test_the_modules_of_python_are_not_named_features_either(prepared):
    for name in ("os.system", "antigravity.x", f"{BUILT_IN}..os.x", f"{BUILT_IN}.a.b.c", "Image", ""):
        edited(
            prepared / "features.json",
            lambda top, name=name: top["featuresDict"]["features"].update(x={"pythonClassName": name}),
        )
        refused(prepared, "gives x the class", "never imported")
    assert "antigravity" not in sys.modules


def test_a_picture_of_samples_is_not_written_where_the_data_says(tmp_path, monkeypatch, capsys):
    from jaxtl.data.__main__ import main

    images, labels = np.zeros((8, 8, 8), np.uint8), np.arange(8) % 2
    for stem in ("../outside/x", f"{tmp_path}/outside/x"):
        parts = {f"{stem}_{part}_{what}": array for part in ("train", "test") for what, array in (("images", images),)}
        np.savez(tmp_path / "x.npz", **parts, **{key.replace("images", "labels"): labels for key in parts})
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / "outside").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "here")
        main(["show", "../x.npz"])
        assert not list((tmp_path / "outside").iterdir())
    assert len(list((tmp_path / "here").glob("*.png"))) == 2


def test_a_description_of_many_names_deep_down(prepared):
    feature = {"pythonClassName": f"{BUILT_IN}.text_feature.Text", "text": {}}
    many = {f"{number}": feature for number in range(60_000)}
    for _ in range(300):
        many = {"x": many}
    edited(prepared / "features.json", lambda top: top["featuresDict"]["features"].update(many))
    refused(prepared, "cannot be read")
    edited(prepared / "features.json", lambda top: top["featuresDict"]["features"].clear())
    edited(
        prepared / "features.json",
        lambda top: top["featuresDict"]["features"].update({"a" * 10**6: feature, **dict.fromkeys("bcdefgh", feature)}),
    )
    with pytest.raises(InputError) as caught:
        load(prepared)
    assert "has the features aaa" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_refusals_are_quick(tmp_path):
    """The limit of these tests is wide for slow machines; here is what is promised."""
    root = folders(tmp_path / "pets")
    os.mkfifo(root / "cat/x.png")
    began = time.monotonic()
    refused(root)
    assert time.monotonic() - began < 1


def test_every_test_that_security_names_is_there():
    root = Path(__file__).resolve().parents[2]
    text = (root / "SECURITY.md").read_text()
    files = {file.relative_to(root).as_posix(): file.read_text() for file in (root / "tests").rglob("test_*.py")}
    for name in re.findall(r"`(?:test_\w+\.py::)?(test_\w+)`", text):
        assert any(f"def {name}(" in content for content in files.values()), name
    for name in re.findall(r"`((?:tests|jaxtl)/[\w/]+\.py)`", text):
        assert (root / name).is_file(), name
