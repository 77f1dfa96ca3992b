"""Every row of the further tables of fine-tuning, trained a few steps on digits, and one study of all of them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from experiments.cifar_transfer import Config
from jaxtl import cli, report
from jaxtl.data import load, source_and_target
from jaxtl.methods.finetuning.adapter_recipes import ADAPTERS
from jaxtl.methods.finetuning.head_recipes import HEADS
from jaxtl.methods.finetuning.loss_recipes import LOSSES
from jaxtl.methods.finetuning.recipes import RECIPES
from jaxtl.methods.finetuning.weight_space_recipes import WEIGHT_SPACE
from jaxtl.models import initial_model_state, initialise
from jaxtl.problems import FewShot, Images, Source, make_model
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Trainer, study, trial_settings
from jaxtl.protocol.recipes import range_of

ROWS = {**WEIGHT_SPACE, **ADAPTERS, **LOSSES, **HEADS}
CONFIG = Config(
    data="digits",
    model="mlp",
    widths=(16, 12),
    steps=6,
    batch_size=10,
    trials=3,
    tuning_draws=1,
    report_draws=2,
    folds=2,
    validation=40,
)
DRAW = Draw(0)


def problem_of(config, n=4):
    """On a source whose weights are random: what it is worth is not asked."""
    data = load(config.data)
    source_task, task = source_and_target(config.splits[0], data, data)
    images = Images.of(source_task)
    model = make_model(config, images.shape, head=len(source_task.classes))
    weights = Weights(initialise(model, jax.random.key(0), images.shape), initial_model_state(model, images.shape))
    return FewShot(config, Source(source_task, images, weights, 0.0), task, n)


@pytest.fixture(scope="module")
def problem():
    return problem_of(CONFIG)


@pytest.fixture(scope="module")
def trainer(problem):
    return Trainer(problem, ROWS)


def settings(trainer, name):
    search = {key: range_of(key, trainer.recipes[name], CONFIG) for key in trainer.recipes[name].search}
    return trial_settings(search, CONFIG.trials)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_leaves_a_model_of_the_problem_for_every_setting(name, trainer, problem):
    tried = settings(trainer, name)
    shapes = jax.tree.map(np.shape, problem.start(DRAW).params)
    trained = trainer.train_all(name, tried, DRAW)
    assert len(trained) == len(tried)
    for one in trained:
        assert jax.tree.map(np.shape, one.weights.params) == shapes
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one.weights))
    metrics, arrays = problem.test(trained[-1], DRAW)
    assert 0 <= metrics["test"] <= 1
    assert ("source" in metrics) == ROWS[name].transfers
    assert len(arrays["prediction"]) == len(problem.task.test.labels)


def test_rows_of_every_kind_go_through_a_study_and_its_report(problem, tmp_path):
    names = ["ema", "greedy_soup", "lora", "cutmix", "tip_adapter", "ridge"]
    result = study(problem, {"fine_tune": RECIPES["fine_tune"], **ROWS}, tmp_path, methods=names)
    assert result.methods == names
    reported = [run for run in result.runs if run.stage == "report"]
    assert not any(run.diverged for run in result.runs)
    assert {run.method for run in reported if "curve/loss" in run.arrays} == {"ema", "lora", "cutmix"}
    tuning = [run.method for run in result.runs if run.stage == "tuning"]
    assert {name: tuning.count(name) for name in names} == {
        name: CONFIG.trials if ROWS[name].search else 0 for name in names
    }
    header = cli.header("cifar_transfer", CONFIG, 0.0, data=problem.origin, notice="")
    assert report.write_files(tmp_path / "report", header, [result], baseline="ema")
