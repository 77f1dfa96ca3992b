"""What is refused before the first model is trained: tasks, examples and sizes that do not go together."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from jaxtl.bounds import refuse_beyond_memory, refuse_too_many_runs
from jaxtl.data import DataSet, hold_out, source_and_target, stratified_folds
from jaxtl.devices.placement import make_mesh
from jaxtl.errors import InputError
from jaxtl.labels import some
from jaxtl.models import initialise
from jaxtl.problems.clips import Clips
from jaxtl.problems.few_shot import held_out, labelled_examples, seed_of
from jaxtl.problems.images import Images, unread
from jaxtl.problems.source import make_model
from jaxtl.problems.texts import Texts
from jaxtl.protocol import Draw
from jaxtl.protocol.design import FEWEST_HALVED


def choose_tasks(split: str, flag: str, source: DataSet, target: DataSet) -> tuple[DataSet, DataSet]:
    """The source and the target task of a split.

    Args:
        split: "0-4:5-9", see `source_and_target`.
        flag: of the command line, for messages.
        source, target: the data sets on both sides.

    Raises:
        InputError: a task of one class, or what `source_and_target` refuses.
    """
    where = f"--config.{flag}={split if len(split) <= 60 else f'{split[:60]}…'}"
    tasks = source_and_target(split, source, target, where=where)
    for role, task in zip(("source", "target"), tasks, strict=True):
        if len(task.classes) == 1:
            what = f"the {role} has one class, '{task.classes[0]}', and nothing to tell it from"
            raise InputError(what, where=where, todo="name two classes or more on both sides")
    return tasks


def check_examples(config: Any, task: DataSet, n: int, folds: bool) -> None:
    """Refuse more labelled examples than there are, on any draw.

    Args:
        config: has the fields of `FewShotConfig` and `Budget`.
        task: the target task.
        n: labelled examples of each class.
        folds: whether any method also chooses by folds.

    Raises:
        InputError: naming `--config.n_per_class` or `--config.validation`.
    """
    try:
        pool = held_out(config, task)[1]
    except InputError as error:
        raise InputError(error.what, where=f"--config.validation={config.validation}", todo=error.todo) from None
    for draw in range(config.tuning_draws + config.report_draws):  # a long tail is not the same in all of them
        seed = seed_of(config, Draw(draw))
        try:
            subset, given = labelled_examples(config, task, pool, n, seed)
            if folds:
                stratified_folds(given[subset], config.folds, seed, classes=task.classes)
        except InputError as error:
            raise InputError(error.what, where=f"--config.n_per_class={n}", todo=error.todo) from None


def check_training(config: Any) -> None:
    """Refuse a mesh that cannot be made, and a chunk that does not divide the steps.

    Args:
        config: has the fields of `Training`, and may have those of `SourceConfig` and `MetaConfig`.

    Raises:
        InputError: naming the field.
    """
    if mesh := getattr(config, "mesh", ()):
        make_mesh(mesh)
    for flag in ("source_steps", "meta_steps", "steps"):
        steps = getattr(config, flag, 0)
        if config.chunk and steps % config.chunk:
            what = f"{steps} is no multiple of {config.chunk}"
            todo = "give a --config.chunk that divides it, or leave it out"
            raise InputError(what, where=f"--config.{flag}", todo=todo)


def check_plan(config: Any, names: Collection[str]) -> None:
    """Refuse fields of a config that do not go together, whatever the data are.

    Args:
        config: has the fields of `SourceConfig` and `Budget`.
        names: of all methods there are.

    Raises:
        InputError: a chunk that does not divide the steps, more runs than can
            be kept, a mesh that cannot be made, nothing to halve.
    """
    check_training(config)
    check_halving(config)
    refuse_too_many_runs(*config.planned_runs(len(names)), where="--config.trials")


def check_halving(config: Any) -> None:
    """Refuse to halve what is tried once.

    Raises:
        InputError: there is one tuning draw, or there are too few settings.
    """
    if config.halving and (config.tuning_draws < 2 or config.trials < FEWEST_HALVED):
        what = f"nothing is halved of {config.trials} trials on {config.tuning_draws} tuning draws"
        todo = "give --config.trials=16 --config.tuning_draws=4, which take 30 runs instead of 64"
        raise InputError(what, where="--config.halving", todo=todo)


def check_tasks(
    config: Any, source: DataSet, task: DataSet, sizes: Collection[int], *, folds: bool, models: int
) -> None:
    """Refuse tasks, examples and sizes that do not go together, before the first model is trained.

    Args:
        config: has the fields of `SourceConfig`, `FewShotConfig` and `Budget`.
        source, task: the two tasks.
        sizes: labelled examples of each class.
        folds: whether any method also chooses by folds.
        models: as many are trained side by side.
    """
    inputs = unread(task)
    if isinstance(inputs, Images):
        _check_transfer(config, source, task)
    elif isinstance(inputs, Clips):
        _check_frames(config, unread(source), inputs)
    for n in sizes:
        check_examples(config, task, n, folds)
    check_memory(config, task, models)


def _check_transfer(config: Any, source: DataSet, task: DataSet) -> None:
    """Whether a model can be carried over."""
    if config.head == "shared" and not set(source.classes) & set(task.classes):
        what = f"{some(source.classes)} and {some(task.classes)} have no class in common"
        todo = "use --config.head=fresh, or name a class on both sides of the split"
        raise InputError(what, where="--config.head=shared", todo=todo)
    for examples in filter(None, getattr(config, "source_examples", ())):
        try:
            hold_out(source.train.labels, examples, config.seed)
        except InputError:
            what = f"{examples} of {len(source.train)} training images, and each class keeps one"
            flag = f"--config.source_examples={examples}"
            raise InputError(what, where=flag, todo="give fewer; 0 is all") from None
    theirs, ours = source.train.images.shape[1:], task.train.images.shape[1:]
    for shape in (theirs, ours):
        make_model(config, Images.kept(shape), head=1)
    if config.corruptions:
        _check_corruptions(task.test.images)
    if theirs == ours:
        if getattr(config, "source", ""):
            _check_units(source.train.images, task.train.images)
    elif {len(theirs), len(ours)} != {3} or not (theirs[-1] == ours[-1] or {theirs[-1], ours[-1]} == {1, 3}):
        what = f"source examples are {_by_x(theirs)}, the target's {_by_x(ours)}"
        raise InputError(what, where="--config.source", todo="give grey or colour images for both")
    elif config.model == "mlp" and theirs[:2] != ours[:2]:
        what = f"an mlp for source images of {_by_x(theirs[:2])} cannot see the target's of {_by_x(ours[:2])}"
        raise InputError(what, where="--config.model=mlp", todo="use --config.model=cnn, or bring both to one size")


def _check_frames(config: Any, source: Any, clips: Clips) -> None:
    """Whether a trunk of such images can look at the frames of clips."""
    for inputs in (source, clips):
        make_model(config, inputs, head=1)
    if len(source.shape) != 3 or source.shape[-1] != clips.shape[-1]:
        what = f"source examples are {_by_x(source.shape)}, frames {_by_x(clips.shape[1:])}"
        raise InputError(what, where="the source of clips", todo="give images of as many channels")


def _by_x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _levels(images: Any) -> tuple[float, float]:
    """(lowest, highest) value of a thousand images; all that 8 bits hold where they are of them."""
    some_of_them = np.asarray(images[:: -(-len(images) // 1000)])
    return (0, 255) if images.dtype == np.uint8 else (float(some_of_them.min()), float(some_of_them.max()))


def _check_units(theirs: Any, ours: Any) -> None:
    """The trunk sees the target's images with the statistics of the source's: both must be in one unit."""
    (low, high), (own_low, own_high) = _levels(theirs), _levels(ours)
    small, large = sorted([max(-low, high), max(-own_low, own_high)])
    if large > 10 * small > 0:
        what = f"source images are from {low:g} to {high:g}, the target's from {own_low:g} to {own_high:g}"
        raise InputError(what, where="--config.source", todo="bring both to one unit, such as grey levels 0 to 255")


def _check_corruptions(images: Any) -> None:
    low, high = _levels(images)
    if images.ndim != 4 or images.shape[1] % 2 or images.shape[2] % 2:
        what = f"coarse pixels are blocks of 2x2, and test images are {_by_x(images.shape[1:])}"
        raise InputError(what, where="--config.corruptions", todo="leave it out, or give images of even edges")
    if low < 0 or not 1 < high <= 255:
        what = f"they are made for grey levels 0 to 255, and test images are from {low:g} to {high:g}"
        raise InputError(what, where="--config.corruptions", todo="leave it out, or give images as uint8")


def check_memory(config: Any, task: DataSet, models: int) -> None:
    """Refuse a network of which so many do not fit into memory, each with its gradient and momentum."""
    inputs = unread(task)
    model = make_model(config, inputs, head=len(task.classes))
    params = jax.eval_shape(lambda: initialise(model, jax.random.key(0), inputs.like))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    what = f"{models:,} models of {size:,} parameters side by side"
    todo = "use smaller ones, or fewer settings at a time"
    where = "--config.hidden" if isinstance(inputs, Texts) else "--config.widths"
    refuse_beyond_memory(12.0 * size * (models + 1), what, where=where, todo=todo)
