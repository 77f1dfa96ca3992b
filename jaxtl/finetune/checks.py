"""What is refused before anything is trained, and what is tried."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl import files
from jaxtl.data.dataset import DataSet
from jaxtl.data.labelled import Labelled
from jaxtl.errors import InputError
from jaxtl.finetune.kinds import Kind
from jaxtl.finetune.options import AUTO, HEADS, Options, seconds_of
from jaxtl.finetune.tfidf import TFIDF
from jaxtl.finetune.trunks import NOT_TRAINED, SPECTRUM, TEXTS_BY, WORDS_ALONE
from jaxtl.models.pretrained import Pretrained
from jaxtl.selection import heads

LEAST_GROUPS = 3
FITS = {"head": 12, "start": 30}  # of logistic regression to all examples, about: as a head, and to start from
ACCELERATOR = 100  # cores that one counts as; rather few, and not measured
UNEQUAL = 1.5  # times that the largest class has the smallest, from where on classes are balanced


def check_methods(names: Sequence[str], trunk: Pretrained) -> None:
    """Refuse methods that mean nothing for a trunk."""
    if TFIDF in names and trunk.mean:
        raise InputError(f"{TFIDF} weighs words, and these are pictures", where="--methods", todo="leave it out")
    if trunk.name == WORDS_ALONE and set(names) - {TFIDF}:
        what = f"{', '.join(name for name in names if name != TFIDF)} would need a trunk, and there is none"
        raise InputError(what, where="--methods", todo=f"leave it out, or give --trunk={TEXTS_BY}")
    if trunk.name == SPECTRUM and set(names) - set(HEADS):
        what = f"{', '.join(name for name in names if name not in HEADS)} would need a network, and a spectrum is none"
        raise InputError(what, where="--methods", todo="leave it out, or give --trunk=signal_cnn")
    if "scratch" not in names and trunk.name in NOT_TRAINED and names and not set(names) & set(HEADS):
        todo = "add scratch to --methods, or give a --trunk that was trained"
        raise InputError("there is nothing to fine-tune in random weights", where="--methods", todo=todo)


def check_kind(options: Options, kind: Kind) -> None:
    """Refuse a measure, a head or a balance that means nothing for such labels."""
    if options.measure != AUTO and options.measure not in kind.measures:
        what = f"{options.measure} is no measure of {kind.noun}"
        raise InputError(what, where="--measure", todo=f"use {', '.join(kind.measures)}, or leave it out")
    for name in options.methods:
        no_head = name in HEADS and name not in kind.heads
        if no_head or (name.startswith("logistic_l2_sp") and "logistic" not in kind.heads):
            known = [*kind.heads, *kind.tuned]
            raise InputError(f"{name} learns no {kind.noun}", where="--methods", todo=f"use {', '.join(known)}")
    if options.balance == "on" and kind.name != "classes":
        what = f"{kind.noun} are not classes, of which each could count alike"
        raise InputError(what, where="--balance=on", todo="leave it out")


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


def names_of(
    options: Options, kind: Kind, trunk: Pretrained, data: Labelled, features: np.ndarray
) -> tuple[list[str], list[str], str]:
    """(heads, methods of fine-tuning) that are to be tried, and in words what is left out.

    Without logistic regression where its fits would take more than half of the budget: that is many classes with many
    examples, and ridge is there in a thousandth of the time.
    """
    if options.methods:
        chosen = list(options.methods)
        return [name for name in chosen if name in HEADS], [name for name in chosen if name not in HEADS], ""
    texts = "text" in data.train
    own = [name for name in kind.heads if name != "logistic_adjusted" and (texts or name != TFIDF)]
    if trunk.name == WORDS_ALONE:
        return [TFIDF], [], ""
    if kind.name == "classes":
        counts = np.bincount(data.train.labels)
        asked = options.balance == "on" or (options.balance == "auto" and counts.max() > UNEQUAL * counts.min())
        own += ["logistic_adjusted"] if asked else []
    tuned, count = [] if trunk.name == SPECTRUM else list(kind.tuned), len(kind.outputs(data.classes))
    size: dict[str, Any] = {"classes": count, "seconds": seconds_of(options.budget) / 2, "cores": _cores()}
    left_out = [name for name in own if name.startswith("logistic")]
    told = ""
    if left_out and heads.too_much_for_logistic(*features.shape[:2], fits=FITS["head"], **size):
        own = [name for name in own if name not in left_out]
        what = f"{len(features):,} examples with {features.shape[1]:,} features and {count:,} {kind.noun}"
        todo = "--methods=logistic has it tried anyway"
        told = f"no logistic regression on {what}: too long for {options.budget}; {todo}"
    if heads.too_much_for_logistic(*features.shape[:2], fits=FITS["start"], **size):
        tuned = [name.replace("logistic_", "ridge_") for name in tuned]
    return own, ["scratch"] if trunk.name in NOT_TRAINED else tuned, told


def _cores() -> int:
    """That this process may use; what an accelerator does counts as many."""
    if jax.default_backend() != "cpu":
        return ACCELERATOR
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
