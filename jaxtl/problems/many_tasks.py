"""Some labelled examples with several tasks on one trunk, or on a trunk each; and a further task for the trunks."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import bounds
from jaxtl.data import batches
from jaxtl.data.dataset import Split
from jaxtl.data.task_sets import TaskSet, standardised
from jaxtl.errors import InputError, suggest
from jaxtl.labels import SHARED
from jaxtl.losses import mean_of_present, softmax_cross_entropy, squared_error
from jaxtl.models import Classifier, Cnn, Mlp, initialise
from jaxtl.optimizers import pull_per_rate
from jaxtl.penalties import Term
from jaxtl.program import Program, Weights
from jaxtl.protocol import ACCURACY, R2, Draw, Measure, Setting, Trained, Truth, draw_key, rates_of
from jaxtl.protocol.results import PREDICTION
from jaxtl.step import EVALUATE
from jaxtl.trees import Tree

WATCHED = "watched/"  # before figures of a curve that a step may have measured as well, of its batch
USES = ("net", "order", "run", "new net", "new order")  # of a draw's keys


@dataclasses.dataclass(frozen=True)
class ManyTasksConfig:
    """The tasks and the network: fields of an experiment's Config."""

    tasks: bounds.Names = ("left", "right", "larger")
    n: bounds.Count = 500  # labelled images
    missing: bounds.Share = 0.0  # the share of the labels of each task that are not there
    model: Literal["mlp", "cnn"] = "mlp"
    widths: bounds.Widths = (128,)  # of the shared trunk
    head_widths: Annotated[tuple[bounds.Width, ...], bounds.Items(0, 100)] = ()  # hidden layers of each head
    input_size: bounds.Count = 14  # images with a longer shorter edge are averaged down towards it
    validation: bounds.Count = 1000  # training images outside every labelled set, which choose the settings


class Examples(NamedTuple):
    """Indices into the training part, and by task which labels are there."""

    seen: np.ndarray
    held: np.ndarray  # to validate on
    known: dict[str, np.ndarray]  # bool, of those seen
    held_known: dict[str, np.ndarray]


class Net(NamedTuple):
    """A trunk for all tasks, or one for each, and a head for each: how to make it, to use it, and to label it."""

    init: Callable[[jax.Array], Tree]
    forward: Callable[..., tuple[dict[str, Any], Tree]]
    rules: list[tuple[str, str]]


def make_net(config: Any, shape: tuple[int, ...], outputs: Mapping[str, int], apart: bool = False) -> Net:
    """The network that a Config names.

    Args:
        config: has the fields of `ManyTasksConfig`.
        shape: of one input.
        outputs: by task, how many the head has.
        apart: a trunk for each task instead of one for all.
    """
    trunk = Mlp(config.widths) if config.model == "mlp" else Cnn(config.widths)
    heads = {task: Classifier(Mlp(config.head_widths), (("out", size),)) for task, size in outputs.items()}

    def init(key: jax.Array) -> Tree:
        trunk_key, *keys = jax.random.split(key, 1 + len(heads))
        own = {task: jax.random.fold_in(trunk_key, i) for i, task in enumerate(heads)}
        trunks = {task: initialise(trunk, own[task], shape) for task in heads} if apart else {}
        params = {"trunk": trunks or initialise(trunk, trunk_key, shape)}
        width = (config.widths[-1],)
        return params | {
            task: initialise(head, key, width) for (task, head), key in zip(heads.items(), keys, strict=True)
        }

    def features(params: Tree, batch, ctx) -> jax.Array:
        found: Any = trunk.apply({"params": params}, batch["image"], ctx.train)
        return found[0]

    def forward(params, model_state, batch, ctx):
        common = None if apart else features(params["trunk"], batch, ctx)
        found = {}
        for task, head in heads.items():
            seen = features(params["trunk"][task], batch, ctx) if apart else common
            outputs: Any = head.apply({"params": params[task]}, seen, ctx.train)
            found[task] = outputs["out"]
        return found, model_state

    return Net(init, forward, [("trunk/.*", SHARED), *((f"{task}/.*", f"task:{task}") for task in outputs)])


