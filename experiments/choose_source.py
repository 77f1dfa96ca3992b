"""Which source model to start from: do scores that need no training find it, and what does a wrong one cost?

Source models are trained on class subsets of several data sets, on wrong labels, and not at all. Each is carried to
targets with n labelled examples a class, fine-tuned, and probed by a linear head while frozen. Scores of
transferability see those labelled examples only and rank the sources beforehand: do they agree with what came out?

    python -m experiments.choose_source             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.choose_source --smoke     # digits, a few steps
    python -m experiments.choose_source --config.data=cifar10,mnist --config.source_only=cifar100,digits

Its figures are on the page `choose_source.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from jaxtl import cli, report
from jaxtl.data import keep_to_data, load
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import pulled
from jaxtl.methods.transferability.recipes import SCORES
from jaxtl.problems import FewShot, LabelledConfig, Source, SourceConfig, check_tasks, check_training, make_source
from jaxtl.problems.many_sources import RANDOM, distinct, features_of, make_tasks, start_from, untrained, view
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Draws, Recipe, RunStore, Setting, Trained, Trainer, Training, each_draw, identity
from jaxtl.report.cells import percent
from jaxtl.report.sources import Outcome, rankings_section, sources_section
from jaxtl.selection import ridge_probe
from jaxtl.terminal import Terminal

WAYS = {"test": "fine-tuned", "frozen": "frozen, with a linear head"}  # by metric: what a source turns out to be worth


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, LabelledConfig, Draws, Training):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Names = (
        "auto",
    )  # names or paths of sets that sources and targets come from; auto: CIFAR-10, else digits
    source_only: cli.Words = ("digits",)  # sets that only sources come from
    data_dir: cli.Place = ""  # where named data sets are looked for
    subsets: Annotated[int, cli.Within(0, 20)] = 4  # sources on half the classes, for each set beside all its classes
    targets: Annotated[int, cli.Within(1, 20)] = 2  # on half the classes, for each set of `data`
    n_per_class: cli.Count = 20  # labelled target examples
    model: Literal["cnn", "wide_resnet", "resnet18"] = "cnn"
    input_size: cli.Count = 8
    source_steps: cli.Steps = 500
    steps: cli.Steps = 100
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 4
    source_checkpoint: ClassVar[str] = ""  # type: ignore[misc]  # no field here: every source is trained
    learning_rates: cli.Rates = (0.02, 0.1)  # of fine-tuning; each source chooses one on each target

    may_change: ClassVar = ("report_draws",)
    glossary: ClassVar = {name: score.means for name, score in SCORES.items()} | {
        "any source": "one at random: what a score is to be better than",
        RANDOM: "a source that was not trained: fine-tuned, it is training from scratch",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": ("digits",),
            "source_only": (),
            "subsets": 9,
            "n_per_class": 5,
            "source_steps": 100,
            "steps": 30,
            "report_draws": 2,
            "validation": 100,
            "learning_rates": (0.05,),
        },
    }


def measured(
    problem: FewShot, source: Source, draw: Draw, trained: Sequence[Trained | None], settings: Sequence[Setting]
) -> list[dict[str, float]]:
    """All scores of a source by the labelled examples of a draw, and by test examples what it came to."""
    seen, right = view(problem, source, draw), problem.task.test.labels
    found = {name: score.of(seen) for name, score in SCORES.items()}
    probe = ridge_probe(seen.features, seen.labels, len(problem.task.classes))
    answers = probe.predict(features_of(problem, source, draw, problem.test_images))
    found["frozen"] = float(np.mean(answers == right))
    logits = [one and problem.logits(one.weights, problem.test_images) for one in trained]
    return [found if one is None else found | {"test": problem.measure.score(right, one)} for one in logits]


def outcome(config: Config, problem: FewShot, sources: dict[str, Source], store: RunStore) -> Outcome:
    """Every source on a target, with the learning rate that it chose on other draws by images outside every subset."""

    def begun(source: Source, problem: FewShot, draw: Draw) -> Weights:
        return start_from(problem, source, draw)

    recipes = {name: Recipe(pulled, start=functools.partial(begun, source)) for name, source in sources.items()}
    trainer, tried = Trainer(problem, recipes), [{"learning_rate": rate} for rate in config.learning_rates]
    validation = [
        [[run.validation for run in trainer.kept(store, name, tried, draw)] for name in recipes]
        for draw in each_draw(config.tuning_seeds, f"{problem.task.name}: choosing learning rates")
    ]
    chosen = {name: tried[k] for name, k in zip(recipes, np.mean(validation, axis=0).argmax(axis=1), strict=True)}
    runs = []
    for draw in each_draw(config.report_seeds, f"{problem.task.name}: {len(sources)} sources"):
        how = {name: functools.partial(measured, problem, source, draw) for name, source in sources.items()}
        kept = [trainer.kept(store, name, [chosen[name]], draw, stage="report", measure=how[name]) for name in recipes]
        runs.append([run for (run,) in kept])
    return Outcome(problem.task.name, runs)


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_training(config)
    where = config.data_dir or None
    loaded = [load(name, where, progress=StoppableProgress) for name in (*config.data, *config.source_only)]
    sets = distinct(loaded)
    both = len(distinct(loaded[: len(config.data)]))
    report.print_data(console, **{data.name: data for data in sets})
    count = (len(sets) * (1 + config.subsets) + both + 1) * both * config.targets
    each = config.tuning_draws * len(config.learning_rates) + config.report_draws
    what = f"{count:,} pairs of source and target × {each} trainings"
    cli.refuse_too_many_runs(count * each, what, where="--config.subsets")
    tasks = make_tasks(sets, both, config.subsets, config.targets, config.seed)
    for target in tasks.targets.values():
        for data in sets:
            check_tasks(config, data, target, [config.n_per_class], folds=False, models=len(config.learning_rates))
    keep_to_data(workdir, "; ".join(data.origin for data in sets), *(part for data in sets for part in data.content))
    rooms = {name: workdir / "sources" / cli.directory_of(name) for name in tasks.sources}
    sources = {name: make_source(config, task, rooms[name]) for name, task in tasks.sources.items()}
    sources[RANDOM] = untrained(config, tasks.sources[sets[0].name])
    outcomes = []
    for name, target in tasks.targets.items():
        problem = FewShot(config, untrained(config, target), target, config.n_per_class)
        report.print_target(console, problem)
        store = RunStore(workdir / "targets" / cli.directory_of(name), of=identity(config, name))
        outcomes.append(outcome(config, problem, sources, store))
    described = {
        name: [f"{len(source.task.train):,}", str(len(source.task.classes)), percent([source.accuracy])]
        for name, source in sources.items()
    }
    page, scratch = report.Page(console, config.preset), list(sources).index(RANDOM)
    page.add(*rankings_section(outcomes, WAYS, list(SCORES), scratch))
    page.add(*sources_section(outcomes, described, WAYS, scratch))
    origin, notice = ("; ".join(data.origin for data in sets), report.together(*(data.notice for data in sets)))
    page.write(workdir, cli.header("choose_source", config, started, data=origin, notice=notice))


if __name__ == "__main__":
    cli.run(main, Config)
