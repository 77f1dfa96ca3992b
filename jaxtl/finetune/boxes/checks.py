"""What is refused of a fine-tuning on boxes before a picture is opened, and what is tried by default."""

from __future__ import annotations

from jaxtl.errors import InputError
from jaxtl.finetune.boxes.model import LARGEST
from jaxtl.finetune.options import AUTO, Options
from jaxtl.finetune.trunks import SMALL
from jaxtl.methods.finetuning import DETECTION
from jaxtl.models.pretrained import Pretrained

LONGEST = 320  # pixels of the longer edge, by default
LEAST = 32
TRIED = ("features", "l2_sp", "fine_tune")  # by default, given up from behind


def check_options(options: Options) -> None:
    """Refuse options that mean nothing for boxes.

    Raises:
        InputError: a task, a measure, a balance or a method of labels; a size that is too small or too large.
    """
    what = "these are pictures with boxes, which are found and judged by mAP"
    for name, value, free in (
        ("task", options.task, (AUTO,)),
        ("measure", options.measure, (AUTO,)),
        ("balance", options.balance, (AUTO, "off")),
    ):
        if value not in free:
            raise InputError(what, where=f"--{name}={value}", todo="leave it out")
    for name in options.methods:
        if name not in DETECTION:
            known = ", ".join(DETECTION)
            raise InputError(f"{name} finds no boxes", where="--methods", todo=f"use {known}")
    if options.size and not LEAST <= options.size <= LARGEST:
        todo = f"use {LEAST} to {LARGEST}, or leave it out"
        raise InputError(f"{options.size} pixels are no edge for boxes", where="--size", todo=todo)


def methods_of(options: Options, trunk: Pretrained) -> tuple[str, ...]:
    """What is tried.

    Raises:
        InputError: a trunk of texts, or methods that mean nothing for the trunk.
    """
    if not trunk.mean:
        todo = "leave --trunk out, or give one of pictures"
        raise InputError("takes texts, and these are pictures", where=f"--trunk={options.trunk}", todo=todo)
    if trunk.name == SMALL:
        if set(options.methods) - {"scratch"}:
            todo = "leave --methods out, or give a --trunk that was trained"
            raise InputError("there is nothing to fine-tune in random weights", where="--methods", todo=todo)
        return ("scratch",)
    if "scratch" in options.methods:
        todo = f"leave it out, or give --trunk={SMALL}"
        raise InputError("scratch uses nothing of a trunk", where="--methods", todo=todo)
    return options.methods or TRIED
