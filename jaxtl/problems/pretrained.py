"""A source model out of a pretrained trunk: what its first stages make of every example is kept and takes its place.

These stages are frozen, and passed once; the others are fine-tuned with the batch statistics that they came with. The
source task is one that the trunk was not trained on, by a head in closed form: what a method forgets is measured by it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import DataSet, Split, hold_out, keep_to_data
from jaxtl.data.on_disk import kept_array
from jaxtl.data.resized import resized
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.models import Classifier, cut, initial_model_state, initialise
from jaxtl.models.pretrained import TRUNKS, Pretrained, load_trunk
from jaxtl.problems.folder import BLOCK
from jaxtl.problems.images import Images, accuracy, outputs, predict
from jaxtl.problems.source import Source, make_model
from jaxtl.program import Weights
from jaxtl.selection import heads, temperature
from jaxtl.trees import among

PRETRAINED = ("efficientnet_lite0",)  # models that come with weights


@dataclasses.dataclass(frozen=True)
class PretrainedConfig:
    """What of a pretrained trunk is trained, and on what: fields of an experiment's Config beside `SourceConfig`'s."""

    cut: Annotated[int, bounds.Within(1, 7)] = 6  # of the eight stages of efficientnet_lite0 so many are frozen
    picture_size: Annotated[int, bounds.Within(32, 512)] = 96  # edge to which its images are brought, in pixels
    most_train: bounds.Count = 4000  # training images of source and target each that go through it, at most
    most_test: bounds.Count = 2000  # test images of each


def frozen_in_words(config: Any) -> str:
    """What stands for the pictures, to be said beside them.

    Args:
        config: as for `pretrained_source`.
    """
    trunk = TRUNKS[config.model]
    return (
        f"by {config.cut} frozen stages of {config.model} ({trunk.trained_on}, {trunk.licence}) at "
        f"{config.picture_size} pixels, of each task at most {config.most_train:,} training and "
        f"{config.most_test:,} test pictures"
    )


def fewer(config: Any, task: DataSet) -> DataSet:
    """A task with no more examples than are to go through a trunk, of every class in proportion.

    Args:
        config: has the fields of `PretrainedConfig`.
        task: a source or target task.
    """

    def some(part: Split, most: int) -> Split:
        return part if len(part) <= most else part.take(hold_out(part.labels, most, config.seed, part.groups)[0])

    return dataclasses.replace(task, train=some(task.train, config.most_train), test=some(task.test, config.most_test))


def pretrained_source(
    config: Any, source_task: DataSet, task: DataSet, workdir: Path | str
) -> tuple[list[Source], DataSet]:
    """(the source model of all replicates, the target task) behind the frozen stages of the trunk that a config names.

    Args:
        config: has the fields of `SourceConfig`, `PretrainedConfig` and `Training`; `model` is one of `PRETRAINED`.
        source_task, task: pictures, uint8, as `fewer` leaves them.
        workdir: keeps what the frozen stages make of them, in four files.

    Returns:
        Both tasks have outputs of the frozen stages in place of images. The source's head is that of ridge regression,
        at the temperature by which it is as sure as it is right.

    Raises:
        InputError: weights that cannot be had, examples that are no pictures, pictures that are to be corrupted.
        Interrupted: a stop was requested.
    """
    for one in (source_task, task):
        if one.train.images.ndim != 4 or one.train.images.dtype != np.uint8:
            what = f"{one.name} has examples of {one.train.images.dtype}, and the trunk takes pictures of 8 bits"
            raise InputError(what, where=f"--config.model={config.model}", todo="use another model, or pictures")
    if config.corruptions or config.source_checkpoint:
        flag = "--config.corruptions" if config.corruptions else "--config.source_checkpoint"
        todo = f"leave it out, or use another model than {config.model}"
        raise InputError("not with a pretrained trunk, which is given and seen once", where=flag, todo=todo)
    workdir, trunk = Path(workdir), load_trunk(config.model, progress=StoppableProgress)
    keep_to_data(workdir, f"{source_task.origin}; {task.origin}", *source_task.content, *task.content)
    passed = [_behind(config, trunk, one, workdir / role) for role, one in (("source", source_task), ("target", task))]
    return [_source(config, trunk, passed[0])], passed[1]


def _behind(config: Any, trunk: Pretrained, task: DataSet, room: Path) -> DataSet:
    """A task with what the frozen stages make of its images in their place."""

    def part(name: str, split: Split) -> Split:
        title = f"{task.name}, {name}: {len(split):,} pictures through the frozen stages"
        file = room / f"{name}.npy"
        return split.having(image=kept_array(file, len(split), lambda: _passed(config, trunk, split.images, title)))

    return dataclasses.replace(task, train=part("train", task.train), test=part("test", task.test))


def _passed(config: Any, trunk: Pretrained, pictures: Any, title: str) -> np.ndarray:
    size = config.picture_size
    below, _ = cut(Classifier(trunk.model, ()), config.cut)
    state = {name: {"trunk": tree} for name, tree in trunk.model_state.items()}
    weights = Weights({"trunk": trunk.params}, state)
    images = Images((size, size, 3), np.array(trunk.mean, np.float32), np.array(trunk.std, np.float32))
    parts = []
    with StoppableProgress(len(pictures), title) as progress:
        for start in range(0, len(pictures), BLOCK):
            rows = np.minimum(np.arange(start, start + BLOCK), len(pictures) - 1)
            block = np.stack([resized(picture, size) for picture in np.asarray(pictures[rows])])
            found = outputs(Classifier(below, ()), weights, jnp.asarray(block), images, "features", BLOCK)
            parts.append(found[: len(pictures) - start])
            progress.advance(len(parts[-1]))
    return np.concatenate(parts)


def _source(config: Any, trunk: Pretrained, task: DataSet) -> Source:
    """The stages that are trained, as they came, under a head for the source task."""
    images, classes = Images.kept(task.train.images.shape[1:]), len(task.classes)
    model = make_model(config, images, head=classes)
    like = jax.eval_shape(lambda: initialise(model, jax.random.key(0), images.shape))["trunk"]
    held = jax.eval_shape(lambda: initial_model_state(model, images.shape))
    state = {name: {"trunk": among(tree["trunk"], trunk.model_state[name])} for name, tree in held.items()}
    params = {"trunk": among(like, trunk.params)}
    found = outputs(Classifier(model.trunk, ()), Weights(params, state), task.train.images, images, "features")
    head, _ = heads.ridge(found, task.train.labels, classes, None, config.seed)
    scale = temperature(heads.logits(head, found), task.train.labels)
    weights = Weights({**params, "head": jax.tree.map(lambda leaf: jnp.asarray(leaf / scale), head)}, state)
    predicted = predict(model, weights, jnp.asarray(task.test.images), images)
    return Source(task, images, weights, accuracy(predicted, task.test.labels))
