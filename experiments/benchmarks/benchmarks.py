"""How fast is it all? Steps, freezing, sweeps, paths, tasks, clients, texts, trunks, starts, memory, images.

    make bench                                              # less than ten minutes on 2 CPU cores
    python -m experiments.benchmarks --config.preset=long   # every part by its own defaults
    python -m experiments.benchmarks --config.parts=step,machine
    python -m experiments.benchmarks.compare A/summary.json B/summary.json

The parts run alone too, each with flags of its own: `python -m experiments.benchmarks.step --help`. The figures of
summary.json have one level, so that those of two commits or two machines can be compared.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

from rich.console import Console

from experiments.benchmarks import federated, machine, multitask, selection, sequences, step, trunks
from experiments.benchmarks.results import Findings, Once, Part, keep
from jaxtl import cli

PARTS: dict[str, Any] = {
    "step": step,
    "selection": selection,
    "multitask": multitask,
    "federated": federated,
    "sequences": sequences,
    "trunks": trunks,
    "machine": machine,
}
Parts = Annotated[tuple[Annotated[str, cli.OneOf("part", PARTS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: a minute, for a look at the tables; long: the defaults of every part
    parts: Parts = tuple(PARTS)  # in this order

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {}, "long": {}}


def config_of(part: str, preset: str) -> Any:
    """The config of a part: its own quick form, unless another is asked for."""
    its_class = PARTS[part].Config
    if preset == "long":
        return its_class()
    name = preset or "quick"
    return its_class(**its_class.presets[name], preset=name)


def within(part: str) -> Part:
    """The part's measurement, its details under its name."""

    def measure(config: Any, console: Console, once: Once) -> Findings:
        found = PARTS[part].measure(config, console, once)
        return found._replace(details={part: found.details})

    return measure


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    keep("benchmarks", config, workdir, [(within(part), config_of(part, config.preset)) for part in config.parts])


if __name__ == "__main__":
    cli.run(main, Config)
