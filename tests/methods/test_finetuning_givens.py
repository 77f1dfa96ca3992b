"""What rows of fine-tuning are given for a draw, and what they keep: importance, relations, attention, keys, stages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finetuning_problem import DRAW, ROWS, at_start, made, setting_of, steps

from jaxtl.errors import InputError
from jaxtl.methods.finetuning import BATCH_NORMALISED, DEPTH, PARAMETERS
from jaxtl.methods.finetuning.contrast import unit, with_one
from jaxtl.methods.finetuning.prediction_recipes import KEYS
from jaxtl.methods.finetuning.source_recipes import source_logits
from jaxtl.step import compile_step
from jaxtl.trees import named_leaves


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    return made(tmp_path_factory.mktemp("mlp"), model="mlp")


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
    program, begin, data, given = at_start(mlp, "bi_tuning")
    state = begin()
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
    jax.tree.map(np.testing.assert_array_equal, slow, trunk)  # the first step follows where it started
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
