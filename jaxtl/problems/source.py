"""A source model: its task, its weights, and the training or the file that they come from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtl import bounds, checkpoints
from jaxtl.data import DataSet, feed, hold_out, keep_to_data
from jaxtl.devices.placement import by_example, make_mesh, to_local
from jaxtl.errors import InputError
from jaxtl.labels import NEW, label_params
from jaxtl.losses import mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initial_model_state, initialise, resnet18, wide_resnet
from jaxtl.models.clips import OverFrames
from jaxtl.models.efficientnet import efficientnet_lite0
from jaxtl.models.recurrent import Lstm, WordAverage
from jaxtl.models.signals import SignalCnn, SpectrogramCnn
from jaxtl.models.still import Still
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems.clips import Clips
from jaxtl.problems.images import Inputs, accuracy, inputs_of, predict
from jaxtl.problems.signals import Signals
from jaxtl.problems.texts import Texts
from jaxtl.program import Weights, make_program
from jaxtl.protocol import replicate_seed, rooms
from jaxtl.protocol.executors import each_made, in_use
from jaxtl.sweep import run
from jaxtl.trees import check_same
from jaxtl.writers import Writer

CLASSIFY = Term(1.0, mean_of(softmax_cross_entropy))
OF_SIGNALS: dict[str, Callable[..., Any]] = {"cnn": SignalCnn, "spectrogram": SpectrogramCnn}  # by model
WEIGHTS = "source.safetensors"  # written when all else is there
FURTHER = "replicate_"  # directories of replicates beyond the first
STATE = "model_state"  # in a file of weights, beside the parameters


def objective_of(problem: Any) -> Term:
    """What an answer of the head pays: the problem's own `objective`, `CLASSIFY` when left out."""
    return getattr(problem, "objective", CLASSIFY)


@dataclasses.dataclass(frozen=True)
class SourceTraining:
    """How a source model comes about: fields of an experiment's Config."""

    source_checkpoint: bounds.Place = ""  # weights of a source model instead of training one: .safetensors, .npz, a run
    source_steps: bounds.Steps = 2500
    source_batch_size: bounds.Count = 128
    source_learning_rate: bounds.Rate = 0.1
    source_decay: bounds.Rate = 5e-4
    mesh: bounds.Mesh = ()  # all devices share its training: data:8, or data:2,parameters:4; () is one device
    source_optimizer = "nesterov"  # no field here


@dataclasses.dataclass(frozen=True)
class SourceConfig(SourceTraining):
    """The model of images and its training: fields of an experiment's Config."""

    model: Literal["cnn", "mlp", "wide_resnet", "resnet18"] = "cnn"  # WRN-16-4, and ResNet-18 in its form for CIFAR
    widths: bounds.Widths = (16, 32, 64)  # of cnn and mlp
    normalisation: Literal["group", "batch", "none"] = "group"  # none: the control, decay changes the function itself
    input_size: bounds.Count = 16  # larger images are averaged down towards this edge, for cnn


@dataclasses.dataclass(frozen=True)
class TextSourceConfig(SourceTraining):
    """The models of texts and their training: fields of an experiment's Config, which says which `model` it is."""

    embedding: Annotated[int, bounds.Within(1, 4096)] = 64  # size of the vector of a word
    hidden: Annotated[int, bounds.Within(1, 4096)] = 64  # size of a state of bilstm, in one direction
    layers: Annotated[int, bounds.Within(1, 16)] = 1  # of bilstm
    dropout: bounds.Share = 0.5
    source_steps: bounds.Steps = 500
    source_batch_size: bounds.Count = 32
    source_learning_rate: bounds.Rate = 5e-3
    source_decay: bounds.Rate = 0.0
    source_optimizer = "adam"


class Source(NamedTuple):
    """A trained source model and its task."""

    task: DataSet
    images: Inputs
    weights: Weights
    accuracy: float


def _reader(config: Any, texts: Texts) -> Any:
    """The trunk that a Config names, for texts."""
    if config.model == "average":
        return WordAverage(texts.words, texts.new, config.embedding, config.dropout)
    sizes = (config.embedding, config.hidden, config.layers)
    return Lstm(texts.words, texts.new, *sizes, dropout=config.dropout)


