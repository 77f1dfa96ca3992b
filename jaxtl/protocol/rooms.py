"""The directory of a unit that is made elsewhere: what it holds goes there, what was left in it comes back.

So no file system has to be shared, and what the first process finds is what it would have written.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxtl import files

LAST = "manifest.json"  # of a checkpoint: what lies beside it is there when it is


def contents(directory: Path) -> dict[str, bytes]:
    """Name to content of every file below a directory; no lock, and nothing that is no file.

    Example:
        >>> with tempfile.TemporaryDirectory() as room:
        ...     lay_out(Path(room), {"a/b": b"1", "c": b"2"})
        ...     contents(Path(room))
        {'a/b': b'1', 'c': b'2'}
    """
    found = [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found if path.name != ".lock"}


def lay_out(directory: Path, content: Mapping[str, bytes], last: str = "") -> None:
    """Write files below a directory: the manifest of a checkpoint behind what it tells of, and `last` behind all.

    Raises:
        InputError: it cannot be written.
    """
    for name in sorted(content, key=lambda name: (name == last, name.endswith(LAST), name)):
        files.write(directory / name, content[name])


@contextlib.contextmanager
def elsewhere(content: Mapping[str, bytes]) -> Iterator[Path]:
    """A directory of this process with such files in it, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="jaxtl-unit-") as room:
        directory = Path(room, "room")
        directory.mkdir()
        lay_out(directory, content)
        yield directory
