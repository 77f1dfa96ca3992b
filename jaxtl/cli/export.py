"""A model for others, or a run's tables for a paper.

usage: jaxtl export RUN --to=model.onnx          for ONNX runtimes; needs pip install "jaxtl[onnx]"
       jaxtl export RUN --to=model.stablehlo     for JAX on cpu, cuda and tpu: jax.export.deserialize reads it
       jaxtl export RUN --to=model.safetensors   weights, with a card beside them
       jaxtl export RUN --to=tables.tex          every table of the run's summary, for LaTeX with booktabs

RUN is the directory of a finished `jaxtl finetune`; of any finished run where tables are asked for. The first two are
functions of pixels, float32 [batch, size, size, 3] from 0 to 255, or of tokens, int32 [batch, tokens] by the
tokenizer.json that is written beside them, with any batch, and give calibrated probabilities [batch, classes], of
several labels one each; or, of numbers, value, low and high [batch, 3]. A model of weighted words is no network: it
goes to .safetensors, with the words in a .json. So does a model of boxes, whose .json says what it is given: the first
two are not there for boxes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from jaxtl import bounds, files
from jaxtl.cli.commands import words
from jaxtl.cli.page import latex_of
from jaxtl.errors import InputError
from jaxtl.finetune import load_finetuned
from jaxtl.finetune.export import check_ending
from jaxtl.terminal import Terminal


def main(arguments: Sequence[str]) -> None:
    """Do what the command line asks."""
    run, to = words("export", arguments, ["RUN"], {"--to": ""})
    if refusal := bounds.PATH.refusal(to):
        raise InputError(refusal.what, where="--to", todo=refusal.todo)
    if to.endswith(".tex"):
        summary = files.read(Path(run) / "summary.md")
        if summary is None:
            raise InputError("has no summary.md", where=run, todo="give the directory of a finished run")
        files.write(Path(to), latex_of(summary.decode()))
        Terminal(soft_wrap=True).print(f"wrote {to}")
        return
    check_ending(to)
    for path in load_finetuned(run).export(to):
        Terminal(soft_wrap=True).print(f"wrote {path}")


def help_text() -> str:
    """What --help shows."""
    return inspect.cleandoc(__doc__)
