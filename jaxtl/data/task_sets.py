"""Sets of several tasks by name: composed from images that are loaded, or made up."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtl.data.composed import TaskSet, class_and_group, linnerud, low_rank, two_digits
from jaxtl.data.sources import load
from jaxtl.errors import InputError

VEHICLES = ("airplane", "automobile", "ship", "truck")
TEN_CLASSES = {"two_digits": "mnist", "cifar": "cifar10"}


def load_tasks(
    name: str, images: str = "auto", data_dir: str | None = None, *, rank: int, noise: float, seed: int, progress: Any
) -> TaskSet:
    """A set of several tasks.

    Args:
        name: "two_digits" side by side, "cifar" (class, and animal or vehicle), "low_rank" or "linnerud".
        images: what it is composed from, a name or a path; "auto": MNIST or CIFAR-10, and digits where it is not found.
        data_dir: where named data sets are looked for.
        rank, noise: of the low-rank tasks, whose signal has variance 1.
        seed: of all that is drawn.
        progress: shows a download, see `load`.

    Returns:
        The set; its notice says what stands for something else.
    """
    if name == "low_rank":
        return low_rank(4, rank, noise=noise, seed=seed)
    if name == "linnerud":
        return linnerud(seed=seed)
    wanted, notice = TEN_CLASSES[name] if images == "auto" else images, ""
    try:
        found = load(wanted, data_dir, progress=progress)
    except InputError as error:
        if images != "auto":
            raise
        found, notice = load("digits"), f"{wanted} was not found, so this is digits ({error.what})"
    found = dataclasses.replace(found, notice=notice or found.notice)
    if name == "two_digits":
        return two_digits(found, seed)
    if set(VEHICLES) <= set(found.classes):
        groups = {"vehicle": VEHICLES, "animal": [one for one in found.classes if one not in VEHICLES]}
    else:  # digits, where CIFAR-10 was not found
        groups = {"even": found.classes[::2], "odd": found.classes[1::2]}
    return class_and_group(found, groups)
