"""What is frozen computes what it computed: statistics, dropout, outputs; what is not frozen is trained as ever."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtl.labels import having, label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, ResidualNetwork, as_forward, initial_model_state, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Context, Fixed, init_state, make_train_step, total_gradient
from jaxtl.trees import named_leaves

SHAPE = (8, 8, 1)
RANDOM = np.random.default_rng(0)
BATCH = {"image": jnp.asarray(RANDOM.normal(3, 2, (16, *SHAPE)), jnp.float32), "label": jnp.arange(16) % 2}
PROBE = jnp.asarray(RANDOM.normal(size=(4, *SHAPE)), jnp.float32)
TASK = {"task": Term(1.0, mean_of(softmax_cross_entropy))}


class Told(nn.Module):
    """Normalisation and dropout that are told in other words, in call or construction, and have no scale."""

    by: str

    @nn.compact
    def __call__(self, images, train):
        """images -> (features, taps)."""
        x = nn.Dense(6, name="dense")(images.reshape(len(images), -1))
        if self.by == "call":
            x = nn.BatchNorm(momentum=0.5, name="norm")(x, use_running_average=not train)
            x = nn.Dropout(0.5)(x, deterministic=not train)
        elif self.by == "keyword":
            x = nn.BatchNorm(momentum=0.5, name="norm", use_scale=False, use_bias=False)(
                x, use_running_average=not train
            )
        else:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return x, {}


class Untold(nn.Module):
    """A trunk that takes `train` and forgets it: only its own layers can be told."""

    @nn.compact
    def __call__(self, images, train):
        """images -> (features, taps)."""
        x = nn.Dense(6, name="dense")(images.reshape(len(images), -1))
        x = nn.BatchNorm(use_running_average=False, momentum=0.5, name="norm")(x)
        return nn.Dropout(0.5, deterministic=False)(x), {}


TRUNKS = {
    "cnn": Cnn((4, 4), normalisation="batch"),
    "residual": ResidualNetwork(4, (4, 8), 1, True, "batch"),
    "call": Told("call"),
    "keyword": Told("keyword"),
    "construction": Told("construction"),
    "untold": Untold(),
}


def trained(model, rules, by, steps=3):
    """(state before, state after, labels); the parameters labelled "held" are frozen in the loss, or by their group."""
    params, stats = initialise(model, jax.random.key(0), SHAPE), initial_model_state(model, SHAPE)
    labels = label_params(params, rules)
    frozen = having(labels, "held") if by == "loss" else None
    loss_fn = make_loss_fn(as_forward(model), TASK, frozen=frozen)
    groups = {"held": Group(frozen=True), "new": Group(0.1)}
    tx = per_label(labels, groups) if by == "group" else optax.sgd(0.1)
    step = make_train_step(total_gradient(loss_fn), tx)
    state = init_state(params, tx, jax.random.key(1), stats)
    return state, fit(step, init_state(params, tx, jax.random.key(1), stats), BATCH, Fixed(), steps=steps)[0], labels


@pytest.mark.parametrize("by", ["loss", "group"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_frozen_trunk_computes_what_it_computed_and_the_head_learns(trunk, by):
    model = Classifier(TRUNKS[trunk], (("head", 2),))
    before, after, _ = trained(model, [("head/.*", "new"), ("trunk/.*", "held")], by)
    for path, leaf in named_leaves(after.model_state).items():
        np.testing.assert_array_equal(leaf, named_leaves(before.model_state)[path], err_msg=path)

    def outputs(state, train):
        ctx = Context(0, jax.random.key(5), {}, {}, train, frozenset(_under("trunk/", state.params)))
        return as_forward(model)(state.params, state.model_state, {"image": PROBE}, ctx)[0]

    evaluated, training = outputs(before, False), outputs(after, True)
    np.testing.assert_allclose(training["features"], evaluated["features"], rtol=1e-6, atol=1e-6)
    assert np.abs(training["head"] - evaluated["head"]).max() > 1e-3


def _under(prefix, params):
    return [path for path in named_leaves(params) if path.startswith(prefix)]


def test_of_a_trunk_that_is_frozen_in_part_only_the_frozen_modules_stay():
    model = Classifier(Cnn((4, 4), normalisation="batch"), (("head", 2),))
    rules = [("trunk/(conv|norm)_0/.*", "held"), (".*", "new")]
    before, after, _ = trained(model, rules, "loss")
    moved = {
        path: bool(np.any(leaf != named_leaves(before.model_state)[path]))
        for path, leaf in named_leaves(after.model_state).items()
    }
    assert {path: "norm_1" in path for path in moved} == moved


def test_a_norm_whose_scale_alone_is_frozen_goes_on():
    model = Classifier(Cnn((4,), normalisation="batch"), (("head", 2),))
    before, after, _ = trained(model, [("trunk/norm_0/scale", "held"), (".*", "new")], "loss")
    assert np.any(jax.tree.leaves(after.model_state)[0] != jax.tree.leaves(before.model_state)[0])


def test_nothing_frozen_trains_statistics_and_drops():
    model = Classifier(Told("call"), (("head", 2),))
    before, after, _ = trained(model, [(".*", "new")], "nobody")
    assert np.any(jax.tree.leaves(after.model_state)[0] != jax.tree.leaves(before.model_state)[0])
    batch, forward = {"image": PROBE}, as_forward(model)

    def features(key, train=True):
        ctx = Context(0, jax.random.key(key), {}, {}, train)
        return forward(before.params, before.model_state, batch, ctx)[0]["features"]

    assert np.any(features(0) != features(1)), "dropout draws from the step's key"
    np.testing.assert_array_equal(features(0), features(0))
    np.testing.assert_array_equal(features(0, train=False), features(1, train=False))
