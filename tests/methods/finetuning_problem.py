"""A few-shot problem on digits, and rows of fine-tuning run on it for two steps."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from jaxtl.data import load, source_and_target
from jaxtl.methods.finetuning import DEPTH, FEATURES, PARAMETERS, PREDICTIONS
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, make_source
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw
from jaxtl.protocol.recipes import range_of
from jaxtl.step import compile_step
from jaxtl.trees import named_leaves

ROWS = {**PARAMETERS, **FEATURES, **PREDICTIONS, **DEPTH}
DRAW = Draw(1)


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Budget):
    pass


def made(workdir, **changes):
    """A few-shot problem on digits."""
    config = Config(
        **{
            **{"widths": (8, 8), "source_steps": 30, "source_batch_size": 16, "validation": 20, "folds": 2},
            **{"steps": 4, "batch_size": 12, "trials": 2, "tuning_draws": 1, "report_draws": 2},
            **changes,
        }
    )
    data = load("digits")
    source, task = source_and_target("0-4:5-9", data, data)
    return FewShot(config, make_source(config, source, workdir), task, 4)


def setting_of(recipe, config, place):
    """A place in every range that a method searches, but for what is read by what comes before."""
    before = set(recipe.before[1].values()) if recipe.before else set()
    return {name: range_of(name, recipe, config).at(place) for name in recipe.search if name not in before}


@functools.cache
def compiled(make, problem):
    """(program, compiled step) of all rows that name the same program."""
    program = make(problem)
    return program, compile_step(program.step)


def at_start(problem, name):
    """(program, () -> state, data, given) of a row, before its first step."""
    recipe = ROWS[name]
    program, _ = compiled(recipe.program, problem)
    start = recipe.start(problem, DRAW) if recipe.start else problem.start(DRAW)
    given = {**problem.given(DRAW), **(recipe.given(problem, DRAW, start) if recipe.given else {})}

    def begin():
        return program.start(start, problem.key(DRAW, "run"))

    return program, begin, problem.data(program, start, DRAW), given


def steps(problem, name, places):
    """{place: (weights, metrics of each step)} after two steps with the settings at some places of their ranges."""
    program, begin, data, given = at_start(problem, name)
    _, step = compiled(ROWS[name].program, problem)
    ended = {}
    for place in places:
        own, told = begin(), []
        fixed = program.fixed(problem.rates(program, setting_of(ROWS[name], problem.config, place)), given)
        for _ in range(2):
            own, metrics = step(own, data, fixed)
            told.append({key: float(value) for key, value in metrics.items()})
        ended[place] = Weights(own.params, own.model_state), told
    assert step._cache_size() == 1, "changing rates compiles nothing"
    return ended


def trained(problem, name):
    """What `steps` gives at two places, held to what every row promises."""
    ended = list(steps(problem, name, (0.2, 0.8)).values())
    for weights, told in ended:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights.params))
        assert np.isfinite([list(row.values()) for row in told]).all()
        recipe = ROWS[name]
        whole = recipe.finish(problem, weights, {}, DRAW) if recipe.finish else weights
        assert named_leaves(whole.params).keys() == named_leaves(problem.moved.params).keys()
        assert np.isfinite(problem.logits(whole, problem.test_images[:5])).all()
    (one, _), (other, _) = ended
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True))
    return ended
