"""`tl.finetune`, and what the command line calls."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from jaxtl import bounds, checkpoints, files
from jaxtl.data.dataset import DataSet
from jaxtl.errors import InputError, suggest
from jaxtl.finetune.boxes import Detecting
from jaxtl.finetune.boxes.command import are_boxes, carried_out_on_boxes
from jaxtl.finetune.boxes.work import BoxesFound
from jaxtl.finetune.model import Finetuned
from jaxtl.finetune.options import Options
from jaxtl.finetune.page import report
from jaxtl.finetune.sections import told, unseen
from jaxtl.finetune.work import Found, finetuned
from jaxtl.terminal import Terminal


def finetune(
    data: str | os.PathLike[str] | DataSet,
    *,
    trunk: str = "auto",
    budget: str = "10min",
    workdir: str | os.PathLike[str] | None = None,
    console: Terminal | None = None,
    **options: Any,
) -> Finetuned | Detecting:
    """A model from labelled pictures or texts: heads on a frozen trunk, fine-tuning while the budget lasts.

    Args:
        data: a folder of pictures or .txt files per class, a CSV or JSON lines of file or text and label (a class,
            several, or a number), a `DataSet` of pictures, or a name of one; or pictures with boxes (COCO's JSON,
            YOLO's texts).
        trunk: the pretrained network, see `finetune.trunks.trunk_of`.
        budget: of time, such as "90s", "10min".
        workdir: of the run, by default runs/NAME; the same call goes on where an interrupted one was.
        console: where to say how it goes; None says nothing.
        options: the other fields of `Options`: task, methods, measure, balance, size, skip_bad, seed.

    Returns:
        The model, with `predict`, `said`, `probabilities`, `export` and the path of its `report`; of boxes a detector,
        with `detect` in place of `said`.

    Raises:
        InputError: data that cannot be learned from, an unknown option, a value outside its bounds.

    Example:
        >>> import tempfile, numpy as np
        >>> from jaxtl.data import from_arrays
        >>> images = np.random.default_rng(0).integers(0, 99, (24, 16, 16, 3)).astype(np.uint8)
        >>> images[1::2] += 100  # every second one is bright
        >>> data = from_arrays(images, np.arange(24) % 2, classes=["dark", "bright"])
        >>> with tempfile.TemporaryDirectory() as room:
        ...     model = finetune(data, trunk="small_cnn", workdir=room, methods=("ridge",), size=16)
        ...     model.report.name, model.probabilities(images[:2]).argmax(axis=1).tolist()
        ('report.html', [0, 1])
    """
    known = [field.name for field in dataclasses.fields(Options)]
    for name in options:
        if name not in known:
            raise InputError("no such option", where=f"finetune {name}", todo=suggest(name, known))
    named = data.name if isinstance(data, DataSet) else os.fspath(data)
    asked = Options(data=named, trunk=trunk, budget=budget, **options)
    try:
        bounds.check(asked)
    except InputError as error:
        raise InputError(error.what, where=error.where.replace("--config.", "finetune "), todo=error.todo) from None
    place = files.resolved(Path("runs") / name_of(named) if workdir is None else workdir)
    with checkpoints.own(place):
        return carried_out(asked, place, data, f"tl.finetune({named!r}, ...)", console).model


def carried_out(
    options: Options, workdir: Path, data: Any, command: str, console: Terminal | None = None
) -> Found | BoxesFound:
    """Work, model and report of a run in its directory."""
    if are_boxes(data):
        return carried_out_on_boxes(options, workdir, data, command, console)
    found = finetuned(options, workdir, data, console)
    measure = found.outcome.measure
    card = found.model.card | {"unseen": f"{measure.name} {told(measure, *unseen(found))}"}
    found = found._replace(model=dataclasses.replace(found.model, card=card))
    found.model.save(workdir)
    report(found, workdir, command, console)
    return found


def name_of(data: str) -> str:
    """A run's name for its data: that of the folder or the table.

    Example:
        >>> name_of("my/photos/"), name_of("labels.csv"), name_of("..")
        ('photos', 'labels', 'pictures')
    """
    stem = Path(data).stem if Path(data).suffix.lower() in (".csv", ".json", ".jsonl", ".npz") else Path(data).name
    return re.sub(r"[^\w.+-]", "_", stem).strip(".")[:80] or "pictures"
