"""Is `jaxtl finetune` as good as what people do today, within the same minutes of one core?

Six small sets, the same labelled pictures, pixels and ImageNet weights (EfficientNet-Lite0, 96 pixels) for all:
`tl.finetune` as it is; logistic regression of scikit-learn on frozen features; and two ways of fine-tuning in PyTorch,
timm's recipe and that of Keras' guide, as many epochs of them as fit. Each rival is a process of its own, kept to one
core, which is never told what the test pictures show; it is scored by its one answer to each of them.

    python -m experiments.benchmarks.practice --config.data_dir=DIRECTORY
    python -m experiments.benchmarks.practice --smoke                         # embedded digits, random networks

DIRECTORY holds cifar10.npz, cifar100_subset.npz, digits.npz and medical.npz; sets whose file is not there are left out.
Every rival's run is kept when it ends, and the same command goes on after the last. Recipes are in `practice_torch`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from rich.console import Console

from experiments.benchmarks.practice_data import MAIN, SETS, hand_over, is_there, task_of
from experiments.benchmarks.practice_tables import FROZEN, WORDS, Judged, judged, section
from experiments.benchmarks.results import Findings, Once, is_here, keep
from experiments.benchmarks.workers import ONE_THREAD, Worker
from jaxtl import cli
from jaxtl.checkpoints import load_weights
from jaxtl.errors import InputError
from jaxtl.files import default_directory
from jaxtl.loop import raise_if_stopped
from jaxtl.models.pretrained import TRUNKS
from jaxtl.models.torch_names import ARCHITECTURES
from jaxtl.report import Section
from jaxtl.wheels import verified
from jaxtl.writers import Progress

MODULES = {name: "practice_torch" if name in ("timm", "keras") else "practice_jax" for name in WORDS}
PRETRAINED = "efficientnet_lite0"
NOTES = [
    "CIFAR-10, last five: dog, frog, horse, ship, truck. n: labelled pictures of a class, or all of a smaller one.",
    "Score: share of the test pictures that are right, or its mean over classes where a set has many more of one than "
    "of another. Its interval is Wilson's, that of a difference paired by picture (Agresti and Min).",
    "Intervals cover which pictures are tested, given what was learned from: other labelled pictures would move every "
    "score, and rather alike. They are not corrected for the number of rivals.",
    "Best: no score is higher. Behind: a rival is ahead by an interval without 0. Level: neither; how much an interval "
    "leaves open is its width. On the frozen trunk jaxtl is held against the best of three heads, known afterwards.",
    "Seconds: from the weights and the pictures to a model, on one core; answering the test pictures is not counted. "
    "Heads on frozen features take what they take, and are the same in every budget.",
    "AutoGluon is no rival here: 1.5 asks for other versions of PyTorch (below 2.10) and scikit-learn (below 1.8), "
    "gigabytes, and fetches trunks of its own.",
]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: a minute, for a look at the tables
    data_dir: cli.Place = ""  # where the files of the sets lie; by default where named data sets do
    sets: Annotated[tuple[Annotated[str, cli.OneOf("set", SETS)], ...], cli.Items(1, distinct=True)] = MAIN
    rivals: Annotated[tuple[Annotated[str, cli.OneOf("rival", WORDS)], ...], cli.Items(1, distinct=True)] = tuple(WORDS)
    budgets: cli.Counts = (120, 600)  # seconds of one core
    longer: Annotated[tuple[Annotated[str, cli.OneOf("set", SETS)], ...], cli.Items(0)] = MAIN  # not the first only
    seeds: Annotated[tuple[cli.Seed, ...], cli.Items(1, distinct=True)] = (0,)  # each draws other labelled pictures
    # small_cnn: random weights, and PyTorch's rivals learn from nothing as well: a check of the machinery
    trunk: Literal["efficientnet_lite0", "small_cnn"] = "efficientnet_lite0"
    size: Annotated[int, cli.Within(16, 512)] = 96  # pixels of the edge
    tested: cli.Count = 2000  # test pictures of a set, at most

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"sets": ("digits",), "longer": (), "budgets": (5,), "trunk": "small_cnn", "size": 32, "tested": 100}
    }


def directory(config: Config) -> str:
    return config.data_dir or str(default_directory())


def within(config: Config, budget: int, names: list[str]) -> list[str]:
    """The sets that are learned within a budget."""
    return [name for name in names if budget == config.budgets[0] or name in config.longer]


def asked_of(config: Config, names: list[str], rivals: list[str]) -> Iterator[tuple[str, int, int, str]]:
    """(set, seed, budget, rival), the shortest budget of all sets first; heads on frozen features once for all."""
    for budget in config.budgets:
        for name in within(config, budget, names):
            for seed in config.seeds:
                for rival in rivals:
                    yield name, seed, config.budgets[0] if rival in FROZEN else budget, rival


def pretrained() -> dict[str, np.ndarray]:
    """The weights that all share, by their names, in the order of their file."""
    return dict(load_weights(verified(TRUNKS[PRETRAINED].source, Progress)))


def measured(config: Config, console: Console, once: Once, names: list[str], rivals: list[str]) -> dict[Any, Any]:
    """{(set, seed, budget, rival): what its process said}; what was said before is not asked again."""
    weights = pretrained() if config.trunk == PRETRAINED else {}
    architecture, found = ARCHITECTURES[PRETRAINED], dict[Any, Any]()
    with tempfile.TemporaryDirectory() as room:

        def run(name: str, seed: int, budget: int, rival: str) -> Any:
            small, file = SETS[name], Path(room, f"{name}-{seed}.npz")
            if not file.exists():
                task = task_of(small, directory(config), config.tested, seed)
                inputs = architecture.mean[0], architecture.std[0]
                hand_over(task, small, config.size, config.trunk, weights, inputs, file)
            raise_if_stopped(f"before {WORDS[rival]} on {small.title}")
            with Worker(MODULES[rival], str(file), environment=ONE_THREAD) as worker:
                said = worker.ask("learn", rival=rival, budget=budget, seed=seed)
            console.print(f"{small.title}, {budget} s, {WORDS[rival]}: {said['seconds']:.0f} s, {said['told']}")
            return said

        for key in asked_of(config, names, rivals):
            found[key] = once("-".join(map(str, key)), partial(run, *key))
    return found


def measure(config: Config, console: Console, once: Once) -> Findings:
    names = [name for name in config.sets if is_there(SETS[name], directory(config))]
    absent = [f"{SETS[name].title} ({SETS[name].file})" for name in config.sets if name not in names]
    left_out = [f"Left out, since not in {directory(config)}: {', '.join(absent)}"] if absent else []
    rivals = [name for name in config.rivals if MODULES[name] != "practice_torch" or is_here("torch")]
    if len(rivals) < len(config.rivals):
        left_out.append("PyTorch is not installed here: no comparison with it")
    for line in left_out:
        console.print(line, soft_wrap=True)
    found, tables = measured(config, console, once, names, rivals), list[Section]()
    numbers, details = dict[str, float](), dict[str, Any]()
    for budget in config.budgets:
        chosen = within(config, budget, names)
        together = [result(config, name, budget, rivals, found) for name in chosen]
        tables += [section(budget, together)] if chosen else []
        for name, one in zip(chosen, together, strict=True):
            for rival, share in one.scores.items():
                numbers[f"practice/{budget}/{name}/{rival}/score"] = share.value
                numbers[f"practice/{budget}/{name}/{rival}/seconds"] = one.rows[rival]["seconds"]
            details[f"{budget}/{name}"] = {"verdict": one.verdict, "scores": one.scores, "apart": one.apart}
    taken = sum(said["seconds"] for said in found.values()) / 60
    spent = f"All that is shown took {taken:.0f} minutes of learning; Minutes, above, are those of the last call alone."
    about = Section("How it is measured", [], [*left_out, *NOTES, spent])
    return Findings([*tables, about], numbers, {"practice": details})


def result(config: Config, name: str, budget: int, rivals: list[str], found: dict[Any, Any]) -> Judged:
    """A set within a budget, over all seeds."""
    small = SETS[name]
    truth = task_of(small, directory(config), config.tested, config.seeds[0]).truth
    said = {
        rival: [found[name, seed, config.budgets[0] if rival in FROZEN else budget, rival] for seed in config.seeds]
        for rival in rivals
    }
    return judged(small.title, small.asked.name, truth, said, small.measure != "accuracy")


def main(config: Config, workdir: Path) -> None:
    check(config)
    keep("benchmarks.practice", config, workdir, [(measure, config)], "small sets, see each")


def check(config: Config) -> None:
    cli.check(config)
    if not any(is_there(SETS[name], directory(config)) for name in config.sets):
        todo = "give the directory of their files: --config.data_dir=..."
        raise InputError("none of the sets is there", where=directory(config), todo=todo)


if __name__ == "__main__":
    cli.run(main, Config)
