"""What is refused before anything is trained, and what is tried."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxtl import files
from jaxtl.data.dataset import DataSet
from jaxtl.data.labelled import Labelled
from jaxtl.errors import InputError
from jaxtl.finetune import heads
from jaxtl.finetune.options import HEADS, Options, seconds_of
from jaxtl.finetune.recipes import DEFAULT, RECIPES, from_logistic
from jaxtl.finetune.trunks import SMALL
from jaxtl.models.pretrained import Pretrained

LEAST_GROUPS = 3
FITS = {"head": 12, "start": 30}  # of logistic regression to all examples, about: as a head, and to start from
ACCELERATOR = 100  # cores that one counts as; rather few, and not measured
UNEQUAL = 1.5  # times that the largest class has the smallest, from where on classes are balanced


def check_methods(names: Sequence[str], trunk: Pretrained) -> None:
    """Refuse methods that mean nothing for a trunk."""
    if "scratch" not in names and trunk.name == SMALL and names and not set(names) & set(HEADS):
        todo = "add scratch to --methods, or give a --trunk that was trained"
        raise InputError("there is nothing to fine-tune in random weights", where="--methods", todo=todo)


def check_groups(found: Labelled) -> None:
    """Refuse so few groups that leaving one out leaves nothing to choose by."""
    if found.train.groups is not None and (count := len(np.unique(found.train.groups))) < LEAST_GROUPS:
        what = f"{count} groups that must not be parted; one is left out, and one of the others to choose by"
        raise InputError(what, where=found.origin, todo=f"give pictures of {LEAST_GROUPS} groups at least")


def check_apart(data: str | os.PathLike[str] | DataSet, workdir: Path) -> None:
    """Refuse a run among the pictures: its files would be taken for some of them."""
    if isinstance(data, DataSet) or not os.path.isdir(data):
        return
    place = files.resolved(data)
    if files.resolved(workdir).is_relative_to(place):
        todo = "give a --workdir outside of it, or start in another directory"
        raise InputError(f"the run directory {workdir} lies among the pictures", where=place, todo=todo)


def names_of(options: Options, trunk: Pretrained, data: Labelled, features: np.ndarray) -> tuple[list[str], list[str]]:
    """(heads, methods of fine-tuning) that are to be tried.

    Without logistic regression where its fits would take more than half of the budget: that is many classes with many
    examples, and ridge is there in a thousandth of the time.
    """
    if options.methods:
        chosen = list(options.methods)
        return [name for name in chosen if name in HEADS], [name for name in chosen if name not in HEADS]
    once = heads.logistic_seconds(*features.shape[:2], classes=len(data.classes), cores=_cores())
    longest = seconds_of(options.budget) / 2
    many = FITS["head"] * once > longest
    own = ["ridge"] if many else ["ridge", "logistic"]
    counts = np.bincount(data.train.labels)
    asked = options.balance == "on" or (options.balance == "auto" and counts.max() > UNEQUAL * counts.min())
    own += ["logistic_adjusted"] if asked and not many else []
    more = FITS["start"] * once > longest
    tuned = [name for name in DEFAULT if not (more and RECIPES[name].start is from_logistic)]
    return own, ["scratch"] if trunk.name == SMALL else tuned


def _cores() -> int:
    """That this process may use; what an accelerator does counts as many."""
    if jax.default_backend() != "cpu":
        return ACCELERATOR
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
