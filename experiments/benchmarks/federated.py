"""How fast is a round of clients in one program, beside a loop over clients?

    python -m experiments.benchmarks.federated                                    # part of `make bench`
    python -m experiments.benchmarks.federated --config.clients=128 --config.networks=mlp

The loop is written as fairly as it can be by hand: an epoch of a client is one compiled scan over its batches, the
average is compiled too, nothing is waited for between clients, and all clients have as many examples, so that it needs
no mask. Ours masks all the same, draws the clients, and keeps what a round has to keep. Beside it stands the same loop
with a dispatch for every step, which is how it is mostly written. What is told is the time of the processor, of all
cores together, so that what else the machine does counts little. Where steps are short the one program saves what is
around them; where they are long there is nothing to save, and it costs nothing that shows.

    time of a round ÷ ours                              MLP 64-64-10     MLP 784-128-10      CNN 16-32-64
    a round in one program                            1.00 = 1.94 ms     1.00 = 30.1 ms     1.00 = 255 ms
    a loop over clients, epoch and average compiled    3.8 (3.6–4.0)   0.96 (0.93–1.04)  0.89 (0.85–0.99)
    a loop over clients and steps                         30 (26–32)      3.1 (3.1–3.3)     1.4 (1.1–1.4)

By --config.rounds=9, medians and quartiles, on 2 CPU cores (x86_64) that other programs used at the same time, huge
pages on, Python 3.11, jax 0.10.2.

What Flower's simulation takes for the same round is asked by `benchmarks.flower_rounds`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, keep
from experiments.benchmarks.turns import Figures, in_turns, ratio, ratio_table
from experiments.benchmarks.variants import NETWORKS as LARGER
from jaxtl import cli
from jaxtl.bounds import refuse_beyond_memory
from jaxtl.data import Split, batches, iid_parts, local_epochs, on_clients
from jaxtl.devices.compiler import compiler_options
from jaxtl.labels import SHARED, label_params
from jaxtl.losses import mean_of, softmax_cross_entropy
from jaxtl.methods.federated import fedavg
from jaxtl.models import Classifier, Mlp, as_forward, initialise
from jaxtl.optimizers import Group
from jaxtl.penalties import Term
from jaxtl.program import Weights, make_program
from jaxtl.report import Section
from jaxtl.step import program_of
from jaxtl.trees import Tree

CLASSES, RATE = 10, 0.01
NETWORKS: dict[str, tuple[str, tuple[int, ...], Any]] = {"digits": ("MLP 64-64-10", (8, 8, 1), Mlp((64,))), **LARGER}
OURS, LOOP, STEPS = "round", "loop", "steps"
ROWS = {
    OURS: "jaxtl, a round in one program",
    LOOP: "a loop over clients, epoch and average compiled",
    STEPS: "a loop over clients and steps",
}
Networks = Annotated[tuple[Annotated[str, cli.OneOf("network", NETWORKS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # quick: what make bench takes; smoke: seconds, for a look at the tables
    networks: Networks = tuple(NETWORKS)
    clients: Annotated[int, cli.Within(1, 1000)] = 32
    examples: Annotated[int, cli.Within(1, 10_000)] = 40  # of each client
    batch_size: Annotated[int, cli.Within(1, 4096)] = 10
    epochs: Annotated[int, cli.Within(1, 100)] = 1
    rounds: cli.Trials = 11  # blocks of every row, taken in turns
    digits_calls: cli.Steps = 50  # rounds of training in a block
    mlp_calls: cli.Steps = 10
    cnn_calls: cli.Steps = 2

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"rounds": 7, "digits_calls": 20, "mlp_calls": 4, "cnn_calls": 1},
        "smoke": {"networks": ("digits",), "clients": 4, "rounds": 2, "digits_calls": 1},
    }


Run = Callable[[int], Tree]  # so many rounds of training, and the parameters that come of them


class Task(NamedTuple):
    """What all rows train: a model from the same parameters, on the same examples of every client."""

    model: Classifier
    params: Tree
    split: Split
    parts: list[np.ndarray]

    def own(self, client: int) -> tuple[jax.Array, jax.Array]:
        """(images, labels) of one client."""
        return jnp.asarray(self.split.images[self.parts[client]]), jnp.asarray(self.split.labels[self.parts[client]])


def make_task(name: str, config: Config) -> Task:
    """The network and made-up examples, the same in every process."""
    _, shape, trunk = NETWORKS[name]
    size = config.clients * config.examples
    normal = np.random.default_rng(0)
    image, label = normal.normal(size=(size, *shape)).astype(np.float32), np.arange(size, dtype=np.int32) % CLASSES
    model = Classifier(trunk, (("head", CLASSES),))
    params = initialise(model, jax.random.key(0), shape)
    return Task(model, params, Split(image, label), iid_parts(label, config.clients, 0))


def make_runs(name: str, config: Config) -> dict[str, Run]:
    """Every row as a function of how many rounds are trained."""
    task = make_task(name, config)
    return {
        OURS: ours(task, name, config),
        LOOP: _loop(task, config, whole_epochs=True),
        STEPS: _loop(task, config, whole_epochs=False),
    }


def ours(task: Task, name: str, config: Config) -> Run:
    """A round in one program."""
    model, params = task.model, task.params
    data = on_clients(task.split, task.parts, jax.random.key(1))
    size = min(config.batch_size, config.examples)
    local = make_program(
        as_forward(model),
        label_params(params, [(".*", SHARED)]),
        {"task": Term(1.0, mean_of(softmax_cross_entropy))},
        {SHARED: Group(RATE)},
        prepare=batches(size),
        dense=name != "cnn",
    )
    program = fedavg(local, local_epochs(size, config.epochs), clients=config.clients)
    step, fixed = program_of(program.step), program.fixed()

    def run(count: int) -> Tree:
        state = program.start(Weights(params), jax.random.key(2))
        for _ in range(count):
            state, _ = step(state, data, fixed)
        return state.params

    return run


OfClient = Callable[[Tree, tuple[jax.Array, jax.Array], jax.Array], Tree]


def by_hand(model: Classifier, config: Config, whole_epochs: bool) -> OfClient:
    """A client's part of a round, as it is written without this library."""
    size, options = min(config.batch_size, config.examples), compiler_options()
    count = config.examples // size  # what is left over is left out: a whole number of batches needs no mask
    tx = optax.sgd(RATE)

    def loss(params: Tree, image: jax.Array, label: jax.Array) -> jax.Array:
        outputs: Any = model.apply({"params": params}, image, True)
        return optax.softmax_cross_entropy_with_integer_labels(outputs["head"], label).mean()

    def step(params: Tree, batch: tuple[jax.Array, ...]) -> tuple[Tree, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, _ = tx.update(gradients, tx.init(params))
        return optax.apply_updates(params, updates), value

    def ordered(rng: jax.Array, client: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        order = jax.random.permutation(rng, config.examples)[: count * size]
        return tuple(field[order].reshape(count, size, *field.shape[1:]) for field in client)

    def epoch(params: Tree, client: tuple[jax.Array, ...], rng: jax.Array) -> tuple[Tree, jax.Array]:
        return jax.lax.scan(step, params, ordered(rng, client))

    compiled = functools.partial(jax.jit, compiler_options=options)
    train, one, order = compiled(epoch), compiled(step), compiled(ordered)

    def of_client(params: Tree, client: tuple[jax.Array, jax.Array], rng: jax.Array) -> Tree:
        for _ in range(config.epochs):
            if whole_epochs:
                params, _ = train(params, client, rng)
                continue
            images, labels = order(rng, client)
            for k in range(count):
                params, _ = one(params, (images[k], labels[k]))
        return params

    return of_client


def _loop(task: Task, config: Config, whole_epochs: bool) -> Run:
    of_client = by_hand(task.model, config, whole_epochs)
    average = jax.jit(
        lambda found: jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found),
        compiler_options=compiler_options(),
    )
    clients = [task.own(client) for client in range(config.clients)]
    keys = jax.random.split(jax.random.key(1), config.clients)

    def run(times: int) -> Tree:
        server = task.params
        for _ in range(times):
            server = average([of_client(server, client, rng) for client, rng in zip(clients, keys, strict=True)])
        return server

    return run


def measure_network(name: str, config: Config) -> Figures:
    """Processor seconds of a round in every row, and how many times as long as ours it took in the same block."""
    calls = {"digits": config.digits_calls, "mlp": config.mlp_calls, "cnn": config.cnn_calls}[name]
    runs = make_runs(name, config)

    def measured(row: str) -> float:
        began = time.process_time()
        jax.block_until_ready(runs[row](calls))
        return (time.process_time() - began) / calls

    seconds = in_turns(runs, config.rounds, measured)
    return {row: ratio(seconds[row], seconds[OURS]) for row in ROWS}


def measure(config: Config, console: Console, once: Once) -> Findings:
    results = {}
    for name in config.networks:
        console.print(f"measuring {NETWORKS[name][0]}, {config.clients} clients")
        results[name] = once(f"federated-{name}", functools.partial(measure_network, name, config))
    how = f"medians over {config.rounds} blocks, each against its own block; quartiles in brackets"
    what = f"{config.clients} clients, {config.examples} examples each, batches of {config.batch_size}"
    by_words = {NETWORKS[name][0]: result for name, result in results.items()}
    table = ratio_table("processor time of a round ÷ ours", ROWS, OURS, by_words)
    section = Section("Rounds of clients", [table], [f"{what}, {config.epochs} local epochs; {how}"])
    numbers = {
        f"federated/{name}/{row}/seconds": figures["seconds"]
        for name, rows in results.items()
        for row, figures in rows.items()
    }
    return Findings([section], numbers, {"networks": results})


def check_memory(config: Config) -> None:
    """Refuse more examples than fit, which are there twice: for the round, and by client for the loops."""
    size = config.clients * config.examples
    largest = max(math.prod(NETWORKS[name][1]) for name in config.networks)
    what = f"{size:,} examples of {largest} numbers"
    refuse_beyond_memory(8.0 * size * largest, what, where="--config.examples", todo="use fewer, or fewer clients")


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    check_memory(config)
    keep("benchmarks.federated", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
