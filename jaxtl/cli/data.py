"""What data sets there are, and getting one ready.

usage: python -m jaxtl.data                            the data sets: where found, size, licence, citation
       python -m jaxtl.data prepare NAME [--from PATH]  fetch cifar10, cifar100, mnist or fashion_mnist once, or read
                                                        its official files from PATH, verify and write it
       python -m jaxtl.data show NAME [--to FILE]       a picture of samples by class, by default NAME.png

NAME may also be any image set that tensorflow-datasets has prepared and, for show, a path.
A set is written below $TFDS_DATA_DIR, else $JAXTL_DATA, else ~/tensorflow_datasets, as tensorflow-datasets itself
would: tfds.data_source(NAME) then reads it. With JAXTL_OFFLINE=1 the network is never asked.
"""

from __future__ import annotations

import inspect
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from jaxtl.data import catalogue, directories, loading
from jaxtl.data.described import licence_and_citation
from jaxtl.data.on_disk import BUDGET
from jaxtl.data.pictures import samples_by_class
from jaxtl.data.tfds_read import newest_version
from jaxtl.data.tfds_write import prepare
from jaxtl.errors import InputError, Interrupted, suggest
from jaxtl.files import default_directory
from jaxtl.text import printable
from jaxtl.writers import Progress

COMMANDS = {"prepare": "--from", "show": "--to"}  # and the option that each takes
LONGEST = 1000  # characters of a citation
DIGITS = ("1,797 grey images of handwritten digits, 8x8", "CC BY 4.0", "Alpaydin and Kaynak, Optical recognition, 1998")


def main(arguments: Sequence[str]) -> None:
    """Do what the command line asks."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(inspect.cleandoc(__doc__))
    elif not arguments:
        print(listing())
    else:
        command, name, path = parsed(arguments)
        try:
            (prepared if command == "prepare" else shown)(name, path)
        except KeyboardInterrupt:
            raise Interrupted("stopped; nothing half done was left", signal.SIGINT) from None


def parsed(arguments: Sequence[str]) -> tuple[str, str, str | None]:
    """(command, NAME, value of its option or None) of a command line."""
    command, *rest = arguments
    todo = "python -m jaxtl.data --help lists the commands"
    if command not in COMMANDS:
        raise InputError("no such command", where=command, todo=suggest(command, COMMANDS))
    option, path, names = COMMANDS[command], None, []
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag == option:
            if not equals and not rest:
                raise InputError("needs a path", where=option, todo=todo)
            path = value if equals else rest.pop(0)
        elif word.startswith("-"):
            raise InputError(f"{command} has no such option", where=flag, todo=todo)
        else:
            names.append(word)
    if len(names) != 1:
        raise InputError(f"{command} takes one NAME, not {len(names)}", todo=todo)
    return command, names[0], path


def listing() -> str:
    """Every set that is known here, with where it lies."""
    directory = default_directory()
    told = [_told("digits", DIGITS[0], "within scikit-learn", DIGITS[1], DIGITS[2])]
    for official in catalogue.OFFICIAL.values():
        found = loading.where(official.name, directory)
        place = _with_size(found) if found else f"not here; python -m jaxtl.data prepare {official.name}"
        told.append(_told(official.name, official.title, place, official.licence, official.citation))
    for name, version in _others(directory).items():
        try:
            licence, citation = licence_and_citation(version)
        except InputError as error:  # the others are listed all the same
            licence = citation = error.what
        told.append(_told(name, f"version {version.name}", _with_size(version), licence, citation))
    return "\n".join(told)


def _others(directory: Path) -> dict[str, Path]:
    """Every other set that is prepared where sets are looked for: {name or name/config: newest version}."""
    found: dict[str, Path] = {}
    for root in directories.tfds_roots(directory):
        for info in sorted([*root.glob("*/*/dataset_info.json"), *root.glob("*/*/*/dataset_info.json")]):
            name = info.parent.parent.relative_to(root)
            if name.parts[0] not in catalogue.OFFICIAL and (version := newest_version(root / name)):
                found.setdefault(str(name), version)
    return found


def _told(name: str, title: str, found: str, licence: str, citation: str) -> str:
    return f"{_line(name):<16}{title}\n  " + "\n  ".join(
        f"{what:<14}{_line(said) or 'none stated'}"
        for what, said in (("found", found), ("licence", licence), ("citation", citation))
    )


def _line(text: str) -> str:
    """What somebody else has written, on one line of bearable length and without what steers a terminal."""
    shown = printable(" ".join(text[:LONGEST].split()))
    return f"{shown} ..." if len(text) > LONGEST else shown


def _with_size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{path} ({sum(file.stat().st_size for file in files) / 1e6:.1f} MB)"


def prepared(name: str, source: str | None) -> None:
    """Fetch or read, verify and write."""
    began = time.monotonic()
    path = prepare(name, source=source, progress=Progress)
    print(printable(f"{name} is ready in {_with_size(path)}, {time.monotonic() - began:.0f} s"))


def shown(name: str, path: str | None) -> None:
    """Write the picture."""
    # A budget that is stated keeps accelerators out of this: a training may be using all of their memory.
    dataset = loading.load(name, progress=Progress, memory=BUDGET)
    file = Path(path or re.sub(r"[^\w.-]", "_", f"{dataset.name}.png"))  # a name from the data must not lead elsewhere
    picture = samples_by_class(dataset)
    try:
        picture.save(file)
    except (OSError, ValueError) as error:  # ValueError: a suffix that Pillow does not know
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"cannot be written ({said})", where=file, todo="choose another file, such as x.png"
        ) from error
    for line in filter(None, (dataset.notice, dataset.origin)):
        print(printable(line))
    print(printable(f"wrote {file}: {len(dataset.train)} images to train on, {len(dataset.test)} to test on"))
