"""What the command line and `tl.finetune` call where a folder holds boxes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from jaxtl import files
from jaxtl.data.boxed_files import holds_boxes
from jaxtl.data.dataset import DataSet
from jaxtl.finetune.boxes.page import in_words, measured, report
from jaxtl.finetune.boxes.work import BoxesFound, finetuned_boxes
from jaxtl.finetune.options import Options
from jaxtl.terminal import Terminal


def are_boxes(data: str | os.PathLike[str] | DataSet) -> bool:
    """Whether what is given is pictures with boxes."""
    return not isinstance(data, DataSet) and holds_boxes(files.expanded(data))


def carried_out_on_boxes(
    options: Options, workdir: Path, data: Any, command: str, console: Terminal | None = None
) -> BoxesFound:
    """Work, model and report of a run in its directory."""
    found = finetuned_boxes(options, workdir, data, console)
    figures = measured(found)
    card = found.model.card | {"tested": in_words(figures)}
    found = found._replace(model=dataclasses.replace(found.model, card=card))
    found.model.save(workdir)
    report(found, figures, workdir, command, console)
    return found
