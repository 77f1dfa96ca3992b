"""Published sets in miniature: the official files of a few examples, with checksums of their own."""

import dataclasses
import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
from PIL import Image

from jaxtl.data import catalogue

COUNT = 20  # examples of a file


def pixels(number, shape=(32, 32, 3), count=COUNT):
    """Noise that is a function of the number of the file."""
    return np.random.default_rng(number).integers(0, 256, (count, *shape), dtype=np.uint8)


def batch(number):
    """Images, labels and the content of a CIFAR-10 file, written by hand from the description of its format."""
    images, labels = pixels(number), (np.arange(COUNT) % 10).astype(np.uint8)
    rows = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(images, labels, strict=True)]
    return images, labels, b"".join(rows)


def summed(contents, algorithm="sha1"):
    return {name: (len(content), hashlib.new(algorithm, content).hexdigest()) for name, content in contents.items()}


def cifar10(monkeypatch, **changes):
    """CIFAR-10 with 20 images in a file; returns it and its files."""
    files = {name: batch(number)[2] for number, name in enumerate(catalogue.CIFAR_10.files)}
    sums = summed(files)
    tiny = dataclasses.replace(
        catalogue.CIFAR_10,
        train={name: sums[name] for name in catalogue.CIFAR_10.train},
        test={name: sums[name] for name in catalogue.CIFAR_10.test},
        **changes,
    )
    monkeypatch.setitem(catalogue.OFFICIAL, "cifar10", tiny)
    return tiny, files


def cifar100(monkeypatch):
    files = {}
    for number, (name, count) in enumerate((("train.bin", 200), ("test.bin", 100))):
        images = pixels(number, count=count)
        rows = [
            bytes([label % 20, label % 100]) + image.transpose(2, 0, 1).tobytes() for label, image in enumerate(images)
        ]
        files[name] = b"".join(rows)
    sums = summed(files)
    parts = {"train": {"train.bin": sums["train.bin"]}, "test": {"test.bin": sums["test.bin"]}}
    monkeypatch.setitem(catalogue.OFFICIAL, "cifar100", dataclasses.replace(catalogue.CIFAR_100, **parts))
    return files


def mnist(monkeypatch, name="mnist", **changes):
    official = catalogue.OFFICIAL[name]
    files = {}
    for number, part in enumerate(("train", "t10k")):
        header = struct.pack(">4B3I", 0, 0, 8, 3, COUNT, 28, 28)
        files[f"{part}-images-idx3-ubyte"] = header + pixels(number, (28, 28)).tobytes()
        labels = bytes(np.arange(COUNT, dtype=np.uint8) % 10)
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">4BI", 0, 0, 8, 1, COUNT) + labels
    sums = summed(files, "md5")
    parts = {part: {file: sums[file] for file in getattr(official, part)} for part in ("train", "test")}
    monkeypatch.setitem(catalogue.OFFICIAL, name, dataclasses.replace(official, **parts, **changes))
    return files


def archive(path, members, folder="cifar-10-batches-bin"):
    """A tar of files, packed if its name says so."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def mosaics():
    """What the npm package holds: PNG images with a row of pixels for each picture, and labels in JSON."""
    members = {}
    for number, name in enumerate(catalogue.CIFAR_10.files):
        png = io.BytesIO()
        Image.fromarray(batch(number)[0].reshape(COUNT, 32 * 32, 3)).save(png, "PNG")
        members[name.replace(".bin", ".png")] = png.getvalue()
    labels = batch(0)[1].tolist()
    members["train_lables.json"] = json.dumps(labels * 5).encode()
    members["test_lables.json"] = json.dumps(labels).encode()
    return members


def directory(path, files, packed=False):
    path.mkdir(parents=True)
    for name, content in files.items():
        if packed:
            (path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (path / name).write_bytes(content)
    return path
