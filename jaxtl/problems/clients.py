"""Examples that stay with clients, and a source model that all of them begin with: federated transfer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import DataSet, Split, class_parts, dirichlet_parts, hold_out, iid_parts, on_clients
from jaxtl.errors import InputError
from jaxtl.labels import some
from jaxtl.models import initial_model_state, initialise
from jaxtl.problems.images import accuracy, classes_of, inputs_of, outputs
from jaxtl.problems.source import Source, make_model
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Setting, Trained, draw_key, rates_of, replicate_seed
from jaxtl.transfer import Transfer, transfer
from jaxtl.trees import Tree

USES = ("start", "order", "run")  # of a draw's keys
WORST = 10  # one of so many clients: the worst decile

PARTITIONS = {  # what they mean, in a line
    "iid": "every client has examples of all classes, as many of each as chance has it",
    "dirichlet": "every class is dealt out in shares drawn from a Dirichlet distribution",
    "classes": "every client has examples of a few classes only",
}


@dataclasses.dataclass(frozen=True)
class ClientsConfig:
    """Who has what, and how clients work: fields of an experiment's Config, whose `steps` are rounds."""

    clients: Annotated[int, bounds.Within(2, 10_000)] = 20
    sampled: Annotated[int, bounds.Within(0, 10_000)] = 0  # clients that take part in a round; 0: all
    alpha: Annotated[float, bounds.Within(1e-3, 1e6)] = 0.5  # of "dirichlet": the smaller, the more unequal
    classes_each: bounds.Count = 2  # of "classes"
    local_epochs: Annotated[int, bounds.Within(1, 1000)] = 1  # of a client in a round
    local_momentum: bounds.Share = 0.0  # of clients, who forget it after each round
    validation: bounds.Count = 1000  # examples that no client has, by which settings are chosen
    corruptions, head = False, "fresh"  # no fields here

    @property
    def taking_part(self) -> int:
        """Clients of a round."""
        return self.sampled or self.clients


