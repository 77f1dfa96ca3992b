"""Small problems that several tests share: a network with fixed numbers, a quadratic, and one line that trains."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.penalties import Term
from jaxtl.step import Context, Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient

LABELS = {
    "trunk": {"kernel": TRANSFERRED, "bias": TRANSFERRED},
    "head": {"kernel": NEW, "bias": NEW},
}


def wave(speed, *shape, scale=1.0):
    """Numbers between -scale and scale without a generator."""
    positions = np.arange(1.0, np.prod(shape) + 1)
    return jnp.asarray(scale * np.sin(speed * positions * positions).reshape(shape), jnp.float32)


def network(speed=0.7):
    """The parameters of a network 4 -> 5 -> 3; another speed gives others."""
    return {
        "trunk": {"kernel": wave(speed, 4, 5), "bias": wave(2 * speed, 5, scale=0.3)},
        "head": {"kernel": wave(3 * speed, 5, 3), "bias": wave(4 * speed, 3, scale=0.3)},
    }


def dense(layer, x):
    """x @ kernel + bias."""
    return x @ layer["kernel"] + layer["bias"][None]


def forward(params, model_state, batch, ctx):
    """tanh between two dense layers."""
    features = jnp.tanh(dense(params["trunk"], batch["image"]))
    return {"features": features, "head": dense(params["head"], features)}, model_state


@jax.jit
def logits(params, images):
    """The head's output."""
    return forward(params, {}, {"image": images}, None)[0]["head"]


def batch(size=12):
    """Images [size, 4] with labels in 0, 1, 2."""
    return {"image": wave(1.1, size, 4, scale=2.0), "label": jnp.asarray(np.arange(size) ** 2 % 3)}


TASK = {"task": Term(1.0, mean_of(softmax_cross_entropy))}


def context(rates=None, given=None):
    """What a penalty or a term sees outside a step."""
    return Context(0, jax.random.key(0), rates or {}, given or {})


def train(tx, params, steps, *, penalty=None, loss_fn=None, data=None, fixed=None):
    """The parameters after `steps` steps of the network, or of another loss, by the path every experiment takes."""
    loss_fn = make_loss_fn(forward, TASK, penalty) if loss_fn is None else loss_fn
    epoch = compile_step(make_epoch(make_train_step(total_gradient(loss_fn), tx), steps))
    state, _ = epoch(init_state(params, tx, jax.random.key(0)), batch() if data is None else data, fixed or Fixed())
    return state.params


def quadratic(curvature, target, penalty=None):
    """A loss without data, Σ ½ curvature (w − target)² of {"w": {"kernel": w}}."""

    def fn(outputs, batch, ctx):
        return 0.5 * jnp.sum(jnp.asarray(curvature) * (outputs["w"] - target) ** 2)

    def only_w(params, model_state, batch, ctx):
        return {"w": params["w"]["kernel"]}, model_state

    return make_loss_fn(only_w, {"task": Term(1.0, fn)}, penalty)


def assert_close(ours, theirs, rtol=1e-6, atol=1e-6):
    """Trees of one structure, close leaf by leaf."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(_wide(a), _wide(b), rtol=rtol, atol=atol)


def largest_gap(ours, theirs):
    """The largest difference between two trees."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.max(np.abs(_wide(a) - _wide(b)))), ours, theirs)))


def scaled(factor, tree):
    """factor · tree, in NumPy: every operation outside a compiled function is a compilation of its own."""
    return jax.tree.map(lambda leaf: np.asarray(factor * np.asarray(leaf), leaf.dtype), tree)


def minus(ours, theirs):
    """ours − theirs, in NumPy."""
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), ours, theirs)


def zeros(tree):
    """A tree of zeros, in NumPy."""
    return jax.tree.map(np.zeros_like, tree)


def _wide(leaf):
    return np.asarray(leaf, np.float64)
