"""Recipes carried out on a problem: one run with its curve, or all settings of a draw in one sweep."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxtl.errors import InputError, NotFinite, suggest
from jaxtl.loop import raise_if_stopped
from jaxtl.program import Program, Weights
from jaxtl.protocol.design import Draw, Method, Range, Setting, trial_settings
from jaxtl.protocol.recipes import Problem, Recipe, Trained, measure_of, range_of
from jaxtl.protocol.runs import Run, RunStore
from jaxtl.sweep import Ended, objective, run, run_all

OBJECTIVE = "objective"  # the selection by what was minimised
MOST_KEPT = 2**28  # bytes of weights that several recipes go on from


class Trainer:
    """A problem with the recipes that are tried on it; every program of theirs is made once.

    Args:
        problem: the question.
        recipes: by the name of the method.
    """

    def __init__(self, problem: Problem, recipes: Mapping[str, Recipe]):
        self.problem, self.recipes = problem, recipes
        self._programs: dict[Callable, Program] = {}
        self._begun: collections.OrderedDict[tuple, list[Trained | None]] = collections.OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was made here: a process that it is sent to makes programs of its own."""
        return {**vars(self), "_programs": {}, "_begun": collections.OrderedDict()}

    def methods(self, names: Sequence[str] = ()) -> list[Method]:
        """Some of the recipes as `compare` takes them, all of them when none is named.

        Raises:
            InputError: a name that is no recipe's, a search without a range.
        """
        return [self._method(name) for name in names or self.recipes]

    def program(self, make: Callable[[Any], Program]) -> Program:
        """The program that a recipe names."""
        if make not in self._programs:
            self._programs[make] = make(self.problem)
        return self._programs[make]

    def train(self, name: str, setting: Setting, draw: Draw) -> Trained:
        """One setting on a draw, with a curve.

        Raises:
            NotFinite: it diverged.
        """

        def one(program, starts, data, rates, rng, given, ends):
            def point(weights):
                return self.problem.point(ends[0](weights), draw)

            steps = self._steps(program)
            how = {"steps": steps, "chunk": config.chunk, "points": self.problem.points, "given": given}
            return [run(program, starts[0], data, rates[0], rng, evaluate=point, **how)]

        config = self.problem.config
        (trained,) = self._train(one, name, self.recipes[name], [setting], draw)
        if trained is None:  # `run` raises by itself
            raise NotFinite("every run that would be combined has diverged")
        return trained

    def train_all(self, name: str, settings: Sequence[Setting], draw: Draw) -> list[Trained | None]:
        """All settings on a draw, in one sweep; None for those that diverged."""
        return self._train(self._every, name, self.recipes[name], settings, draw)

    def kept(
        self,
        store: RunStore,
        name: str,
        settings: Sequence[Setting],
        draw: Draw,
        *,
        stage: str = "tuning",
        measure: Callable[[Sequence[Trained | None], Sequence[Setting]], list[dict[str, float]]] | None = None,
    ) -> list[Run]:
        """A run for every setting on a draw, from the store or from one sweep; for maps, which choose nothing.

        Args:
            store: keeps them.
            name: of the method.
            settings: what is tried, by trial.
            draw: on what.
            stage: what the runs are for.
            measure: (trained, settings) -> metrics of each beside the validation score.

        Returns:
            In the order of the settings; `Measure.failed` for one that diverged.
        """
        plans = [
            Run(name, stage, "", draw.seed, draw.fold, k, dict(setting), replicate=draw.replicate)
            for k, setting in enumerate(settings)
        ]
        missing = [plan for plan in plans if store.find(plan) is None]
        if missing:
            raise_if_stopped(f"before {name} on draw {draw.seed}")
            tried = [plan.setting for plan in missing]
            began = time.perf_counter()
            trained = self.train_all(name, tried, draw)
            seconds = (time.perf_counter() - began) / len(tried)
            measured = measure(trained, tried) if measure else [{}] * len(tried)
            for plan, one, metrics in zip(missing, trained, measured, strict=True):
                run = dataclasses.replace(plan, seconds=seconds, metrics=metrics)
                if one is None:
                    metrics = metrics | {"test": measure_of(self.problem).failed}
                    run = dataclasses.replace(run, validation=-math.inf, metrics=metrics, diverged=True)
                else:
                    run = dataclasses.replace(run, validation=self.problem.validate(one, draw))
                store.add(run, {})
        return [found for plan in plans if (found := store.find(plan))]

    def _method(self, name: str) -> Method:
        if name not in self.recipes:
            todo = suggest(name, self.recipes)
            raise InputError(f"no method '{name}'", where="--config.methods", todo=todo)
        recipe = self.recipes[name]
        train, train_all = functools.partial(self.train, name), functools.partial(self.train_all, name)
        return Method(name, self._search(recipe), train, train_all, recipe.trials)

    def _search(self, recipe: Recipe) -> dict[str, Range]:
        return {key: range_of(key, recipe, self.problem.config) for key in recipe.search}

    def _every(self, program, starts, data, rates, rng, given, ends) -> list[Ended | None]:
        chunk = self.problem.config.chunk
        return run_all(program, starts, data, rates, rng, steps=self._steps(program), chunk=chunk, given=given)

    def _steps(self, program: Program) -> int:
        """Of a run of it."""
        return program.steps or self.problem.config.steps

    def _train(
        self, how: Callable[..., list[Ended | None]], name: str, recipe: Recipe, settings: Sequence[Setting], draw: Draw
    ) -> list[Trained | None]:
        problem = self.problem
        start = self._start(name, recipe, draw)
        if start is None:
            return [None] * len(settings)
        starts, before = self._starts(how, name, recipe, start, settings, draw)
        alive = {k: one for k, one in enumerate(starts) if one is not None}
        trained: list[Trained | None] = [None] * len(settings)

        def finished(weights: Weights, k: int) -> Weights:
            return recipe.finish(problem, weights, settings[k], draw) if recipe.finish else weights

        if recipe.program is None or not alive:
            for k, begun in alive.items():
                trained[k] = Trained(name, recipe, finished(begun, k), {}, [])
            return trained
        program, elsewhere = self.program(recipe.program), before | {*recipe.after}
        own = [{key: value for key, value in settings[k].items() if key not in elsewhere} for k in alive]
        rates = [problem.rates(program, setting) for setting in own]
        given = {**(problem.given(draw) if hasattr(problem, "given") else {})}
        given |= recipe.given(problem, draw, start) if recipe.given else {}
        data, rng = problem.data(program, start, draw), problem.key(draw, "run")
        ends = [functools.partial(finished, k=k) for k in alive]
        ended = how(program, [*alive.values()], data, rates, rng, given, ends)
        for k, one, rate in zip(alive, ended, rates, strict=True):
            if one is not None:
                learned = recipe.learned(problem, one.weights, draw) if recipe.learned else {}
                reached = self._reached(recipe, program, one.weights, data, rate, rng, given)
                trained[k] = Trained(name, recipe, finished(one.weights, k), rate, one.curve, learned, reached)
        return trained

    def _reached(self, recipe: Recipe, program: Program, weights: Weights, data, rate, rng, given) -> float:
        """Minus what a run minimises, where it ended, if its recipe is chosen so."""
        if recipe.chosen != OBJECTIVE:
            return math.nan
        return -objective(program, weights, data, rate, rng, steps=self._steps(program), given=given)

    def _start(self, name: str, recipe: Recipe, draw: Draw) -> Weights | None:
        """Where a recipe starts, before what comes before it; None where all that it is made of has diverged."""
        if recipe.combine is None:
            return recipe.start(self.problem, draw) if recipe.start else self.problem.start(draw)
        member, combine = recipe.combine
        settings = trial_settings(self._search(member), self.problem.config.trials, draw.replicate)
        runs = [one for one in self._train(self._every, name, member, settings, draw) if one is not None]
        return combine(self.problem, runs, draw) if runs else None

    def _starts(
        self, how: Callable, name: str, recipe: Recipe, start: Weights, settings: Sequence[Setting], draw: Draw
    ) -> tuple[list[Weights | None], set[str]]:
        """Where every setting starts, None where what comes before has diverged; and the names that were read there."""
        if recipe.before is None:
            return [start] * len(settings), set()
        first, names = recipe.before
        asked = [{there: setting[here] for there, here in names.items()} for setting in settings]
        begun = self._trained_before(how, name, first, asked, draw)
        read = {here for there, here in names.items() if there != here}
        return [None if one is None else one.weights for one in begun], read

    def _trained_before(
        self, how: Callable, name: str, first: Recipe, asked: Sequence[Setting], draw: Draw
    ) -> list[Trained | None]:
        """What comes before a recipe; trained once for all recipes that go on from it, as long as it can be kept."""
        settings = tuple(tuple(sorted(setting.items())) for setting in asked)
        key = (id(first), how == self._every, draw, settings)
        if key not in self._begun:
            self._begun[key] = self._train(how, name, first, asked, draw)
        self._begun.move_to_end(key)
        found = self._begun[key]
        while len(self._begun) > 1 and sum(map(_bytes, self._begun.values())) > MOST_KEPT:
            self._begun.popitem(last=False)
        return found


def _bytes(trained: Sequence[Trained | None]) -> int:
    """Of weights."""
    return sum(leaf.nbytes for one in trained if one is not None for leaf in jax.tree.leaves(one.weights))