def make_model(config: Any, inputs: Inputs, **heads: int) -> Classifier:
    """The model that a Config names, for images, texts, clips or signals, with heads of so many outputs.

    Raises:
        InputError: numbers for a model of images, or images with less than a pixel left; another model for signals than
            "cnn", along time, and "spectrogram".
    """
    if isinstance(inputs, Signals):
        if config.model not in OF_SIGNALS:
            raise InputError("is no model of signals", where=f"--config.model={config.model}", todo="use cnn")
        return Classifier(OF_SIGNALS[config.model](config.widths, config.normalisation), tuple(heads.items()))
    if isinstance(inputs, Texts):
        return Classifier(_reader(config, inputs), tuple(heads.items()))
    if isinstance(inputs, Clips):
        trunk = _cnn(config, inputs.shape[1:])
        return Classifier(OverFrames(trunk, config.hidden if inputs.ordered else 0), tuple(heads.items()))
    shape = inputs.shape
    if config.model != "mlp" and len(shape) == 1:
        what = f"examples of {shape[0]} numbers are no images"
        raise InputError(what, where=f"--config.model={config.model}", todo="use --config.model=mlp")
    if config.model != "cnn":
        trunks: dict[str, Callable] = {
            "mlp": functools.partial(Mlp, config.widths),
            "wide_resnet": functools.partial(wide_resnet, 16, 4, config.normalisation),
            "resnet18": functools.partial(resnet18, config.normalisation),
            "efficientnet_lite0": lambda: Still(efficientnet_lite0().clone(start=config.cut)),  # see `pretrained`
        }
        return Classifier(trunks[config.model](), tuple(heads.items()))
    return Classifier(_cnn(config, shape), tuple(heads.items()))


