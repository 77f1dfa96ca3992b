"""Every row of the further tables of fine-tuning, trained a few steps on digits."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from tables_problem import CONFIG, DRAW, ROWS, problem_of

from jaxtl.protocol import Trainer, trial_settings
from jaxtl.protocol.recipes import range_of


@pytest.fixture(scope="module")
def trainer():
    return Trainer(problem_of(), ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_leaves_a_model_of_the_problem_for_every_setting(name, trainer):
    problem, recipe = trainer.problem, ROWS[name]
    tried = trial_settings({key: range_of(key, recipe, CONFIG) for key in recipe.search}, CONFIG.trials)
    trained = trainer.train_all(name, tried, DRAW)
    assert len(trained) == len(tried)
    shapes = jax.tree.map(np.shape, problem.start(DRAW).params)
    for one in trained:
        assert jax.tree.map(np.shape, one.weights.params) == shapes
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one.weights))
    metrics, arrays = problem.test(trained[-1], DRAW)
    assert 0 <= metrics["test"] <= 1
    assert ("source" in metrics) == recipe.transfers
    assert len(arrays["prediction"]) == len(problem.task.test.labels)
    assert recipe.means
