"""What a model says of pictures, texts or recordings: a class, several labels, a number or boxes, and how sure.

RUN is the directory of a finished `jaxtl finetune`. DIR is a folder of pictures, at any depth, or one picture; of a
model of texts a CSV or JSON lines with a column text, a folder of .txt files, or one; of a model of recordings a folder
of them, or one, and a line is said of each window. Files that cannot be read are listed, and the others predicted.

usage: jaxtl predict RUN DIR [--csv=out.csv]
       jaxtl predict RUN DIR [--csv=out.csv] [--json=out.json] [--draw=DIR] [--least=0.3]     of a model of boxes

columns of the file: classes          file, class, and p(NAME) for each class, calibrated
                     several labels   file, labels (those from 50 % on, red;round), and p(NAME) for each, calibrated
                     numbers          file, value, and low and high, between which 90 % are to lie
                     boxes            file, class, score, and x, y, w, h in pixels of the picture: those from the score
                                      on that had the largest F1 on pictures left out, or from --least on
"""

from __future__ import annotations

import collections
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl import bounds, files
from jaxtl.cli.commands import words
from jaxtl.cli.predict_boxes import predict_boxes
from jaxtl.cli.rows import FORMULA, SHOWN, line, told_bad
from jaxtl.errors import InputError
from jaxtl.finetune import load_finetuned
from jaxtl.finetune.boxes import Detecting
from jaxtl.finetune.model import Finetuned
from jaxtl.terminal import Terminal
from jaxtl.writers import Progress

OF_BOXES = {"--json": "", "--draw": "", "--least": ""}


def main(arguments: Sequence[str]) -> None:
    """Do what the command line asks."""
    run, where, out, *others = words("predict", arguments, ["RUN", "DIR"], {"--csv": "", **OF_BOXES})
    given = {"--csv": out, **dict(zip(OF_BOXES, others, strict=True))}
    for flag, path in given.items():
        if path and (refusal := bounds.PATH.refusal(path)):
            raise InputError(refusal.what, where=flag, todo=refusal.todo)
    model = load_finetuned(run)
    if isinstance(model, Detecting):
        return predict_boxes(model, where, out, *others)
    if asked := next((flag for flag in OF_BOXES if given[flag]), ""):
        raise InputError("is for boxes, and this model finds none", where=asked, todo="leave it out, or use --csv")
    called, sources = model.inputs.sources(where)
    console, bad, counts = Terminal(soft_wrap=True), list[tuple[str, str]](), collections.Counter[str]()
    rows = _rows(model, called, sources, bad, counts)
    if out:
        _write(files.expanded(out).absolute(), model, rows)
    else:
        for number, (file, said) in enumerate(rows):
            if number < SHOWN:
                console.print(f"{file}  {model.kind.in_words(model.classes, said)}")
    told_bad(console, bad)
    if not counts:
        raise InputError(
            f"none of {len(sources)} files is a {model.inputs.one} that can be read", where=where, todo="give others"
        )
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common(10) if name)
    told = f": {told}{', …' if len(counts) > 10 else ''}" if told else ""
    console.print(f"{counts.total():,} {model.inputs.many}{told}; {len(bad)} files not read")
    if out:
        console.print(f"wrote {out}")


def _rows(
    model: Finetuned,
    called: Sequence[str],
    sources: Sequence[Any],
    bad: list[tuple[str, str]],
    counts: collections.Counter[str],
) -> Iterator[tuple[str, np.ndarray]]:
    """(file, what is said) of those that can be read; the others are noted."""
    with Progress(len(sources), "predicting") as progress:
        for name, (_, said) in zip(called, model.predict(sources), strict=True):
            name = f"./{name}" if name.startswith(FORMULA) else name  # the same file, and no command of a spreadsheet
            progress.advance(1)
            if isinstance(said, InputError):
                bad.append((name, said.what))
                continue
            counts[model.kind.answer(model.classes, said)] += 1
            yield name, said


def _write(path: Path, model: Finetuned, rows: Iterator[tuple[str, np.ndarray]]) -> None:
    """A CSV, row by row; it is there when it is whole."""
    kind, classes = model.kind, model.classes
    files.make_room(path)
    with files.whole(path) as partial, files.Lines(partial) as lines:
        lines.write(line(["file", *kind.columns(classes)]))
        for file, said in rows:
            answer = [kind.answer(classes, said)] if kind.answer_column else []
            lines.write(line([file, *answer, *(f"{value:.6g}" for value in said)]))


def help_text() -> str:
    """What --help shows."""
    return inspect.cleandoc(__doc__)
