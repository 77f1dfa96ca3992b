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

from jaxtl.errors import InputError

ROOM = "free some space or mend its permissions, then run again: what was written before stays"


def read(path: Path) -> bytes | None:
    """The content of a file; None where nothing is.

    Args:
        path: a regular file, or a link to one.

    Raises:
        InputError: it is a directory, a pipe, a device, a link to nothing, or cannot be read.
    """
    try:
        opened = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        raise InputError("is a link to nothing", where=path, todo="remove the link") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path, todo="move it away") from error
    with open(opened, "rb") as file:
        return file.read()


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
    _make_room(path)
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
        _make_room(path)
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


def cannot_write(path: Path, error: OSError) -> InputError:
    """What the system said, as an error of ours."""
    return InputError(f"cannot be written: {error.strerror or error}", where=path, todo=ROOM)


def _make_room(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def _opened(path: Path, how: int) -> int:
    """A descriptor of a regular file. Opening a pipe does not wait, and the one that is opened is the one looked at."""
    if how & os.O_CREAT and path.is_symlink() and not path.exists():
        raise OSError(0, "is a link to nothing")
    opened = os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    kind = os.fstat(opened).st_mode
    if not stat.S_ISREG(kind):
        os.close(opened)
        raise OSError(0, "Is a directory" if stat.S_ISDIR(kind) else "not a regular file")
    return opened


def _put(opened: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(opened, rest) :]
