"""`study`: all methods on one problem, with equal budgets and paired draws; an interrupted study goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, ClassVar

from jaxtl import bounds
from jaxtl.data import keep_to_data
from jaxtl.errors import InputError, suggest
from jaxtl.loop import raise_if_stopped
from jaxtl.protocol.compare import compare
from jaxtl.protocol.design import Draw, Selection, planned_runs, runs_that_tune
from jaxtl.protocol.recipes import Problem, Recipe, measure_of
from jaxtl.protocol.results import Axes, Result
from jaxtl.protocol.runs import RunStore, identity
from jaxtl.protocol.training import OBJECTIVE, Trainer
from jaxtl.writers import Progress


@dataclasses.dataclass(frozen=True)
class Training:
    """How every run is trained: fields of an experiment's Config."""

    steps: bounds.Steps = 150
    batch_size: bounds.Count = 50
    momentum: bounds.Share = 0.9
    chunk: bounds.Chunk = 0  # steps in one dispatch; 0: what suits the device
    seed: bounds.Seed = 0


@dataclasses.dataclass(frozen=True)
class Draws:
    """How often: fields of an experiment's Config."""

    tuning_draws: bounds.Draws = 2  # choose the settings
    report_draws: bounds.Draws = 10  # are reported

    @property
    def tuning_seeds(self) -> range:
        """Of the draws that choose."""
        return range(self.tuning_draws)

    @property
    def report_seeds(self) -> range:
        """Of the draws that are reported, none of which chooses."""
        return range(self.tuning_draws, self.tuning_draws + self.report_draws)


@dataclasses.dataclass(frozen=True)
class Budget(Draws, Training):
    """What every method is given: fields of an experiment's Config."""

    replicates: bounds.Draws = 1  # of all this, each with a source model, draws and settings of its own
    report_draws: bounds.Draws = 4  # of a replicate; with eight of them about the shortest intervals (calibration)
    trials: bounds.Trials = 8  # settings tried for every tuned method
    halving: bool = False  # each tuning draw after the first sees the better half of the settings alone
    folds: bounds.Folds = 5
    methods: bounds.Words = ()  # some of them; all when empty
    honest: bounds.Words = ()  # methods that also choose from their labelled examples alone; or all
    learning_rate: bounds.Span = (0.008, 0.25)  # ranges, searched log-uniformly
    pull: bounds.Span = (0.03, 30.0)  # λ · Σ learning rates / (1 − momentum), without unit

    may_change: ClassVar[tuple[str, ...]] = ("replicates",)  # they only add runs

    def planned_runs(self, methods: int) -> tuple[int, str]:
        """(the runs that choose, their factors in words), of so many methods if none are named."""
        methods, folds = len(self.methods or range(methods)), len(self.honest) * self.folds * self.report_draws
        draws = self.replicates * (self.tuning_draws + folds)
        what = f"{methods} methods × {self.trials} trials × {draws} draws and folds"
        tuning = runs_that_tune(self.trials, self.tuning_draws, self.halving)
        return methods * self.replicates * (tuning + self.trials * folds), what


def each_draw(seeds: Iterable[int], title: str) -> Iterator[Draw]:
    """Draws one after another, told as progress under a title; a stop that is requested ends before the next.

    Raises:
        Interrupted: a stop was requested.
    """
    seeds = list(seeds)
    with Progress(len(seeds), title) as progress:
        for seed in seeds:
            raise_if_stopped(f"before draw {seed} of {title}")
            yield Draw(seed)
            progress.advance()


def study(
    problem: Problem,
    recipes: Mapping[str, Recipe],
    workdir: Path | str,
    contrasts: Sequence[tuple[str, str]] = (),
    axes: Axes | None = None,
    *,
    methods: Sequence[str] | None = None,
    honest: Sequence[str] | None = None,
    selections: Sequence[Selection] = (),
    executor: Executor | None = None,
) -> Result:
    """Choose, report and compare all methods on one problem, as `compare` does, in every replicate of the config.

    A method is chosen as its recipe says: by the selection "tuned", "honest", "objective" (on every report draw, by
    what was minimised there, so that no example is held out for it), or one of those handed over.

    Args:
        problem: the question; its `config` has the fields of `Budget`.
        recipes: by the name of the method.
        workdir: keeps the runs; the same study with the same data goes on there.
        contrasts: pairs of methods fixed beforehand; those that are not run are left out.
        axes: what tells this result from others of the experiment.
        methods, honest: in place of those of the config.
        selections: further ways to choose; of the methods that they name, and of recipes that name them.
        executor: as for `compare`; what it is asked for are pure functions of the config and a unit.

    Returns:
        The result.

    Raises:
        InputError: what `compare` refuses, a selection that there is not, or a workdir that was begun on other data.
        Interrupted: a stop was requested; finished runs are kept.
    """
    config = problem.config
    tried = Trainer(problem, recipes).methods(config.methods if methods is None else methods)
    names = [method.name for method in tried]
    ways = _ways({name: recipes[name] for name in names}, config.honest if honest is None else honest, selections)
    tuning, reporting = config.tuning_seeds, config.report_seeds
    keep_to_data(workdir, problem.origin, *problem.content)
    store = RunStore(workdir, of=identity(config, problem.title, axes))
    planned = planned_runs(tried, config.trials, tuning, reporting, folds=config.folds, halving=config.halving, **ways)
    total = config.replicates * planned
    with Progress(total, "comparing") as progress:

        def tell(description: str) -> None:
            raise_if_stopped(f"before {description}")
            progress.describe(description)
            progress.advance(1)

        runs, verdicts = compare(
            tried,
            config.trials,
            tuning,
            reporting,
            validate=problem.validate,
            test=problem.test,
            folds=config.folds,
            contrasts=[pair for pair in contrasts if set(pair) <= set(names)],
            measure=measure_of(problem),
            replicates=config.replicates,
            halving=config.halving,
            store=store,
            progress=tell,
            executor=executor,
            **ways,
        )
    more = {name: getattr(problem, name) for name in ("truth", "own") if hasattr(problem, name)}
    return Result(problem.title, dict(axes or {}), runs, verdicts, store.arrays, measure_of(problem), **more)


def _ways(recipes: Mapping[str, Recipe], asked: Sequence[str], selections: Sequence[Selection]) -> dict[str, Any]:
    """How the methods are chosen, as arguments of `compare`."""
    by: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        by.setdefault(recipe.chosen, []).append(name)
    tuned, honest = by.pop("tuned", []), by.pop("honest", [])
    honest += [name for name in tuned if ("all" in asked or name in asked) and recipes[name].search]
    further = [Selection(OBJECTIVE, "draw", lambda trained, draw: trained.objective, ()), *selections]
    known = ["tuned", "honest", *(way.name for way in further)]
    for chosen, names in by.items():
        if chosen not in known:
            raise InputError(f"no selection '{chosen}'", where=f"recipe '{names[0]}'", todo=suggest(chosen, known))
    further = [way._replace(methods=(*(way.methods or ()), *by.get(way.name, ()))) for way in further]
    return {"tuned": tuned, "honest": honest, "selections": [way for way in further if way.methods]}
