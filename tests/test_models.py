"""Pooling, parameter names, normalisation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import InputError
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initialise, max_pool, mean_pool
from jaxtl.step import Context
from jaxtl.trees import named_leaves


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (2, 3)])
def test_pooling_is_the_windowed_one(height, width):
    images = jax.random.normal(jax.random.key(0), (3, height, width, 5))
    np.testing.assert_array_equal(max_pool(images), nn.max_pool(images, (2, 2), (2, 2)))
    np.testing.assert_allclose(mean_pool(images), nn.avg_pool(images, (2, 2), (2, 2)), rtol=1e-6)


def test_the_gradient_of_max_pool_is_the_windowed_one_without_ties():
    images = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
    weights = jax.random.normal(jax.random.key(1), (2, 3, 3, 3))
    ours = jax.grad(lambda x: jnp.sum(max_pool(x) * weights))(images)
    theirs = jax.grad(lambda x: jnp.sum(nn.max_pool(x, (2, 2), (2, 2)) * weights))(images)
    np.testing.assert_array_equal(ours, theirs)


def test_an_image_smaller_than_a_block_is_refused():
    with pytest.raises(InputError, match="1×4 are smaller than a 2×2 block"):
        max_pool(jnp.zeros((1, 1, 4, 1)))


def test_trunk_and_heads_are_separate_subtrees_with_the_same_names_everywhere():
    for trunk in (Mlp((7, 6)), Cnn((4, 6))):
        small = initialise(Classifier(trunk, (("head", 5),)), jax.random.key(0), (8, 8, 1))
        joint = initialise(Classifier(trunk, (("head", 5), ("source_head", 3))), jax.random.key(0), (8, 8, 1))
        assert set(small) == {"trunk", "head"}
        assert set(joint) == {"trunk", "head", "source_head"}
        assert jax.tree.map(jnp.shape, small["trunk"]) == jax.tree.map(jnp.shape, joint["trunk"])
        assert joint["source_head"]["kernel"].shape == (6, 3)


def test_without_normalisation_convolutions_have_biases_instead():
    with_norm = named_leaves(initialise(Classifier(Cnn((4,)), ()), jax.random.key(0), (8, 8, 1)))
    without = named_leaves(initialise(Classifier(Cnn((4,), "none"), ()), jax.random.key(0), (8, 8, 1)))
    assert sorted(with_norm) == ["trunk/conv_0/kernel", "trunk/norm_0/bias", "trunk/norm_0/scale"]
    assert sorted(without) == ["trunk/conv_0/bias", "trunk/conv_0/kernel"]


def test_decay_before_a_normalisation_changes_nothing_and_without_one_it_does():
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    for normalisation, same in (("group", True), ("none", False)):
        model = Classifier(Cnn((8, 8), normalisation), (("head", 3),))
        params = initialise(model, jax.random.key(0), (8, 8, 1))
        halved = jax.tree_util.tree_map_with_path(
            lambda path, w: 0.5 * w if "conv_0" in jax.tree_util.keystr(path) else w, params
        )
        before, after = (model.apply({"params": p}, images, False)["head"] for p in (params, halved))
        assert np.allclose(before, after, atol=1e-3) == same


def test_examples_do_not_mix_and_taps_hold_every_block():
    model = Classifier(Cnn((4, 8), input_pooling=2), (("head", 3),))
    params = initialise(model, jax.random.key(0), (8, 8, 3))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    outputs, state = as_forward(model)(params, {}, {"image": images}, Context(0, None, {}, {}))
    alone, _ = as_forward(model)(params, {}, {"image": images[1:2]}, Context(0, None, {}, {}, train=False))
    np.testing.assert_allclose(outputs["head"][1:2], alone["head"], rtol=1e-5, atol=1e-6)
    assert state == {}
    assert outputs["features"].shape == (4, 8)
    assert [tap.shape for tap in outputs["taps"].values()] == [(4, 4, 4, 4), (4, 2, 2, 8)]


def test_model_state_is_carried_and_frozen_in_evaluation():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            return {"head": nn.BatchNorm(use_running_average=not train, name="norm")(images)}

    model = Normalised()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 3)), False)
    params, model_state = variables["params"], {"batch_stats": variables["batch_stats"]}
    batch = {"image": jnp.ones((4, 3)) * 5}
    _, trained = as_forward(model)(params, model_state, batch, Context(0, None, {}, {}))
    _, evaluated = as_forward(model)(params, model_state, batch, Context(0, None, {}, {}, train=False))
    assert float(trained["batch_stats"]["norm"]["mean"][0]) > 0
    assert float(evaluated["batch_stats"]["norm"]["mean"][0]) == 0
