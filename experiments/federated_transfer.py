"""Examples that stay with clients: what is a source model worth to them, and what has to be sent?

A source model is trained on some classes; clients have examples of the others, which they keep. They learn together
from random parameters or from the source's trunk, with all parameters, with the head alone, or each with a head of its
own, by averaging (FedAvg), with a proximal term (FedProx), with control variates (SCAFFOLD), with an adaptive server
(FedAdam). All have equal budgets: rounds, local epochs, settings tried. Clients are alike (IID), have classes in
unequal shares (Dirichlet), or have two classes each.

    python -m experiments.federated_transfer                # scikit-learn's digits, 20 clients
    python -m experiments.federated_transfer --smoke        # one kind of clients, a few methods and rounds
    python -m experiments.federated_transfer --config.clients=100 --config.sampled=10
    python -m experiments.federated_transfer --config.preset=cifar --config.data=cifar10.npz   # five classes to five
    python -m experiments.federated_transfer --config.preset=cifar10 --config.data=cifar10.npz --config.source=cifar100

The figures on digits are on the page `federated_transfer.md`, those on CIFAR-10 in the gallery.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jaxtl import cli, report
from jaxtl.data import load
from jaxtl.loop import StoppableProgress
from jaxtl.methods.federated.recipes import POOLED, RECIPES
from jaxtl.problems import (
    PARTITIONS,
    Clients,
    ClientsConfig,
    SourceConfig,
    check_clients,
    check_plan,
    check_tasks,
    choose_tasks,
    make_sources,
)
from jaxtl.protocol import Budget, study
from jaxtl.protocol.results import Axes
from jaxtl.report.clients import clients_section
from jaxtl.terminal import Terminal

BASELINE = "fedavg"
USUAL = (
    *("fedavg_scratch", "fedprox_scratch", "scaffold_scratch", "fedadam_scratch"),
    *(BASELINE, "fedprox", "scaffold", "fedadam"),
    *("head", "fedper", "local_head", POOLED),
)
CONTRASTS = (
    (BASELINE, "fedavg_scratch"),
    ("fedprox", BASELINE),
    ("scaffold", BASELINE),
    ("fedadam", BASELINE),
    ("head", BASELINE),
    ("fedper", BASELINE),
)
PUBLISHED = {  # CIFAR-10, 10 clients, a small CNN, 50 rounds; accuracy of the one model in %
    "iid": "FedAvg 71.32",
    "dirichlet": "FedAvg 62.47, FedProx 65.63, SCAFFOLD 68.08 (α = 0.5)",
}
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", RECIPES)], ...], cli.Items(1, distinct=True)]
Partitions = Annotated[tuple[Annotated[str, cli.OneOf("partition", PARTITIONS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, ClientsConfig, Budget):
    preset: str = ""  # smoke, cifar, cifar10: fills what is not given
    data: cli.Place = "digits"  # the clients' examples: a name (digits, cifar10, ...) or a path
    data_dir: cli.Place = ""  # where named data sets are looked for
    source: cli.Place = ""  # another data set for the source task, e.g. cifar100
    split: cli.Text = "0-4:5-9"  # source classes : classes of the clients; an empty side is all
    partitions: Partitions = tuple(PARTITIONS)  # how examples are dealt out
    methods: Methods = USUAL
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: clients choose nothing by themselves
    folds: ClassVar[int] = 5  # type: ignore[misc]
    model: Literal["cnn", "mlp", "wide_resnet", "resnet18"] = "mlp"
    widths: cli.Widths = (64,)
    source_steps: cli.Steps = 500
    steps: cli.Steps = 20  # rounds
    batch_size: cli.Count = 10  # of a client
    local_epochs: Annotated[int, cli.Within(1, 1000)] = 2
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 1
    replicates: cli.Draws = 5
    learning_rate: cli.Span = (0.02, 0.5)  # of clients

    may_change: ClassVar = (*Budget.may_change, "methods", "partitions")
    glossary: ClassVar = {name: recipe.means for name, recipe in RECIPES.items()} | PARTITIONS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "clients": 10,
            "steps": 5,
            "source_steps": 100,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
            "partitions": ("dirichlet",),
            "methods": ("fedavg_scratch", BASELINE, "fedprox", "scaffold", "fedper"),
        },
        "cifar": {
            "data": "cifar10",
            "model": "cnn",
            "widths": (16, 32, 64),
            "source_steps": 2500,
            "clients": 10,
            "steps": 20,
            "batch_size": 64,
            "local_epochs": 1,
            "chunk": 1,  # a signal is heard between rounds
            "trials": 2,
            "replicates": 2,
            "partitions": ("dirichlet",),
            "methods": ("fedavg_scratch", BASELINE, "fedprox", "scaffold", "head", "fedper"),
        },
    }
    # All ten classes, and as many rounds as the published figures are of
    presets["cifar10"] = presets["cifar"] | {"source": "cifar100", "split": ":", "steps": 50, "replicates": 1}


def notes_of(config: Config, partition: str, task: Any) -> list[str]:
    """Published figures, beside those of the same data."""
    if not task.name.startswith("cifar10") or task.name.startswith("cifar100") or partition not in PUBLISHED:
        return []
    return [
        f"Published for 10 clients on all of CIFAR-10 with another small network and 50 rounds: {PUBLISHED[partition]}."
    ]


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, config.methods)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*config.methods}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    source_data = load(config.source, config.data_dir or None, progress=StoppableProgress) if config.source else data
    report.print_data(console, source=source_data, clients=data)
    source_task, task = choose_tasks(config.split, "split", source_data, data)
    check_tasks(config, source_task, task, (), folds=False, models=config.trials * config.taking_part)
    check_clients(config, task, config.partitions)
    sources = make_sources(config, source_task, workdir / "source")
    report.print_source(console, *sources)
    page, runs = report.Page(console, config.preset), {}
    for partition in config.partitions:
        problem = Clients(config, sources, task, partition)
        axes: Axes = {"partition": problem.how}
        result = study(problem, RECIPES, workdir / partition, planned, axes, methods=config.methods)
        section, figures = clients_section(result, BASELINE, notes_of(config, partition, data))
        page.add(section, {f"clients: {problem.how}": figures})
        runs[partition] = result.runs
    origin = data.origin if data is source_data else f"{source_data.origin} → {data.origin}"
    header = cli.header("federated_transfer", config, started, data=origin, notice=task.notice)
    page.write(workdir, header, runs)


if __name__ == "__main__":
    cli.run(main, Config)
