"""Every further row of fine-tuning on digits: finite, from where it should start, one program for all rates."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.data import load, source_and_target
from jaxtl.errors import InputError
from jaxtl.labels import TRANSFERRED
from jaxtl.methods.finetuning import BATCH_NORMALISED, DEPTH, FEATURES, PARAMETERS, PREDICTIONS
from jaxtl.methods.finetuning.contrast import unit, with_one
from jaxtl.methods.finetuning.prediction_recipes import KEYS
from jaxtl.methods.finetuning.source_recipes import OLD_HEAD, source_logits
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, make_source
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw, Trainer, study
from jaxtl.protocol.recipes import range_of
from jaxtl.step import compile_step
from jaxtl.trees import named_leaves

ROWS = {**PARAMETERS, **FEATURES, **PREDICTIONS, **DEPTH}
TOWARDS_THE_SOURCE = ("l1_sp", "group_lasso_sp", "ewc", "l2_init", "recadam")
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


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mlp"), model="mlp")


def setting_of(recipe, config, place):
    """A place in every range that a method searches, but for what is read by what comes before."""
    before = set(recipe.before[1].values()) if recipe.before else set()
    return {name: range_of(name, recipe, config).at(place) for name in recipe.search if name not in before}


def at_start(problem, name, rows=ROWS):
    """(program, state, data, given) of a row, before its first step."""
    recipe = rows[name]
    program = recipe.program(problem)
    start = recipe.start(problem, DRAW) if recipe.start else problem.start(DRAW)
    given = {**problem.given(DRAW), **(recipe.given(problem, DRAW, start) if recipe.given else {})}
    state = program.start(start, problem.key(DRAW, "run"))
    return program, state, problem.data(program, start, DRAW), given


def steps(problem, name, places, rows=ROWS):
    """{place: (weights, metrics of each step)} after two steps with the settings at some places of their ranges."""
    program, state, data, given = at_start(problem, name, rows)
    compiled, ended = compile_step(program.step), {}
    for place in places:
        own, told = jax.tree.map(jnp.copy, state), []
        fixed = program.fixed(problem.rates(program, setting_of(rows[name], problem.config, place)), given)
        for _ in range(2):
            own, metrics = compiled(own, data, fixed)
            told.append({key: float(value) for key, value in metrics.items()})
        ended[place] = Weights(own.params, own.model_state), told
    assert compiled._cache_size() == 1, "changing rates compiles nothing"
    return ended


@pytest.mark.parametrize("name", ROWS)
def test_every_row_trains_reads_its_setting_and_compiles_once(mlp, name):
    ended = steps(mlp, name, (0.2, 0.8))
    for weights, told in ended.values():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights.params))
        assert np.isfinite([list(row.values()) for row in told]).all()
        recipe = ROWS[name]
        whole = recipe.finish(mlp, weights, {}, DRAW) if recipe.finish else weights
        assert named_leaves(whole.params).keys() == named_leaves(mlp.moved.params).keys()
        assert np.isfinite(mlp.logits(whole, mlp.test_images[:5])).all()
        for kind in ("delta", "lwf"):  # the source is where it starts
            if kind in told[0]:
                assert abs(told[0][kind]) < 1e-6 < told[1][kind]
        if name in TOWARDS_THE_SOURCE:
            assert told[0][f"penalty/{TRANSFERRED}/source"] == 0.0 < told[1][f"penalty/{TRANSFERRED}/source"]
    (one, _), (other, _) = ended.values()
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True))


def test_ends_of_ranges_are_ordered_and_every_row_says_what_it_does():
    for recipe in {**ROWS, **BATCH_NORMALISED}.values():
        assert recipe.means
        assert set(recipe.ranges) <= set(recipe.search)


def test_importance_is_of_the_trunk_with_mean_1(mlp):
    given = ROWS["ewc"].given(mlp, DRAW, mlp.start(DRAW))["importance"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(given["head"]))
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(given["trunk"])])
    assert values.min() >= 0
    assert values.mean() == pytest.approx(1.0, rel=1e-5)
    again = ROWS["ewc"].given(mlp, DRAW, mlp.start(DRAW))["importance"]
    jax.tree.map(np.testing.assert_array_equal, given, again)


def test_relations_of_classes_are_probabilities_and_attention_sums_to_1(mlp):
    start = mlp.start(DRAW)
    for name in ("co_tuning", "co_tuning_reverse"):
        relation = ROWS[name].given(mlp, DRAW, start)["relation"]
        assert relation.shape == (5, 5)
        np.testing.assert_allclose(relation.sum(axis=1), 1.0, rtol=1e-5)
    attention = ROWS["delta_attention"].given(mlp, DRAW, start)["attention"]
    assert {name: leaf.shape for name, leaf in attention.items()} == {"dense_0": (8,), "dense_1": (8,)}
    for leaf in attention.values():
        assert leaf.sum() == pytest.approx(1.0, rel=1e-5)
        assert np.ptp(leaf) > 0


def test_the_source_says_of_target_images_what_it_says_of_its_own(mlp):
    source, images = mlp.source, mlp.source_test_images[:7]
    features = np.asarray(images, np.float32).reshape(7, -1)
    features = (features - np.repeat(mlp.images.mean, 64)) / np.repeat(mlp.images.std, 64)
    for name in ("dense_0", "dense_1"):
        layer = source.weights.params["trunk"][name]
        features = np.maximum(features @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    head = source.weights.params["head"]
    expected = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(source_logits(mlp, DRAW, images), expected, rtol=1e-4, atol=1e-4)


def test_keys_of_a_batch_go_into_the_queue_after_it_was_read_and_the_encoder_follows(mlp):
    program, state, data, given = at_start(mlp, "bi_tuning")
    before = jax.tree.map(np.asarray, state.model_state[KEYS])
    rates = mlp.rates(program, setting_of(ROWS["bi_tuning"], mlp.config, 0.5))
    after, _ = compile_step(program.step)(state, data, program.fixed(rates, given))
    queue = after.model_state[KEYS]["queue"]
    assert int(queue.counts.sum()) == 12
    assert not before["queue"].counts.any()
    filled = np.linalg.norm(queue.features, axis=-1) > 0
    assert filled.sum() == 12
    np.testing.assert_allclose(np.linalg.norm(queue.projected[filled], axis=-1), 1.0, rtol=1e-5)
    slow, trunk = after.model_state[KEYS]["encoder"]["trunk"], before["encoder"]["trunk"]
    jax.tree.map(np.testing.assert_allclose, slow, trunk)  # the first step follows where it started
    assert unit(with_one(jnp.zeros((1, 2)))).tolist() == [[0.0, 0.0, 1.0]]


def test_stages_begin_to_move_one_after_another_and_slower_ones_move_less(mlp):
    start = mlp.start(DRAW)
    (weights, _) = steps(mlp, "gradual_unfreezing", (0.5,))[0.5]  # of four steps: the last but one begins at the second
    moved = {
        name: np.any(np.asarray(leaf) != named_leaves(start.params)[name])
        for name, leaf in named_leaves(weights.params).items()
    }
    assert {name.rpartition("/")[0]: is_moved for name, is_moved in moved.items()} == {
        "head": True,
        "trunk/dense_0": False,
        "trunk/dense_1": True,
    }
    program = DEPTH["layer_decay"].program(mlp)
    rates = mlp.rates(program, {"learning_rate": 0.1, "layer_decay": 0.5})
    assert rates == {"learning_rate/depth:0": 0.025, "learning_rate/depth:1": 0.05, "learning_rate/depth:2": 0.1}
    with pytest.raises(InputError, match="no rate follows from 'layer_decay'"):
        mlp.rates(PARAMETERS["l1_sp"].program(mlp), {"learning_rate": 0.1, "layer_decay": 0.5})


def test_stochastic_normalisation_is_refused_without_batch_normalisation(mlp):
    with pytest.raises(InputError, match="stochnorm: the model has none normalisation"):
        BATCH_NORMALISED["stochnorm"].program(mlp)


@pytest.mark.slow
@pytest.mark.parametrize("normalisation", ["group", "batch"])
def test_all_rows_are_compared_by_one_protocol_on_a_cnn(normalisation, tmp_path):
    problem = made(tmp_path / "source", widths=(4, 8), normalisation=normalisation)
    rows = {**ROWS, **(BATCH_NORMALISED if normalisation == "batch" else {})}
    result = study(problem, rows, tmp_path / "runs")
    tested = {run.method: run.metrics["test"] for run in result.runs if run.stage == "report"}
    assert tested.keys() == rows.keys()
    assert np.isfinite(list(tested.values())).all()
    trainer, setting = Trainer(problem, rows), {"learning_rate": 0.05, "lwf_weight": 1.0, "head_learning_rate": 0.05}
    (together,), alone = trainer.train_all("lwf", [setting], DRAW), trainer.train("lwf", setting, DRAW)
    assert OLD_HEAD not in alone.weights.params
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), together.weights.params, alone.weights.params
    )