def _cnn(config: Any, shape: tuple[int, ...]) -> Cnn:
    """Of the blocks that a Config names, for images [H, W, C]."""
    pooling = max(1, min(shape[:2]) // config.input_size)
    height, width = shape[0] // pooling, shape[1] // pooling
    most = min(height, width).bit_length()  # all blocks but the last halve both edges
    if len(config.widths) > most:
        what = f"{len(config.widths)} blocks halve images of {shape[0]}x{shape[1]}"
        what += f", averaged down to {height}x{width}," if pooling > 1 else ""
        todo = f"give {most} of --config.widths at most, or use --config.model=mlp"
        raise InputError(f"{what} to less than a pixel", where="--config.widths", todo=todo)
    return Cnn(config.widths, config.normalisation, pooling)


class SourceUnit(NamedTuple):
    """The training of a source model, as a unit of work: with config and task it says all that is done.

    Attributes:
        replicate: of which it is the source model.
        begun: what its directory holds, where it is made by another process.
    """

    replicate: int
    begun: dict[str, bytes]


def make_source(
    config: Any, task: DataSet, workdir: Path | str, examples: int = 0, *, executor: Executor | None = None
) -> Source:
    """The source model of the first replicate, see `make_sources`."""
    (source,) = _sources(config, task, [Path(workdir)], examples, executor)
    return source


def make_sources(
    config: Any, task: DataSet, workdir: Path | str, examples: int = 0, *, executor: Executor | None = None
) -> list[Source]:
    """A source model for every replicate: its start, the order of its data and, if not all are used, its examples.

    Trained here (an interrupted training goes on), or read from `config.source_checkpoint`: then it is the one of all.

    Args:
        config: has the fields of `SourceConfig` and `Budget`.
        task: the source task.
        workdir: of the trainings; "source.safetensors" is written there, those of further replicates below it.
        examples: how many one is trained on; 0 is all.
        executor: as for `study`; it is asked for a unit for every replicate that is not trained yet, and what each
            leaves in its directory is brought here.

    Raises:
        InputError: weights of another model.
        Interrupted, NotFinite: as `fit`.
    """
    places = [Path(workdir), *(Path(workdir) / f"{FURTHER}{r}" for r in range(1, config.replicates))]
    return _sources(config, task, places[:1] if config.source_checkpoint else places, examples, executor)


def _sources(
    config: Any, task: DataSet, places: Sequence[Path], examples: int, executor: Executor | None
) -> list[Source]:
    """Each in its place, by replicate."""
    executor = executor or in_use()
    if executor is not None and not config.source_checkpoint:
        missing = [SourceUnit(k, _begun(place)) for k, place in enumerate(places) if not (place / WEIGHTS).is_file()]
        train = functools.partial(_left_by, config, task, examples)
        for unit, left in each_made(train, missing, executor):
            rooms.lay_out(places[unit.replicate], left, last=WEIGHTS)
    return [_source(config, task, examples, place, k) for k, place in enumerate(places)]


def _begun(place: Path) -> dict[str, bytes]:
    """What a training that was interrupted has left, without those of other replicates below it."""
    return {name: part for name, part in rooms.contents(place).items() if not name.startswith(FURTHER)}


def _left_by(config: Any, task: DataSet, examples: int, unit: SourceUnit) -> dict[str, bytes]:
    """What a training leaves in its directory, made in one of this process."""
    with rooms.elsewhere(unit.begun) as room:
        _source(config, task, examples, room, unit.replicate)
        return rooms.contents(room)


def _source(config: Any, task: DataSet, examples: int, workdir: Path, replicate: int) -> Source:
    images = inputs_of(task)
    model = make_model(config, images, head=len(task.classes))
    seed = replicate_seed(config.seed, replicate)
    start = Weights(initialise(model, jax.random.key(seed), images.like), initial_model_state(model, images.like))
    if config.source_checkpoint:
        weights = _read(config.source_checkpoint, start)
        keep_to_data(workdir, config.source_checkpoint, *jax.tree.leaves(weights))
    else:
        weights = _trained(config, task, images, model, start, examples, workdir, seed)
        checkpoints.export(weights_tree(weights), workdir / WEIGHTS)
    predicted = predict(model, weights, jnp.asarray(task.test[images.field]), images)
    return Source(task, images, weights, accuracy(predicted, task.test.labels))


def weights_tree(weights: Weights) -> dict[str, Any]:
    """Parameters and model state as one tree, as they are in a file; see `weights_of`."""
    return {**weights.params, **({STATE: weights.model_state} if weights.model_state else {})}


def _read(path: str, like: Weights) -> Weights:
    loaded = checkpoints.load_weights(path)
    todo = "model, widths, normalisation and source classes must be those it was trained with"
    check_same(loaded, weights_tree(like), where=path, todo=todo)
    return weights_of(jax.tree.map(jnp.asarray, loaded))


def weights_of(tree: dict[str, Any]) -> Weights:
    """What `weights_tree` made one tree of."""
    return Weights({name: part for name, part in tree.items() if name != STATE}, tree.get(STATE, {}))


def _trained(
    config: Any,
    task: DataSet,
    images: Inputs,
    model: Classifier,
    start: Weights,
    examples: int,
    workdir: Path,
    seed: int,
) -> Weights:
    program = make_program(
        as_forward(model),
        label_params(start.params, [(".*", NEW)]),
        {"task": CLASSIFY},
        {NEW: Group(config.source_learning_rate)},
        {NEW: Term(config.source_decay, l2)},
        optimizer=config.source_optimizer,
        **({"momentum": config.momentum} if config.source_optimizer == "nesterov" else {}),
        schedule=optax.cosine_decay_schedule(1.0, config.source_steps),
        prepare=images.batches(config.source_batch_size),
    )
    order, rng = jax.random.split(jax.random.key(seed))
    index = hold_out(task.train.labels, examples, seed)[0] if examples else None
    mesh = make_mesh(config.mesh) if config.mesh else None
    sharding = by_example(mesh) if mesh else None
    data = feed(task.train, order, index, batch_size=config.source_batch_size, sharding=sharding)
    keep_to_data(workdir, task.origin, *task.content)
    with Writer(workdir) as writer:
        ended = run(
            program,
            start,
            data,
            {},
            rng,
            steps=config.source_steps,
            chunk=config.chunk,
            points=10,
            mesh=mesh,
            workdir=workdir,
            log=writer,
            progress="training the source model",
        )
    return Weights(*map(to_local, ended.weights))
