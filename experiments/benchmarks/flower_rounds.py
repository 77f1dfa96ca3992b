"""What does Flower's simulation take for the round that is one program here?

    pip install 'flwr[simulation]'
    python -m experiments.benchmarks.flower_rounds                     # not part of `make bench`: Ray is large

Flower's side is written as its documentation has it: a ClientApp whose training is one compiled epoch, kept by the
process that runs several clients, and Flower's own FedAvg. Its processes are started before anything is measured; its
first rounds, which compile, do not count. What is told is the time that passes, since the work is in many processes.

    time of a round ÷ ours                            MLP 64-64-10     MLP 784-128-10       CNN 16-32-64
    jaxtl, a round in one program                   1.00 = 1.53 ms     1.00 = 15.7 ms     1.00 = 99.1 ms
    Flower's simulation                        203.0 (202.5–203.4)   32.7 (26.7–32.8)      5.3 (4.5–5.3)

By `--config.networks=digits,mlp,cnn`, 32 clients of 40 examples, medians and quartiles of 10 rounds, on 2 CPU cores
with little else to do, Python 3.11, jax 0.10.2, Flower 1.42, Ray 2.55. Flower takes a third to half a second a round
whatever the network is: the larger it is, the less that counts. Ray wants its processes to be up within 30 seconds,
which they are not on a machine that is busy.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from rich.console import Console

from experiments.benchmarks import federated
from experiments.benchmarks.federated import NETWORKS, OURS, by_hand, make_task, ours
from experiments.benchmarks.results import Findings, Once, keep
from experiments.benchmarks.turns import Figures, ratio, ratio_table
from jaxtl import cli
from jaxtl.errors import InputError
from jaxtl.report import Section
from jaxtl.trees import map_named, named_leaves

FLOWER, COMPILING = "flower", 2
ROWS = {OURS: "jaxtl, a round in one program", FLOWER: "Flower's simulation, an epoch of a client compiled"}


@dataclasses.dataclass(frozen=True)
class Config(federated.Config):
    networks: federated.Networks = ("digits",)
    rounds: cli.Trials = 10  # of Flower, and blocks of ours

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"clients": 4, "rounds": 2, "digits_calls": 1}}


@functools.lru_cache(maxsize=1)
def _made(name: str, config: Config) -> tuple[federated.Task, federated.OfClient]:
    """What a process of Flower keeps from client to client."""
    task = make_task(name, config)
    return task, by_hand(task.model, config, whole_epochs=True)


def client_of(name: str, config: Config) -> Any:
    """Flower's ClientApp of one epoch on a client's own examples."""
    flower = importlib.import_module("flwr.app")
    app = importlib.import_module("flwr.clientapp").ClientApp()

    @app.train()
    def train(message: Any, context: Any) -> Any:
        task, of_client = _made(name, config)
        client, arrays = int(context.node_config["partition-id"]), message.content["arrays"]
        params = map_named(lambda path, _: arrays[path].numpy(), task.params)
        trained = of_client(params, task.own(client), jax.random.fold_in(jax.random.key(1), client))
        metrics = flower.MetricRecord({"num-examples": len(task.parts[client])})
        return flower.Message(flower.RecordDict({"arrays": record(trained), "metrics": metrics}), reply_to=message)

    return app


def record(params: Any) -> Any:
    """Parameters as Flower sends them."""
    flower = importlib.import_module("flwr.app")
    return flower.ArrayRecord({path: flower.Array(np.asarray(leaf)) for path, leaf in named_leaves(params).items()})


def simulated(name: str, config: Config) -> np.ndarray:
    """Seconds of every round of Flower's simulation but the first.

    Raises:
        InputError: not all clients answered in every round.
    """
    times, answered = list[float](), list[int]()
    strategies: Any = importlib.import_module("flwr.serverapp.strategy")
    app = importlib.import_module("flwr.serverapp").ServerApp()

    class Counted(strategies.FedAvg):  # a client that fails is left out without a word
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = list(replies)
            answered.append(sum(not reply.has_error() for reply in replies))
            return super().aggregate_train(server_round, replies)

    @app.main()
    def main(grid: Any, context: Any) -> None:
        strategy = Counted(fraction_evaluate=0.0, min_available_nodes=config.clients)
        strategy.start(
            grid,
            record(make_task(name, config).params),
            num_rounds=COMPILING + config.rounds,
            evaluate_fn=lambda number, arrays: times.append(time.perf_counter()),  # after every round, and before all
        )

    run = importlib.import_module("flwr.simulation").run_simulation
    # Ray's processes look a client up by its module, which must not be called __main__
    client = importlib.import_module("experiments.benchmarks.flower_rounds").client_of(name, config)
    run(app, client, config.clients, backend_config={"init_args": {"include_dashboard": False}})
    if answered != [config.clients] * (COMPILING + config.rounds):
        what = f"of {config.clients} clients there answered, by round, {answered}"
        raise InputError(what, where="Flower's simulation", todo="see above what they said; nothing was measured")
    return np.diff(times)[COMPILING:]


def measure_network(name: str, config: Config) -> Figures:
    """Seconds of a round in both rows, ours before and after Flower's."""
    calls = {"digits": config.digits_calls, "mlp": config.mlp_calls, "cnn": config.cnn_calls}[name]
    run = ours(make_task(name, config), name, config)

    def block() -> float:
        began = time.perf_counter()
        jax.block_until_ready(run(calls))
        return (time.perf_counter() - began) / calls

    block()  # compiles
    before = [block() for _ in range(config.rounds // 2)]
    flower = simulated(name, config)
    seconds = np.array(before + [block() for _ in range(config.rounds - len(before))])
    return {OURS: ratio(seconds, seconds), FLOWER: ratio(flower, np.median(seconds))}


def measure(config: Config, console: Console, once: Once) -> Findings:
    results = {}
    for name in config.networks:
        console.print(f"measuring {NETWORKS[name][0]}, {config.clients} clients")
        results[name] = once(f"flower-{name}", functools.partial(measure_network, name, config))
    by_words = {NETWORKS[name][0]: result for name, result in results.items()}
    table = ratio_table("time of a round ÷ ours", ROWS, OURS, by_words)
    what = f"{config.clients} clients, {config.examples} examples each, batches of {config.batch_size}"
    how = f"{config.epochs} local epochs; medians over {config.rounds} rounds, quartiles in brackets"
    numbers = {
        f"flower/{name}/{row}/seconds": own["seconds"] for name, rows in results.items() for row, own in rows.items()
    }
    return Findings([Section("Rounds on Flower", [table], [f"{what}, {how}"])], numbers, {"networks": results})


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    federated.check_memory(config)
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # nobody is told
    for library in ("flwr", "ray"):
        if importlib.util.find_spec(library) is None:
            todo = "pip install 'flwr[simulation]'"
            raise InputError(f"{library} is not installed", where="benchmarks.flower_rounds", todo=todo)
    keep("benchmarks.flower_rounds", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
