"""Every further row of fine-tuning, for a few steps on digits: finite, from where it should start, one program."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import load, source_and_target
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning import BATCH_NORMALISED, DEPTH, FEATURES, PARAMETERS, PREDICTIONS
from jaxtl.methods.finetuning.parameter_recipes import importance, mars
from jaxtl.methods.finetuning.prediction_recipes import direct, reverse
from jaxtl.methods.finetuning.source_recipes import OLD_HEAD
from jaxtl.penalties import rate_at
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, make_source
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw, Trainer
from jaxtl.protocol.recipes import range_of
from jaxtl.step import program_of
from jaxtl.trees import named_leaves

ROWS = {**PARAMETERS, **FEATURES, **PREDICTIONS, **DEPTH}
NORMALISED = {**ROWS, **BATCH_NORMALISED}  # of a model with batch normalisation
STEPS = 4


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Budget):
    pass


def made(workdir, **changes):
    """A few-shot problem on digits."""
    config = Config(
        **{
            **{"widths": (4, 8), "source_steps": 30, "source_batch_size": 16, "validation": 20, "folds": 2},
            **{"steps": STEPS, "batch_size": 12, "trials": 2, "tuning_draws": 1, "report_draws": 2},
            **changes,
        }
    )
    data = load("digits")
    source, task = source_and_target("0-4:5-9", data, data)
    task = dataclasses.replace(task, test=task.test[:100])
    return FewShot(config, make_source(config, source, workdir), task, 4)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    return made(tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mlp"), model="mlp")


@pytest.fixture(scope="module")
def batch_normalised(tmp_path_factory):
    return made(tmp_path_factory.mktemp("batch"), normalisation="batch")


def middle(recipe, config):
    """The middle of every range that a method searches."""
    return {name: range_of(name, recipe, config).at(0.5) for name in recipe.search}


def at_start(problem, name, draw=Draw(1), rows=ROWS):
    """(program, state, data, fixed) of a row, before its first step."""
    recipe, config = rows[name], problem.config
    program = recipe.program(problem)
    start = recipe.start(problem, draw) if recipe.start else problem.start(draw)
    before = recipe.before[1].values() if recipe.before else ()
    setting = {key: value for key, value in middle(recipe, config).items() if key == "learning_rate" or key not in before}
    given = {**problem.given(draw), **(recipe.given(problem, draw, start) if recipe.given else {})}
    fixed = program.fixed(problem.rates(program, setting), given)
    return program, program.start(start, problem.key(draw, "run")), problem.data(program, start, draw), fixed


def check(problem, name, rows):
    """Trains a row in a sweep and by itself, and holds both to what every row promises."""
    trainer, recipe, draw = Trainer(problem, rows), rows[name], Draw(1)
    setting = middle(recipe, problem.config)
    other = {key: range_of(key, recipe, problem.config).at(0.2) for key in recipe.search}
    both = trainer.train_all(name, [setting, other], draw)
    one = trainer.train(name, setting, draw)
    for trained in (*both, one):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.weights.params))
        assert named_leaves(trained.weights.params).keys() == named_leaves(problem.moved.params).keys()
    metrics, arrays = problem.test(one, draw)
    assert 0 <= metrics["test"] <= 1
    assert np.isfinite(arrays["curve/loss"]).all()
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (both[0].weights, both[1].weights)), strict=True)]
    assert any(moved), "the setting is read"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), both[0].weights.params, one.weights.params)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains_a_cnn(cnn, name):
    check(cnn, name, ROWS)
