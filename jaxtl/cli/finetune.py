"""A model from labelled pictures, texts or recordings, with an honest estimate of how good it is.

DIR holds a folder of pictures for each class, perhaps below train and test (val, valid, ...); or it is, or holds, a CSV
or JSON lines with columns file and label, and split and group if you like. Pictures may have any size and format.
Texts are a column text instead of file, or folders of .txt files in UTF-8, of any length. Recordings are folders of
.npy, .wav or .csv, cut into windows that stay on one side of every split.

Pictures with boxes are a folder of them with COCO's JSON, or with YOLO's texts (class cx cy w h; names in classes.txt
or data.yaml): a detector is trained on maps of the trunk, chosen by pictures held out, and judged by mAP on others.
Pictures keep their shape, within --size pixels (320), and boxes are told in pixels of the picture.

A label is a class; or a number, where all are and they are not few whole numbers (a regression, with an interval); or
several names: red;round, or a JSON list. What was taken for what is said, and --task decides it.

A frozen pretrained trunk gives features once; linear heads on them are the bar to beat. While the budget lasts,
fine-tuning is tried beside them: every method chooses its settings within what it learns from, and is judged by the
examples left out. The best is trained on all of them and kept, with its temperature, in runs/NAME: model.safetensors,
model.json, report.html, summary.md. The same command goes on where an interrupted one was.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtl import cli
from jaxtl.cli import flags
from jaxtl.errors import InputError
from jaxtl.finetune import Options
from jaxtl.finetune.command import carried_out, name_of
from jaxtl.terminal import Terminal

OWN = ("workdir", "overwrite", *flags.TEAM)  # flags of every run
USAGE = "usage: jaxtl finetune DIR [--workdir=W] [--overwrite] [--key=value ...]"


def main(arguments: Sequence[str]) -> None:
    """Do what the command line asks."""
    try:
        cli.carried_out(work, Options, translated(arguments), typed=shlex.join(["jaxtl", "finetune", *arguments]))
    except InputError as error:  # what is `--config.key` in an experiment is `--key` here
        what, where, todo = (text.replace("--config.", "--") for text in (error.what, error.where, error.todo))
        raise InputError(what, where=where, todo=todo) from error


def work(config: Options, workdir: Path) -> None:
    """The work of a run in its directory."""
    carried_out(config, workdir, config.data, command(config, workdir), Terminal(width=_width()))


def translated(arguments: Sequence[str]) -> list[str]:
    """A command line as an experiment has it.

    Example:
        >>> translated(["photos", "--budget=2min", "--skip-bad"])
        ['--config.data=photos', '--config.budget=2min', '--config.skip_bad', '--workdir=runs/photos']
    """
    found, data, rest = list[str](), list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        name = flag.lstrip("-").replace("-", "_")
        if not word.startswith("-"):
            data.append(word)
            continue
        if not equals and name not in ("skip_bad", "overwrite") and rest and not rest[0].startswith("-"):
            equals, value = "=", rest.pop(0)
        found.append(f"--{name if name in OWN else f'config.{name}'}{equals}{value}")
    if len(data) != 1:
        what = f"takes one folder or table of labelled examples, not {len(data)}"
        raise InputError(what, where="jaxtl finetune", todo="jaxtl finetune --help says the rest")
    found.insert(0, f"--config.data={data[0]}")
    named = any(word.partition("=")[0] == "--workdir" for word in found)
    return found if named else [*found, f"--workdir=runs/{name_of(data[0])}"]


def command(config: Options, workdir: Path) -> str:
    """The command line that asks for this."""
    defaults = Options()
    given = {name: value for name, value in vars(config).items() if name != "data" and value != getattr(defaults, name)}
    parts = ["jaxtl", "finetune", config.data]
    parts += [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={flags.shown(value)}")
        for name, value in given.items()
    ]
    here = Path.cwd()
    place = workdir.relative_to(here) if workdir.is_relative_to(here) else workdir
    parts += [f"--workdir={place}"] if place != Path("runs") / name_of(config.data) else []
    return shlex.join(parts)


def help_text() -> str:
    """What --help shows."""
    rows: list[tuple[str, str]] = [
        ("--workdir=W", "the run directory; by default runs/NAME of the folder or the table"),
        ("--overwrite", "start again in a directory that holds an earlier run; that run is removed"),
        *[(left.replace("skip_bad=false", "skip-bad"), right) for left, right in flags.fields(Options, "--")[1:]],
    ]
    text = [inspect.cleandoc(__doc__), "", USAGE, *(flags.row(*one) for one in rows), "", "methods"]
    return "\n".join([*text, *(flags.row(*one) for one in Options.glossary.items())])


def _width() -> Any:
    return None if sys.stdout.isatty() else 10_000  # a log file has lines of any length
