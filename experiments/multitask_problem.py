"""The networks, programs and methods of `experiments.multitask`: what a run is, not what is asked of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.cifar_transfer import unscored
from jaxtl import backend
from jaxtl.data import epoch_batch
from jaxtl.data.composed import TaskSet, TaskSplit, standardised
from jaxtl.labels import having, label_params, label_set
from jaxtl.loop import fit
from jaxtl.loop.finite import not_finite
from jaxtl.losses import make_loss_fn, softmax_cross_entropy, squared_error
from jaxtl.methods.multitask import (
    LOG_VARIANCES,
    SHARED,
    WEIGHTING,
    by_dwa,
    by_famo,
    by_gls,
    by_rlw,
    by_uncertainty,
    cagrad_weights,
    equal_weights,
    imtl_g_weights,
    mean_of_present,
    mgda_weights,
    nash_weights,
    pcgrad_weights,
    surgery,
    weigh,
)
from jaxtl.models import Classifier, Cnn, Mlp, initialise
from jaxtl.optimizers import Group, per_label, pull_per_rate
from jaxtl.penalties import Term, l2, labelled
from jaxtl.report.results import PREDICTION
from jaxtl.selection import Draw, Method, Range, Setting, sweep
from jaxtl.step import Context, Fixed, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.trees import Tree

if TYPE_CHECKING:
    from experiments.multitask import Config

WEIGHTINGS = {  # from losses, in one backward pass; made for a number of steps in an epoch
    "uncertainty": lambda epoch: by_uncertainty(),
    "dwa": by_dwa,
    "gls": lambda epoch: by_gls(),
    "rlw": lambda epoch: by_rlw(),
    "famo": lambda epoch: by_famo(),
}
SURGERIES = {  # from gradients, a backward pass for each task
    "pcgrad": pcgrad_weights,
    "mgda": mgda_weights,
    "cagrad": cagrad_weights,
    "imtl_g": imtl_g_weights,
    "nash": nash_weights,
}
PLAIN = {"single": "single", "equal": "sum", "fixed": "sum"}  # the others are programs of their own
PROGRAM = PLAIN | {name: name for name in (*WEIGHTINGS, *SURGERIES)}
PULLED = "_l2"  # after the name of a method: with a tuned pull towards 0 on the trunk, and another on the heads
MEANS = {  # what the methods are, one line each
    "single": "a model for each task; nothing is shared",
    "equal": "the plain sum of the tasks' losses on a shared trunk",
    "fixed": "a sum with a weight for each task, chosen by validation",
    "uncertainty": "a loss counts by 1/(2σ²), with a σ for each task that is learned beside the network",
    "dwa": "dynamic weight average: a task whose loss fell slowly in the last epochs counts more",
    "gls": "the geometric mean of the losses instead of their sum",
    "rlw": "random weights, drawn anew in every step",
    "famo": "weights that are learned so that all losses fall by the same factor",
    "pcgrad": "each gradient is projected off those that it conflicts with, then all are added up",
    "mgda": "the shortest vector among all averages of the gradients",
    "cagrad": "near the mean gradient, the direction that is best for the worst task",
    "imtl_g": "the combination with equal projections on all gradients' directions",
    "nash": "the Nash bargaining solution: no other direction raises the product of the tasks' gains",
}
WITH_PULLS = "with a tuned pull towards 0 on the trunk and another on the heads"
GLOSSARY = {
    f"{name}{pulled}": f"{name}, {WITH_PULLS}" if pulled else means
    for name, means in MEANS.items()
    for pulled in ("", PULLED)
}
METHODS = tuple(GLOSSARY)
PULLS = ("pull/shared", "pull/task")
ROWS = 10  # points of the curves
WATCHED = "watched/"  # before figures of a curve that a step may have measured as well, of its batch
MANY = 500  # labelled examples, enough for the cosines of their gradients


class Examples(NamedTuple):
    """Indices into the training part, and by task which labels are there."""

    seen: np.ndarray
    held: np.ndarray  # to validate on
    known: dict[str, np.ndarray]  # bool, of those seen
    held_known: dict[str, np.ndarray]


class Net(NamedTuple):
    """A trunk for all tasks, or one for each, and a head for each."""

    init: Callable[[jax.Array], Tree]
    forward: Callable[..., tuple[dict[str, Any], Tree]]
    rules: list[tuple[str, str]]


def make_net(config: Config, shape: tuple[int, ...], outputs: Mapping[str, int], apart: bool = False) -> Net:
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


class Program:
    """One compiled step. What runs in it differs in its rates and starting points only."""

    def __init__(self, config: Config, grad_fn, tx, carried: Tree | None = None):
        def prepare(data, rng, step):
            size = len(data["image"])
            index = epoch_batch(data["order"], step, batch_size=min(config.batch_size, size), size=size)
            return {name: column[index] for name, column in data.items() if name != "order"}

        def init(point):
            return init_state(point["params"], tx, point["rng"], carried), point["rates"]

        self.step = make_train_step(grad_fn, tx, prepare)
        self.tx, self.init, self.carried, self.steps = tx, init, carried or {}, config.steps
        self.dense = config.model == "mlp"  # no convolutions, so all steps go in one dispatch on any device
        chunk = max(1, config.steps // ROWS)
        self.chunk = chunk if self.dense else backend.steps_per_dispatch(0, chunk)
        self.train = make_epoch(self.step, self.steps) if self.dense else self.step

    def run_all(self, starts: Sequence[Tree], data: Tree, rates: Sequence[dict[str, float]], key) -> list[Tree | None]:
        """The parameters afterwards of every start with its rates, all in one sweep; None where they are not finite."""
        columns = {
            "params": jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts),
            "rates": {name: np.array([one[name] for one in rates], np.float32) for name in rates[0]},
            "rng": jnp.stack([key] * len(starts)),
        }
        calls, batching = (1, "vmap") if self.dense else (self.steps, backend.batching())
        swept = sweep(self.init, self.train, unscored, columns, data, {}, calls=calls, batching=batching)
        states = jax.device_get(swept.states)
        ended = [jax.tree.map(itemgetter(k), states.params) for k in range(len(starts))]
        return [None if not_finite(params) else params for params in ended]

    def follow(self, start: Tree, data: Tree, rates: dict[str, float], key, evaluate) -> tuple[Tree, list]:
        """The parameters afterwards, and points of curves on the way."""
        state = init_state(start, self.tx, key, self.carried)
        every = max(1, self.steps // ROWS // self.chunk) * self.chunk
        state, curve = fit(
            self.step,
            state,
            data,
            Fixed(rates),
            steps=self.steps,
            chunk=self.chunk,
            every=every,
            evaluate=evaluate,
        )
        return jax.block_until_ready(state.params), curve


class Trained(NamedTuple):
    """What one run of one method leaves."""

    params: Tree
    rates: dict[str, float]
    examples: Examples
    curve: list[dict[str, float]]


# ---------------------------------------------------------------- all tasks


class Problem:
    """Some labelled examples with several tasks, and the methods that learn them together or apart."""

    def __init__(self, config: Config, tasks: TaskSet):
        self.config, self.names = config, config.tasks
        self.tasks = standardised(tasks, config.input_size)
        self.numbers = [task for task, classes in tasks.classes.items() if not classes]
        order = np.random.default_rng([config.seed, 0]).permutation(len(tasks.train))
        held = min(config.validation, len(order) // 3)
        self.held, self.pool = order[:held], order[held:]
        outputs = {task: tasks.classes[task] or 1 for task in self.names}
        self.shape = self.tasks.train.inputs.shape[1:]
        self.net = make_net(config, self.shape, outputs)
        self.apart = make_net(config, self.shape, outputs, apart=True)
        self.schedule = optax.cosine_decay_schedule(1.0, config.steps)
        self.reach = pull_per_rate(1.0, config.steps, schedule=self.schedule, momentum=config.momentum)
        self.programs: dict[str, Program] = {}

    # What a draw decides: which examples are labelled, where the network starts, the order of batches.

    def key(self, draw: Draw, use: str) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self.config.seed), draw.seed)
        return jax.random.fold_in(key, ("net", "order", "run", "new net", "new order").index(use))

    def labelled_order(self, draw: Draw) -> np.ndarray:
        """The pool, shuffled; the first `n` are labelled."""
        return np.random.default_rng([self.config.seed, 1, draw.seed]).permutation(self.pool)

    def examples(self, draw: Draw) -> Examples:
        config, random = self.config, np.random.default_rng([self.config.seed, 2, draw.seed])
        seen, known = self.labelled_order(draw)[: config.n], {}
        for task in self.names:
            known[task] = random.random(config.n) >= config.missing
            known[task][random.integers(config.n)] = True  # a task without any label is no task
        if draw.fold is None:
            return Examples(seen, self.held, known, {task: np.ones(len(self.held), bool) for task in self.names})
        part = np.arange(config.n) % draw.folds == draw.fold
        inside, outside = ({task: there[side] for task, there in known.items()} for side in (~part, part))
        return Examples(seen[~part], seen[part], inside, outside)

    def data(self, draw: Draw) -> dict[str, jax.Array]:
        """What the steps read. A label that is missing is not handed over: −1 or NaN stands there."""
        examples, part = self.examples(draw), self.tasks.train
        found = {"image": part.inputs[examples.seen]}
        for task, there in examples.known.items():
            target = part.targets[task][examples.seen]
            target[~there] = np.nan if task in self.numbers else -1
            found |= {task: target, f"{task}_known": there}
        return {name: jnp.asarray(column) for name, column in found.items()} | {"order": self.key(draw, "order")}

    # The methods, and the programs that they share.

    def methods(self) -> list[Method]:
        found = []
        for name in self.config.methods or METHODS:
            search = {"learning_rate": Range(*self.config.learning_rate)}
            if name.startswith("fixed"):
                search |= {f"weight/{task}": Range(*self.config.weight) for task in self.names}
            if name.endswith(PULLED):
                search |= dict.fromkeys(PULLS, Range(*self.config.pull))
            train, train_all = functools.partial(self.train, name), functools.partial(self.train_all, name)
            found.append(Method(name, search, train, train_all))
        return found

    def rates(self, program: str, setting: Setting) -> dict[str, float]:
        """A setting as rates; λ is the pull over Σ learning rates / (1 − momentum). Fixed weights add up to T."""
        learning_rate = setting["learning_rate"]
        weights = [setting.get(f"weight/{task}", 1.0) for task in self.names]
        rates = {task: len(weights) * weight / sum(weights) for task, weight in zip(self.names, weights, strict=True)}
        for label in self.pulled:
            pull = setting.get(f"pull/{label.partition(':')[0]}", 0.0)
            rates |= {f"learning_rate/{label}": learning_rate, f"penalty/{label}": pull / (learning_rate * self.reach)}
        return rates | ({f"learning_rate/{WEIGHTING}": learning_rate} if program == "uncertainty" else {})

    @property
    def pulled(self) -> tuple[str, ...]:
        """The labels of trunk and heads."""
        return SHARED, *(f"task:{task}" for task in self.names)

    def loss_fn(self, net: Net, penalty: Callable | None = None) -> Callable:
        """The losses over the labels that are there."""
        terms = {}
        for task in self.names:
            loss = squared_error if task in self.numbers else softmax_cross_entropy
            terms[task] = Term(1.0, mean_of_present(loss, task, task, f"{task}_known"))
        return make_loss_fn(net.forward, terms, penalty)

    def penalty(self, labels: Tree) -> Callable:
        return labelled(labels, {label: Term(0.0, l2) for label in self.pulled})

    def start(self, program: str, draw: Draw) -> Tree:
        params = (self.apart if program == "single" else self.net).init(self.key(draw, "net"))
        return params | ({LOG_VARIANCES: jnp.zeros(len(self.names))} if program == "uncertainty" else {})

    def program(self, name: str) -> Program:
        if name not in self.programs:
            self.programs[name] = self.make_program(name)
        return self.programs[name]

    def make_program(self, name: str) -> Program:
        config, net = self.config, self.apart if name == "single" else self.net
        weighting = [(LOG_VARIANCES, WEIGHTING)] if name == "uncertainty" else []  # a label of its own: never decayed
        labels = label_params(self.start(name, Draw(0)), [*net.rules, *weighting])
        loss_fn, carried = self.loss_fn(net, self.penalty(labels)), None
        if name in SURGERIES:
            grad_fn = surgery(loss_fn, SURGERIES[name], self.names, having(labels, SHARED))
        elif name in WEIGHTINGS:
            by = WEIGHTINGS[name](max(1, config.n // config.batch_size))
            grad_fn, carry = total_gradient(weigh(loss_fn, by, self.names)), by.init(len(self.names))
            carried = None if carry is None else {WEIGHTING: carry}
        else:
            grad_fn = total_gradient(loss_fn)
        groups = {label: Group(0.0) for label in label_set(labels)}
        tx = per_label(labels, groups, "nesterov", momentum=config.momentum, schedule=self.schedule)
        return Program(config, grad_fn, tx, carried)

    # Training.

    def train_all(self, method: str, settings: list[Setting], draw: Draw) -> list[Trained | None]:
        """All settings on a draw in one sweep; None for those that diverged."""
        name, examples = PROGRAM[method.removesuffix(PULLED)], self.examples(draw)
        rates = [self.rates(name, setting) for setting in settings]
        starts = [self.start(name, draw)] * len(settings)
        ended = self.program(name).run_all(starts, self.data(draw), rates, self.key(draw, "run"))
        return [
            None if params is None else Trained(params, rate, examples, [])
            for params, rate in zip(ended, rates, strict=True)
        ]

    def train(self, method: str, setting: Setting, draw: Draw) -> Trained:
        """One setting on a draw, followed by curves."""
        name, examples, data = PROGRAM[method.removesuffix(PULLED)], self.examples(draw), self.data(draw)
        rates, start = self.rates(name, setting), self.start(name, draw)

        def point(state) -> dict[str, float]:
            found = {"validation": self.validation(state.params, examples)}
            if name != "single":
                watched = self.cosines({part: state.params[part] for part in ("trunk", *self.names)}, data)
                found |= {f"{WATCHED}{pair}": value for pair, value in watched.items()}
            return found

        params, curve = self.program(name).follow(start, data, rates, self.key(draw, "run"), point)
        return Trained(params, rates, examples, curve)

    @functools.cached_property
    def _gradients(self):
        labels = label_params(self.net.init(jax.random.key(0)), self.net.rules)
        of = surgery(self.loss_fn(self.net), equal_weights, self.names, having(labels, SHARED))
        ctx = Context(0, jax.random.key(0), {}, {})
        return jax.jit(lambda params, batch: of(params, {}, batch, ctx)[1])

    def cosines(self, params: Tree, data: Tree) -> dict[str, float]:
        """Between the tasks' gradients on the trunk, over many examples at once, whatever weighs them in training."""
        batch = {name: column[:MANY] for name, column in data.items() if name != "order"}
        found = self._gradients(params, batch).items()
        return {name: float(value) for name, value in found if name.startswith("cosine/")}

    # What is measured.

    @functools.cached_property
    def _outputs(self):
        ctx = Context(0, None, {}, {}, train=False)

        def outputs(params, image, apart):
            return (self.apart if apart else self.net).forward(params, {}, {"image": image}, ctx)[0]

        return jax.jit(outputs, static_argnames="apart")

    def outputs(self, params: Tree, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """By task what its head says."""
        return jax.device_get(self._outputs(params, inputs, set(params["trunk"]) == set(self.names)))

    def measure(self, params: Tree, part: TaskSplit, index: np.ndarray, known: Mapping[str, np.ndarray]) -> Tree:
        """By task the accuracy, or R² of numbers, over the labels that are there; a task without any is left out."""
        found = self.outputs(params, part.inputs[index])
        return {
            task: quality(found[task][there], part.targets[task][index][there])
            for task, there in known.items()
            if there.any()
        }

    def score(self, by_task: Mapping[str, float]) -> float:
        """The mean over tasks of the accuracy, or of v/(v + e): of numbers with variance v and squared error e."""
        return float(np.mean([fraction(value, task in self.numbers) for task, value in by_task.items()]))

    def validation(self, params: Tree, examples: Examples) -> float:
        return self.score(self.measure(params, self.tasks.train, examples.held, examples.held_known))

    def validate(self, trained: Trained, draw: Draw) -> float:
        return self.validation(trained.params, trained.examples)

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        everyone, examples = np.arange(len(self.tasks.test)), trained.examples
        every_label = {task: np.ones(len(everyone), bool) for task in self.names}
        by_task = self.measure(trained.params, self.tasks.test, everyone, every_label)
        seen = self.measure(trained.params, self.tasks.train, examples.seen, examples.known)
        metrics = {"test": self.score(by_task), "train": self.score(seen)}
        metrics |= {f"test/{task}": value for task, value in by_task.items()}
        lams = {label.partition(":")[0]: trained.rates[f"penalty/{label}"] for label in self.pulled}
        metrics |= {f"lambda/{name}": lam for name, lam in lams.items() if lam}
        said = self.outputs(trained.params, self.tasks.test.inputs)
        classes = [task for task in self.names if task not in self.numbers]
        predicted = {f"{PREDICTION}/{task}": said[task].argmax(axis=1).astype(np.uint8) for task in classes}
        return metrics, curves_of(trained.curve, self.names) | predicted


def quality(found: np.ndarray, target: np.ndarray) -> float:
    """Accuracy for classes; for numbers R², 1 − squared error / variance."""
    if target.ndim == 1:
        return float(np.mean(found.argmax(axis=1) == target))
    return 1 - float(np.mean((found - target) ** 2) / np.var(target))


def fraction(value: float, is_number: bool) -> float:
    """A quality between 0 and 1, the larger the better: of R² v/(v + e), which is a half for predicting the mean."""
    return 1 / (2 - value) if is_number else value


def curves_of(curve: list[dict[str, float]], tasks: Sequence[str]) -> dict[str, np.ndarray]:
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
