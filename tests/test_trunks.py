"""Pretrained trunks: architectures, their maps of names against PyTorch, files that are the right ones or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import torch_trunks as oracle

from jaxtl.models import Classifier, cut
from jaxtl.models.efficientnet import EfficientNetLite, Stage, efficientnet_lite0
from jaxtl.trees import map_named


def shapes_of(model, edge):
    """All variables of a model, without the minutes that drawing them takes to compile."""
    return dict(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, edge, edge, 3)), False)))


def made_up(shapes):
    return map_named(lambda path, leaf: jnp.asarray(oracle.wave(path, leaf.shape) / 5 + (leaf.ndim == 1)), shapes)


def test_efficientnet_lite0_has_the_published_number_of_parameters():
    """4.65 million with its head for 1,000 classes."""
    shapes = shapes_of(Classifier(efficientnet_lite0(), (("head", 1000),)), 96)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 4_652_008


SMALL = Classifier(EfficientNetLite((Stage(1, 3, 1, 1, 8), Stage(2, 5, 2, 6, 12)), 8, 16), (("head", 3),))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_trunk_that_is_cut_computes_the_same(depth):
    variables, images = made_up(shapes_of(SMALL, 17)), jnp.asarray(oracle.images(17))
    below, above = cut(SMALL, depth)
    of_trunk = {name: tree["trunk"] for name, tree in variables.items()}
    whole = jax.jit(lambda: SMALL.apply(variables, images, False))()
    kept = jax.jit(lambda: below.apply(of_trunk, images, False)[0])()
    rest = jax.jit(lambda: above.apply(variables, kept, False))()
    assert kept.shape == ((2, 9, 9, 8) if depth == 1 else (2, 5, 5, 12))
    np.testing.assert_allclose(rest["head"], whole["head"], rtol=1e-5, atol=1e-5)


def test_a_step_of_training_moves_weights_and_averages():
    variables, images = made_up(shapes_of(SMALL, 17)), jnp.asarray(oracle.images(17))

    @jax.jit
    def step(variables):
        def loss(params):
            out, state = SMALL.apply(variables | {"params": params}, images, True, mutable=["batch_stats"])
            return jnp.mean(out["head"] ** 2), state

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradients, state = step(variables)
    assert all(jnp.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(gradients))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))