class ManyTasks:
    """Some labelled examples with several tasks, which methods learn together or apart; a `protocol.Problem`.

    Args:
        config: has the fields of `ManyTasksConfig` and `Budget`.
        tasks: the examples.
        watch: problem -> ((params, data) -> figures), of every point of a curve of a shared trunk.
    """

    points, own = 10, ("held-out examples",)  # of a curve; of a replicate

    def __init__(self, config: Any, tasks: TaskSet, watch: Callable | None = None):
        self.config, self.names, self.origin = config, config.tasks, tasks.origin
        self.title = f"{', '.join(config.tasks)}; {config.n} labelled examples"
        arrays = [array for part in (tasks.train, tasks.test) for array in part.fields.values()]
        # what is drawn here, and is no integer, may differ by rounding on another machine
        self.content = [array for array in arrays if array.dtype.kind in "iu"]
        self.tasks = standardised(tasks, config.input_size)
        self.numbers = [task for task, classes in tasks.classes.items() if not classes]
        self.held, _ = self.parts(0)
        outputs = {task: tasks.classes[task] or 1 for task in self.names}
        self.shape = self.tasks.train.images.shape[1:]
        self.net = make_net(config, self.shape, outputs)
        self.apart = make_net(config, self.shape, outputs, apart=True)
        self.schedule = optax.cosine_decay_schedule(1.0, config.steps)
        reach = pull_per_rate(1.0, config.steps, schedule=self.schedule, momentum=config.momentum)
        self.reach = {"penalty": reach}
        self.watched = watch and watch(self)
        self.measure = measure_of_tasks(self.names, {*self.names} & {*self.numbers})
        self.prepare = batches(config.batch_size)

    # What a draw decides: which examples are labelled, where the network starts, the order of batches.

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def parts(self, replicate: int) -> tuple[np.ndarray, np.ndarray]:
        """(examples that choose, the pool that labelled ones are drawn from) of a replicate: indices."""
        entropy = [self.config.seed, 0, *([replicate] if replicate else [])]
        order = np.random.default_rng(entropy).permutation(len(self.tasks.train))
        held = min(self.config.validation, len(order) // 3)
        return order[:held], order[held:]

    def labelled_order(self, draw: Draw) -> np.ndarray:
        """The pool, shuffled; the first `n` are labelled."""
        pool = self.parts(draw.replicate)[1]
        return np.random.default_rng([self.config.seed, 1, draw.seed]).permutation(pool)

    def examples(self, draw: Draw) -> Examples:
        """What a draw trains on and is validated on; a fold is validated on the labelled examples it leaves out."""
        config, random = self.config, np.random.default_rng([self.config.seed, 2, draw.seed])
        seen, known = self.labelled_order(draw)[: config.n], {}
        for task in self.names:
            known[task] = random.random(config.n) >= config.missing
            known[task][random.integers(config.n)] = True  # a task without any label is no task
        if draw.fold is None:
            held = self.parts(draw.replicate)[0]
            return Examples(seen, held, known, {task: np.ones(len(held), bool) for task in self.names})
        part = np.arange(config.n) % draw.folds == draw.fold
        inside, outside = ({task: there[side] for task, there in known.items()} for side in (~part, part))
        return Examples(seen[~part], seen[part], inside, outside)

    def start(self, draw: Draw) -> Weights:
        """A fresh network with one trunk."""
        return Weights(self.net.init(self.key(draw, "net")))

    def data(self, program: Program, start: Weights, draw: Draw) -> dict[str, jax.Array]:
        """What the steps read: the labelled examples and their order."""
        return {**self.labelled(draw), "order": self.key(draw, "order")}

    def labelled(self, draw: Draw) -> dict[str, jax.Array]:
        """The labelled examples. A label that is missing is not handed over: −1 or NaN stands there."""
        examples, part = self.examples(draw), self.tasks.train
        found = {"image": part.images[examples.seen]}
        for task, there in examples.known.items():
            target = part[task][examples.seen]
            target[~there] = np.nan if task in self.numbers else -1
            found |= {task: target, f"{task}_known": there}
        return {name: jnp.asarray(column) for name, column in found.items()}

    @property
    def terms(self) -> dict[str, Term]:
        """By task, its loss over the labels that are there."""
        losses = {task: squared_error if task in self.numbers else softmax_cross_entropy for task in self.names}
        return {task: Term(1.0, mean_of_present(loss, task, task, f"{task}_known")) for task, loss in losses.items()}

    @property
    def labels(self) -> tuple[str, ...]:
        """Those of trunk and heads."""
        return SHARED, *(f"task:{task}" for task in self.names)

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`; "pull/task" goes to all heads, and weights "weight/TASK" add up to the number of tasks."""
        asked = {name: value for name, value in setting.items() if not name.startswith("weight/")}
        if "pull/task" in asked:
            pull = asked.pop("pull/task")
            asked |= {f"pull/task:{task}": pull for task in self.names}
        weights = [setting.get(f"weight/{task}", 1.0) for task in self.names]
        share = {task: len(weights) * weight / sum(weights) for task, weight in zip(self.names, weights, strict=True)}
        return rates_of(program, asked | share, self.reach)

    # What is measured.

    @functools.cached_property
    def _outputs(self):
        def outputs(params, image, apart):
            return (self.apart if apart else self.net).forward(params, {}, {"image": image}, EVALUATE)[0]

        return jax.jit(outputs, static_argnames="apart")

    def is_apart(self, params: Tree) -> bool:
        """Whether each task has a trunk of its own."""
        return set(params["trunk"]) == set(self.names)

    def outputs(self, params: Tree, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """By task what its head says."""
        return jax.device_get(self._outputs(params, inputs, self.is_apart(params)))

    def truth_of(self, task: str) -> Truth:
        """The test examples of a task with classes."""
        return Truth(self.tasks.test[task], [str(name) for name in range(self.tasks.classes[task])])

    def qualities(
        self, params: Tree, part: Split, index: np.ndarray, known: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """By task the accuracy, or R² of numbers, over the labels that are there; a task without any is left out."""
        found = self.outputs(params, part.images[index])
        return {
            task: quality(found[task][there], part[task][index][there]) for task, there in known.items() if there.any()
        }

    def score(self, by_task: Mapping[str, float]) -> float:
        """The mean over tasks of the accuracy, or R² of numbers."""
        return float(np.mean(list(by_task.values())))

    def point(self, weights: Weights, draw: Draw) -> dict[str, float]:
        """The score on the examples that choose, and what is watched."""
        found = {"validation": self._validation(weights, draw)}
        if self.watched and not self.is_apart(weights.params):
            own = {part: weights.params[part] for part in ("trunk", *self.names)}
            found |= {f"{WATCHED}{name}": value for name, value in self.watched(own, self.labelled(draw)).items()}
        return found

    def _validation(self, weights: Weights, draw: Draw) -> float:
        examples = self.examples(draw)
        return self.score(self.qualities(weights.params, self.tasks.train, examples.held, examples.held_known))

    def validate(self, trained: Trained, draw: Draw) -> float:
        """The score on the examples that choose."""
        return self._validation(trained.weights, draw)

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Scores, rates and curves of a report run."""
        params, everyone, examples = trained.weights.params, np.arange(len(self.tasks.test)), self.examples(draw)
        every_label = {task: np.ones(len(everyone), bool) for task in self.names}
        by_task = self.qualities(params, self.tasks.test, everyone, every_label)
        seen = self.qualities(params, self.tasks.train, examples.seen, examples.known)
        metrics = {"test": self.score(by_task), "train": self.score(seen)}
        metrics |= {f"test/{task}": value for task, value in by_task.items()}
        lams = {label.partition(":")[0]: trained.rates[f"penalty/{label}"] for label in self.labels}
        metrics |= {f"lambda/{name}": lam for name, lam in lams.items() if lam}
        said = self.outputs(params, self.tasks.test.images)
        classes = [task for task in self.names if task not in self.numbers]
        predicted = {f"{PREDICTION}/{task}": said[task].argmax(axis=1).astype(np.uint8) for task in classes}
        return metrics, curves_of(trained.curve, self.names) | predicted


def check_many_tasks(config: Any, tasks: TaskSet, *, folds: bool, models: int) -> None:
    """Refuse tasks, examples and sizes that do not go together, before the first model is trained.

    Args:
        config: has the fields of `ManyTasksConfig` and `Budget`, and may have `new_task` and `n_new`.
        tasks: the examples.
        folds: whether anything is chosen by folds.
        models: as many are trained side by side.

    Raises:
        InputError: naming the flag.
    """
    new = getattr(config, "new_task", "")
    for flag, names in (("tasks", config.tasks), ("new_task", [new] if new else [])):
        for name in names:
            if name not in tasks.classes:
                raise InputError(f"no task '{name}'", where=f"--config.{flag}", todo=suggest(name, tasks.classes))
    if not config.tasks or len(set(config.tasks)) < len(config.tasks) or new in config.tasks:
        what = f"tasks are {', '.join(config.tasks) or 'none'}, the new one {new or 'none'}"
        raise InputError(what, where="--config.tasks", todo="name each task once")
    held = min(config.validation, len(tasks.train) // 3)
    needed = config.n + (config.n_new if new else 0)
    if needed > len(tasks.train) - held:
        what = f"{needed} labelled examples of {len(tasks.train) - held}, {held} validate"
        raise InputError(what, where="--config.n", todo="use fewer")
    if folds and config.n < config.folds:
        what = f"{config.folds} folds of {config.n} labelled examples"
        raise InputError(what, where="--config.folds", todo="use fewer folds, or choose nothing by them")
    if config.steps % ManyTasks.points:
        what, todo = f"{config.steps} is no multiple of {ManyTasks.points}", "curves have so many points"
        raise InputError(what, where="--config.steps", todo=todo)
    shapes = jax.eval_shape(ManyTasks(config, tasks).apart.init, jax.random.key(0))
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    what = f"{models:,} times {len(config.tasks)} models, together of {size:,} parameters, side by side"
    todo = "use smaller ones, or fewer trials"
    bounds.refuse_beyond_memory(12.0 * size * (models + 1), what, where="--config.widths", todo=todo)


def quality(found: np.ndarray, target: np.ndarray) -> float:
    """Accuracy for classes; for numbers R², 1 − squared error / variance."""
    if target.ndim == 1:
        return float(np.mean(found.argmax(axis=1) == target))
    return 1 - float(np.mean((found - target) ** 2) / np.var(target))


def measure_of_tasks(names: Sequence[str], numbers: Collection[str]) -> Measure:
    """What the mean over tasks is: of accuracies, of R², or of both; told in %."""
    if not numbers:
        return ACCURACY
    return R2._replace(name="R²" if set(names) <= set(numbers) else "accuracy or R²", percent=True)


def curves_of(curve: Sequence[Mapping[str, float]], tasks: Sequence[str]) -> dict[str, np.ndarray]:
    """Points of a run as arrays; weights relative to their mean."""
    if not curve:
        return {}
    columns = {name: np.array([row[name] for row in curve]) for name in curve[0]}
    kept = {name.removeprefix(WATCHED): column for name, column in columns.items() if name.startswith(WATCHED)}
    kept |= {"step": columns["step"], "validation": columns["validation"]}
    kept["loss"] = np.mean([columns[task] for task in tasks], axis=0)  # not weighted, without penalties
    if f"weight/{tasks[0]}" in columns:
        weights = np.array([columns[f"weight/{task}"] for task in tasks])
        mean = weights.mean(axis=0)
        relative = weights / np.where(mean == 0, 1.0, mean)
        kept |= {f"weight/{task}": own for task, own in zip(tasks, relative, strict=True)}
    return {f"curve/{name}": column for name, column in kept.items()}
