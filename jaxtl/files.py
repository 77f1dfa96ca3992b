"""Files of a run: written whole or appended by whole lines, whenever the process ends; read only where they are files.

A file is written beside its place, brought to the disk and moved there, so that it is the old one or the new one at
every instant. A file that grows does so by a line in one piece; a last line that is torn is no line. What is read is
opened without waiting and looked at first: a pipe would be waited for, a device never ends.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxtl.errors import InputError

MOST = 2**30  # bytes of a file that is read whole: runs, rows and records have thousands
KINDS = {
    **{stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"},
    **{stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"},
}
ROOM = "free some space or mend its permissions, then run again: what was written before stays"


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading; never a pipe, a device or a socket, where reading may wait or go on for ever.

    Args:
        path: a regular file, or a link to one.

    Raises:
        InputError: something else is there, or nothing, or it cannot be read.
    """
    try:
        return open(path, "rb", opener=_opened)
    except FileNotFoundError:
        what = "is a link that leads nowhere" if path.is_symlink() else "there is no such file"
        raise InputError(what, where=path, todo="check the path") from None
    except IsNoFile as error:
        raise InputError(str(error.strerror), where=path, todo="move it away, or give a regular file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        elsewhere = "name a directory, such as --workdir=..."
        todo = elsewhere if isinstance(error, NotADirectoryError) else "check the path and its permissions"
        raise InputError(what, where=path, todo=todo) from error


def read(path: Path, most: int = MOST) -> bytes | None:
    """The content of a file, as `content`; None where nothing is."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        pass  # `content` tells it
    return content(path, most)


def content(path: Path, most: int = MOST) -> bytes:
    """All of a file.

    Args:
        path: a regular file, or a link to one.
        most: bytes that it may have.

    Raises:
        InputError: it is no regular file, larger, or cannot be read.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            what = f"has {size} bytes, more than {most}"
            raise InputError(what, where=path, todo="it is truncated, damaged or not what its name says")
        return file.read(most)


def write(path: Path, content: bytes | str) -> Path:
    """Write a file, or replace one; at every instant it is the old one or the new one, whole.

    Args:
        path: where; its directory is created if need be.
        content: text becomes UTF-8, and half of a pair (a surrogate) its escape, which JSON reads back.

    Returns:
        The path.

    Raises:
        InputError: it cannot be written; the old file stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as room:
        ...     write(Path(room, "runs", "note.txt"), "λ").read_text(encoding="utf-8")
        'λ'
    """
    content = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    make_room(path)
    with whole(path) as partial:
        opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _put(opened, content)
        finally:
            os.close(opened)
    return path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """For what others write: the name of a file beside `path`, moved there once the work within is done.

    Args:
        path: where; its directory exists.

    Yields:
        A name with the same ending.

    Raises:
        InputError: it cannot be written; the old file stays.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        partial.unlink(missing_ok=True)
        try:
            yield partial
            to_disk(partial)
            os.replace(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        to_disk(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def append(path: Path, line: bytes) -> None:
    """Add a line to a file, in one piece; it is on the disk when this returns.

    Raises:
        InputError: it cannot be written; the file ends as before.
    """
    with Lines(path) as lines:
        lines.write(line)
        lines.sync()


def lines(path: Path) -> list[bytes]:
    """The whole lines of a file; a last one that a killed process left unfinished is cut off. [] where nothing is.

    Raises:
        InputError: it is no regular file, or cannot be read or mended.
    """
    if path.is_symlink():
        raise InputError("is a link", where=path, todo="remove it, or put the file in its place")
    content = read(path) or b""
    end = content.rfind(b"\n") + 1
    if end < len(content):  # or the next line would be appended to the torn one
        try:
            os.truncate(path, end)
        except OSError as error:
            raise cannot_write(path, error) from error
    return content[:end].split(b"\n")[:-1]


class Lines:
    """A file that grows; what `write` was given is in the system's hands when it returns, whole.

    Args:
        path: the file; it and its directory are created if need be.

    Raises:
        InputError: it is no regular file, or cannot be written; it then ends as before.
    """

    def __init__(self, path: Path):
        self._path = path
        make_room(path)
        try:
            self._opened = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            raise cannot_write(path, error) from error

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, content: bytes) -> None:
        """Add it at the end."""
        try:
            before = os.fstat(self._opened).st_size
            try:
                _put(self._opened, content)
            except OSError:  # a full disk takes the half of it
                os.ftruncate(self._opened, before)
                raise
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def sync(self) -> None:
        """Wait until what was written would survive a loss of power."""
        try:
            os.fsync(self._opened)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        """Nothing waits to be written."""
        os.close(self._opened)


def to_disk(path: Path) -> None:
    """Wait until a file or directory would survive a loss of power."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ~ as the home directory.

    Raises:
        InputError: this user has no home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        todo = "set HOME, or give a path that does not begin with ~"
        raise InputError("this user has no home directory", where=path, todo=todo) from None


def resolved(path: str | os.PathLike[str]) -> Path:
    """An absolute path without links, with ~ as the home directory.

    Raises:
        InputError: links that lead to one another without end.
    """
    try:
        found = expanded(path).resolve()
        if any(place.is_symlink() for place in (found, *found.parents)):  # from Python 3.13 on nothing is raised
            raise RuntimeError
    except (RuntimeError, OSError) as error:
        what = f"leads nowhere: {getattr(error, 'strerror', None) or 'its links lead to one another'}"
        raise InputError(what, where=path, todo="choose another path") from None
    return found


def at_home(*parts: str) -> Path:
    """A place in the home directory; of a user who has none, in one that does not exist: there is nothing to be found.

    Example:
        >>> at_home(".cache", "jaxtl").parts[-2:]
        ('.cache', 'jaxtl')
    """
    try:
        return Path.home().joinpath(*parts)
    except RuntimeError:
        return Path("/nonexistent", *parts)  # what systems call the home of such a user


def default_directory() -> Path:
    """Where data and weights lie if nobody says otherwise: $JAXTL_DATA, else jaxtl in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get("JAXTL_DATA"):
        return expanded(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (expanded(cache) if cache else at_home(".cache")) / "jaxtl"


def cannot_write(path: Path, error: OSError) -> InputError:
    """What the system said, as an error of ours."""
    return InputError(f"cannot be written: {error.strerror or error}", where=path, todo=ROOM)


def make_room(path: Path) -> None:
    """Make the directory of a file, if need be.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


class IsNoFile(OSError):
    """A pipe, a device, a socket or a directory stands in the place of a file."""


def check_kind(mode: int) -> None:
    """Whether this is the mode of a regular file.

    Raises:
        IsNoFile: says what else it is.
    """
    if not stat.S_ISREG(mode):
        raise IsNoFile(0, f"is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")


def _opened(path: str | Path, how: int) -> int:
    """A descriptor of a regular file, looked at before, since a device may act on being opened, and once it is open,
    since something else may have taken its place. Opening a pipe does not wait."""
    if how & os.O_CREAT:
        if os.path.islink(path):  # what it leads to belongs to somebody else, and would grow or be cut off
            raise IsNoFile(0, "is a link")
        how |= os.O_NOFOLLOW
    with contextlib.suppress(FileNotFoundError):
        check_kind(os.stat(path).st_mode)
    opened = os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        check_kind(os.fstat(opened).st_mode)
    except IsNoFile:
        os.close(opened)
        raise
    return opened


def _put(opened: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(opened, rest) :]
