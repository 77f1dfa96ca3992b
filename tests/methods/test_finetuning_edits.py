"""What rows make of training runs, held against the runs themselves; a study with rows of every kind."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from problems import assert_close, scaled
from tables_problem import CONFIG, DRAW, ROWS, problem_of

from jaxtl.class_losses import log_prior
from jaxtl.methods.finetuning.adapter_recipes import RANK
from jaxtl.methods.finetuning.loss_recipes import counts
from jaxtl.methods.finetuning.recipes import RECIPES
from jaxtl.methods.finetuning.weight_space_recipes import MEMBER, with_statistics
from jaxtl.models.cache import votes
from jaxtl.problems.few_shot import seed_of
from jaxtl.protocol import Trainer, study, trial_settings
from jaxtl.protocol.recipes import range_of
from jaxtl.selection import heads

RATE = {"learning_rate": 0.05}


@pytest.fixture(scope="module")
def problem():
    return problem_of()


@pytest.fixture(scope="module")
def trainer(problem):
    return Trainer(problem, {**RECIPES, **ROWS})


@pytest.fixture(scope="module")
def members(trainer):
    search = {key: range_of(key, MEMBER, CONFIG) for key in MEMBER.search}
    return trainer.train_all("fine_tune", trial_settings(search, CONFIG.trials), DRAW)


def swept(trainer, name, **setting):
    (one,) = trainer.train_all(name, [setting], DRAW)
    return one.weights


def test_a_part_of_the_way_is_that_of_the_run_itself_and_the_head_stays(trainer, problem):
    whole, anchor = swept(trainer, "fine_tune", **RATE).params, problem.anchor(0)
    part = swept(trainer, "wise_ft", **RATE, alpha=0.25).params
    assert_close(part["head"], whole["head"], rtol=1e-6)
    expected = jax.tree.map(lambda a, b: a + b, scaled(0.25, whole["trunk"]), scaled(0.75, anchor["trunk"]))
    assert_close(part["trunk"], expected, rtol=1e-5)
    grown = swept(trainer, "lines", **RATE, alpha=0.25).params
    assert_close(grown["trunk"]["dense_0"], part["trunk"]["dense_0"], rtol=1e-6)  # the first block
    assert_close(grown["trunk"]["dense_1"], whole["trunk"]["dense_1"], rtol=1e-6)  # the last


def test_soups_are_made_of_a_run_for_every_learning_rate(trainer, problem, members):
    weights = [one.weights.params for one in members]
    uniform = swept(trainer, "uniform_soup").params
    assert_close(uniform, jax.tree.map(lambda *ws: np.mean(ws, axis=0), *weights), rtol=1e-5)
    greedy = members[0]._replace(weights=swept(trainer, "greedy_soup"))
    assert problem.validate(greedy, DRAW) >= max(problem.validate(one, DRAW) for one in members)
    stock, anchor = swept(trainer, "model_stock").params, problem.anchor(0)
    assert_close(stock["head"], uniform["head"], rtol=1e-5)
    for layer in ("dense_0", "dense_1"):
        moved, mean = (tree["trunk"][layer]["kernel"] - anchor["trunk"][layer]["kernel"] for tree in (stock, uniform))
        ratio = np.sum(moved * mean) / np.sum(mean * mean)
        assert 0 <= ratio <= 1
        np.testing.assert_allclose(moved, ratio * mean, atol=1e-5)


def test_adapters_change_kernels_by_a_low_rank_and_nothing_else_of_the_source(trainer, problem):
    own, anchor = swept(trainer, "lora", **RATE, **{"pull/adapter": 0.1}).params, problem.anchor(0)
    for name, layer in own["trunk"].items():
        np.testing.assert_array_equal(layer["bias"], anchor["trunk"][name]["bias"])
        change = layer["kernel"] - anchor["trunk"][name]["kernel"]
        assert 0 < np.linalg.matrix_rank(change, tol=1e-4 * np.abs(change).max()) <= RANK


def test_heads_in_closed_form_are_those_of_the_features(trainer, problem):
    start = problem.start(DRAW)
    features, labels = problem.features(start, DRAW)
    head, _ = heads.ridge(features, labels, 5, None, seed_of(CONFIG, DRAW))
    weights = swept(trainer, "ridge")
    assert_close(weights.params["head"], head, rtol=1e-6)
    assert_close(weights.params["trunk"], start.params["trunk"], rtol=0, atol=0)
    voted = swept(trainer, "tip_adapter", beta=3.0, alpha=0.5)
    images = problem.target_images[:20]
    of_images = problem.logits(voted, images) - problem.logits(weights, images)
    index = problem.examples(DRAW).seen
    own = problem.logits(voted, problem.target_images[index]) - problem.logits(weights, problem.target_images[index])
    expected = votes(features, features, 0.5 * np.eye(5)[labels], 3.0)
    np.testing.assert_allclose(own, expected, rtol=1e-3, atol=1e-4)
    assert (of_images > 0).all()


def test_a_prior_is_that_of_the_labelled_examples_of_a_draw(trainer):
    rare = problem_of(dataclasses.replace(CONFIG, imbalance=4.0), n=8)
    found = counts(rare, DRAW)
    assert (found.sum(), found[0]) == (len(rare.examples(DRAW).seen), 8)
    assert found[0] > found[-1] >= 2
    tuned = Trainer(rare, {**RECIPES, **ROWS})
    plain, adjusted = swept(tuned, "fine_tune", **RATE), swept(tuned, "posthoc_adjusted", **RATE, tau=0.5)
    shift = adjusted.params["head"]["bias"] - plain.params["head"]["bias"]
    np.testing.assert_allclose(shift, -0.5 * log_prior(found), rtol=1e-4, atol=1e-5)


def test_statistics_of_batch_normalisation_are_taken_anew_and_others_are_left():
    normal = problem_of(dataclasses.replace(CONFIG, model="cnn", widths=(4,), normalisation="batch"))
    weights = normal.start(DRAW)
    shifted = weights._replace(model_state=jax.tree.map(lambda leaf: leaf + 50, weights.model_state))
    found, again = with_statistics(normal, weights, DRAW), with_statistics(normal, shifted, DRAW)
    assert_close(found.model_state, again.model_state, rtol=5e-3, atol=5e-3)  # 50 · 0.9¹⁰⁰ is 0.001
    assert_close(found.params, weights.params, rtol=0, atol=0)
    assert any(
        np.abs(leaf - old).max() > 0.01 for leaf, old in zip(*map(jax.tree.leaves, (found, weights)), strict=True)
    )


def test_rows_of_every_kind_go_through_a_study_where_what_trains_nothing_has_no_curve(problem, tmp_path):
    names = ["ema", "greedy_soup", "tip_adapter", "ridge"]
    result = study(problem, ROWS, tmp_path, [("ema", "ridge")], methods=names)
    assert result.methods == names
    assert not any(run.diverged for run in result.runs)
    assert {run.method for run in result.runs if "curve/loss" in run.arrays} == {"ema"}
    tuning = [run.method for run in result.runs if run.stage == "tuning"]
    assert {name: tuning.count(name) for name in names} == {"ema": 3, "greedy_soup": 0, "tip_adapter": 3, "ridge": 0}
    assert all("source" in run.metrics for run in result.runs if run.stage == "report")
