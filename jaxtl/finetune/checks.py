"""What is refused before anything is trained, and what is tried."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxtl import files
from jaxtl.data.dataset import DataSet
from jaxtl.data.labelled import Labelled
from jaxtl.errors import InputError
from jaxtl.finetune import heads
from jaxtl.finetune.options import HEADS, Options
from jaxtl.finetune.recipes import DEFAULT
from jaxtl.finetune.tfidf import TFIDF
from jaxtl.finetune.trunks import SMALL, TEXTS_BY, WORDS_ALONE
from jaxtl.models.pretrained import Pretrained

LEAST_GROUPS = 3
UNEQUAL = 1.5  # times that the largest class has the smallest, from where on classes are balanced


def check_methods(names: Sequence[str], trunk: Pretrained) -> None:
    """Refuse methods that mean nothing for a trunk."""
    if TFIDF in names and trunk.mean:
        raise InputError(f"{TFIDF} weighs words, and these are pictures", where="--methods", todo="leave it out")
    if trunk.name == WORDS_ALONE and set(names) - {TFIDF}:
        what = f"{', '.join(name for name in names if name != TFIDF)} would need a trunk, and there is none"
        raise InputError(what, where="--methods", todo=f"leave it out, or give --trunk={TEXTS_BY}")
    if "scratch" not in names and trunk.name == SMALL and names and not set(names) & set(HEADS):
        todo = "add scratch to --methods, or give a --trunk that was trained"
        raise InputError("there is nothing to fine-tune in random weights", where="--methods", todo=todo)


def check_groups(found: Labelled) -> None:
    """Refuse so few groups that leaving one out leaves nothing to choose by."""
    if found.train.groups is not None and (count := len(np.unique(found.train.groups))) < LEAST_GROUPS:
        what = f"{count} groups that must not be parted; one is left out, and one of the others to choose by"
        raise InputError(what, where=found.origin, todo=f"give examples of {LEAST_GROUPS} groups at least")


def check_apart(data: str | os.PathLike[str] | DataSet, workdir: Path) -> None:
    """Refuse a run among the examples: its files would be taken for some of them."""
    if isinstance(data, DataSet) or not os.path.isdir(data):
        return
    place = files.resolved(data)
    if files.resolved(workdir).is_relative_to(place):
        todo = "give a --workdir outside of it, or start in another directory"
        raise InputError(f"the run directory {workdir} lies among the examples", where=place, todo=todo)


def names_of(options: Options, trunk: Pretrained, data: Labelled, features: np.ndarray) -> tuple[list[str], list[str]]:
    """(heads, methods of fine-tuning) that are to be tried."""
    if options.methods:
        chosen = list(options.methods)
        return [name for name in chosen if name in HEADS], [name for name in chosen if name not in HEADS]
    if trunk.name == WORDS_ALONE:
        return [TFIDF], []
    many = heads.too_much_for_logistic(*features.shape[:2], classes=len(data.classes))
    own = ["ridge"] if many else ["ridge", "logistic"]
    counts = np.bincount(data.train.labels)
    asked = options.balance == "on" or (options.balance == "auto" and counts.max() > UNEQUAL * counts.min())
    own += ["logistic_adjusted"] if asked and not many else []
    own += [TFIDF] if "text" in data.train else []
    return own, ["scratch"] if trunk.name == SMALL else list(DEFAULT)