def _held(config: Any, task: DataSet, replicate: int) -> tuple[np.ndarray, np.ndarray]:
    count = min(config.validation, len(task.train) // 4)
    return hold_out(task.train.labels, count, replicate_seed(config.seed, replicate))


def _dealt(config: Any, task: DataSet, partition: str, draw: Draw) -> list[np.ndarray]:
    _, pool = _held(config, task, draw.replicate)
    labels, clients, seed = task.train.labels[pool], config.clients, 1000 * config.seed + draw.seed
    if partition == "dirichlet":
        parts = dirichlet_parts(labels, clients, config.alpha, seed)
    elif partition == "classes":
        parts = class_parts(labels, clients, config.classes_each, seed)
    else:
        parts = iid_parts(labels, clients, seed)
    return [pool[part] for part in parts]


def check_clients(config: Any, task: DataSet, partitions: Sequence[str]) -> None:
    """Refuse clients that cannot be, before anything is trained: on the draws of the first replicate.

    Args:
        config: has the fields of `ClientsConfig` and `Budget`.
        task: the clients' examples.
        partitions: some of `PARTITIONS`.

    Raises:
        InputError: more clients in a round than there are, examples that cannot be held out or dealt out so.
    """
    if config.sampled > config.clients:
        what = f"{config.sampled} of {config.clients} clients"
        raise InputError(what, where="--config.sampled", todo="draw no more than there are")
    try:
        _held(config, task, 0)
    except InputError as error:
        raise InputError(error.what, where=f"--config.validation={config.validation}", todo=error.todo) from None
    for partition in partitions:
        for seed in (*config.tuning_seeds, *config.report_seeds):
            try:
                _dealt(config, task, partition, Draw(seed))
            except InputError as error:
                where = f"--config.clients={config.clients}, {partition}"
                raise InputError(error.what, where=where, todo=error.todo) from None


class Clients:
    """K clients with examples of their own, drawn anew for every draw; a `protocol.Problem` whose steps are rounds.

    A client is judged by what it would be asked: accuracy on each class, weighed by how often the client has that
    class. That holds for one model of all and for one of each client alike, on all test examples.

    Args:
        config: has the fields of `ClientsConfig`, `SourceConfig` and `Budget`.
        source: the model that transferred trunks are of; several, one for each replicate.
        task: the clients' examples.
        partition: one of `PARTITIONS`.

    Raises:
        InputError: what `check_clients` refuses.
    """

    points = 10  # of a curve
    own = ("held-out examples",)

    def __init__(self, config: Any, source: Source | list[Source], task: DataSet, partition: str):
        check_clients(config, task, [partition])
        self.config, self.task, self.partition = config, task, partition
        self.sources = [source] if isinstance(source, Source) else source
        self.title = f"{some(task.classes)} with {config.clients} clients, {self.how}"
        self.origin, self.content = task.origin, task.content
        own: Any = inputs_of(task)
        self.images = own.after(self.sources[0].images)
        self.model = make_model(config, own, head=len(task.classes))
        self.train_images, self.test_images = (jnp.asarray(part.images) for part in (task.train, task.test))
        self.moved = self.transferred(Draw(0))
        self._traffic: dict[Callable, float] = {}

    @property
    def how(self) -> str:
        """The partition, in words."""
        kinds = {
            "dirichlet": f"Dirichlet({self.config.alpha:g})",
            "classes": f"{self.config.classes_each} classes each",
        }
        return kinds.get(self.partition, "IID")

    def key(self, draw: Draw, use: str) -> jax.Array:
        """The random key of a draw for one of `USES`."""
        return draw_key(self.config.seed, draw, USES.index(use))

    # Who has what.

    @functools.cache  # noqa: B019  (a problem lives as long as its run)
    def held(self, replicate: int) -> tuple[np.ndarray, np.ndarray]:
        """(examples that choose settings, those that clients have): indices."""
        return _held(self.config, self.task, replicate)

    @functools.cache  # noqa: B019
    def parts(self, draw: Draw) -> list[np.ndarray]:
        """The examples of each client: indices into the training part."""
        return _dealt(self.config, self.task, self.partition, draw)

    @functools.cache  # noqa: B019
    def shares(self, draw: Draw) -> np.ndarray:
        """[K, C] how often each client has each class."""
        counts = [np.bincount(self.task.train.labels[p], minlength=len(self.task.classes)) for p in self.parts(draw)]
        return np.array([own / own.sum() for own in counts])

    @functools.cached_property
    def largest(self) -> int:
        """Examples of the largest client of all draws: one program for all of them."""
        draws = self.config.tuning_draws + self.config.report_draws
        every = [Draw(seed, replicate=seed // draws) for seed in range(draws * self.config.replicates)]
        return max(len(part) for draw in every for part in self.parts(draw))

    @property
    def batch_size(self) -> int:
        """Of a client: no more than the largest one has."""
        return min(self.config.batch_size, self.largest)

    def data(self, program: Program, start: Weights, draw: Draw) -> dict[str, Any]:
        """Examples of every client, for a program of the head their features; all in one place for a single client."""
        images = self.features(draw.replicate) if set(program.labels) == {"head"} else self.train_images
        parts, order = self.parts(draw), self.key(draw, "order")
        all_in_one = getattr(program, "clients", 1) == 1
        split = Split(image=images, label=self.task.train.labels)
        if all_in_one:
            return on_clients(split, [np.sort(np.concatenate(parts))], order)
        data = on_clients(split, parts, order)
        return {**data, "index": jnp.pad(data["index"], ((0, 0), (0, self.largest - data["index"].shape[1])))}

    @functools.cache  # noqa: B019
    def features(self, replicate: int) -> np.ndarray:
        """[N, D] what the source's trunk makes of the training part."""
        return outputs(self.model, self.start(Draw(0, replicate=replicate)), self.train_images, self.images, "features")

    # Where training starts, and with which rates.

    def source_of(self, draw: Draw) -> Source:
        """The source model of a draw's replicate, or the one of all."""
        return self.sources[draw.replicate if len(self.sources) > 1 else 0]

    def fresh(self, draw: Draw) -> Weights:
        """Nothing from the source."""
        params = initialise(self.model, self.key(draw, "start"), self.images.like)
        return Weights(params, initial_model_state(self.model, self.images.like))

    def start(self, draw: Draw) -> Weights:
        """The source's trunk under a fresh head."""
        return Weights(self.transferred(draw).params, self.source_of(draw).weights.model_state)

    def transferred(self, draw: Draw) -> Transfer:
        """What `start` copies, with labels and report."""
        of = self.source_of(draw)
        adapt, fresh = self.images.changed(of.images)
        return transfer(of.weights.params, self.fresh(draw).params, reinit=["head/.*", *fresh], adapt=adapt)

    @functools.cached_property
    def reach(self) -> dict[str, float]:
        """Of a learning rate 1 in the round of a client of mean size."""
        mean = sum(map(len, self.parts(Draw(0)))) / self.config.clients
        steps = self.config.local_epochs * np.ceil(mean / self.batch_size)
        return {"penalty": float(steps) / (1 - self.config.local_momentum)}

    def rates(self, program: Program, setting: Setting) -> dict[str, float]:
        """See `rates_of`; a pull is that of a round."""
        return rates_of(program, setting, self.reach)

    # What is measured.

    def answers(self, weights: Weights, image: jax.Array) -> np.ndarray:
        """[1, N] classes of images by the model of all, or [K, N] where clients have parts of their own."""
        memory: Any = weights.model_state
        if not hasattr(memory, "of_client"):
            return classes_of(outputs(self.model, weights, image, self.images, "head"))[None]
        server = memory.server(weights.params)
        if not memory.personal:
            return self.answers(server, image)
        if all(path.startswith("head/") for path in memory.personal):  # one pass of the trunk for all heads
            seen = outputs(self.model, server, image, self.images, "features")
            heads: list[Tree] = [memory.of_client(weights.params, k).params["head"] for k in range(self.config.clients)]
            return np.stack([classes_of(seen @ np.asarray(of["kernel"]) + np.asarray(of["bias"])) for of in heads])
        every = (memory.of_client(weights.params, k) for k in range(self.config.clients))
        return np.concatenate([self.answers(one, image) for one in every])

    def by_client(self, weights: Weights, image: jax.Array, labels: np.ndarray, draw: Draw) -> np.ndarray:
        """[K] Σ_c share of class c · accuracy on class c, of each client's model."""
        right = self.answers(weights, image) == labels
        by_class = np.stack([right[:, labels == c].mean(axis=1) for c in range(len(self.task.classes))], axis=1)
        return np.sum(self.shares(draw) * by_class, axis=1)

    def point(self, weights: Weights, draw: Draw) -> dict[str, float]:
        """A point of the curve: clients on held-out examples, in the mean and in the worst decile."""
        held, _ = self.held(draw.replicate)
        found = self.by_client(weights, self.train_images[held], self.task.train.labels[held], draw)
        return {"validation": float(found.mean()), "worst": worst(found)}

    def validate(self, trained: Trained, draw: Draw) -> float:
        """The mean over clients, on held-out examples."""
        return self.point(trained.weights, draw)["validation"]

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Accuracy of clients on test examples, of the one model on all of them, and what was sent for it."""
        weights, labels = trained.weights, self.task.test.labels
        found = self.by_client(weights, self.test_images, labels, draw)
        metrics = {"test": float(found.mean()), "worst": worst(found), "megabytes": self.megabytes(trained)}
        if not getattr(weights.model_state, "personal", ()):
            metrics["server"] = accuracy(self.answers(weights, self.test_images)[0], labels)
        curves = {
            f"curve/{name}": np.array([row[name] for row in trained.curve]) for name in next(iter(trained.curve), {})
        }
        return metrics, {"clients": found, **curves}

    def megabytes(self, trained: Trained) -> float:
        """Sent in a run, by all clients of all rounds in both directions; a source that all know beforehand is not."""
        make: Any = trained.recipe.program
        if make not in self._traffic:
            program = make(self)
            each = sum(program.traffic(trained.weights)) if program.clients > 1 else 0
            self._traffic[make] = self.config.steps * program.sampled * each / 1e6
        return self._traffic[make]


def worst(by_client: np.ndarray) -> float:
    """The mean over the worst tenth of the clients, one at least.

    Example:
        >>> worst(np.arange(20) / 20)
        0.025
    """
    count = -(-len(by_client) // WORST)
    return float(np.sort(by_client)[:count].mean())
