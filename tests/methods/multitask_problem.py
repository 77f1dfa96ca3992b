"""Three tasks on one trunk 4 -> 5 with fixed numbers: three classes, two numbers, one bit; some labels are missing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from problems import context, dense, wave

from jaxtl.labels import SHARED, having, label_params
from jaxtl.losses import (
    make_loss_fn,
    mean_of_present,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    squared_error,
)
from jaxtl.methods.multitask import (
    cagrad_weights,
    equal_weights,
    imtl_g_weights,
    mgda_weights,
    nash_weights,
    pcgrad_weights,
    surgery,
)
from jaxtl.penalties import Term, l2, labelled

TASKS = ("kind", "place", "sign")
LOSSES = {"kind": softmax_cross_entropy, "place": squared_error, "sign": sigmoid_binary_cross_entropy}
RATES = {"kind": 1.0, "place": 0.5, "sign": 2.0}
RULES = [("trunk/.*", SHARED), *((f"{task}/.*", f"task:{task}") for task in TASKS)]
DECAYS = {SHARED: 0.3, "task:kind": 0.2, "task:place": 0.1, "task:sign": 0.05}


def network():
    layers = {"trunk": (4, 5), "kind": (5, 3), "place": (5, 2), "sign": (5, 1)}
    return {
        name: {"kernel": wave(0.7 + 0.3 * i, *shape), "bias": wave(0.4 + 0.1 * i, shape[1], scale=0.3)}
        for i, (name, shape) in enumerate(layers.items())
    }


LABELS = label_params(network(), RULES)
TRUNK = having(LABELS, SHARED)


def batch(size=12, shift=0.0):
    """Every task lacks the labels of some examples, and what stands there would spoil whatever looks at it."""
    known = {f"{task}_known": np.arange(size) % (3 + i) != i for i, task in enumerate(TASKS)}
    labels = {
        "kind": np.where(known["kind_known"], np.arange(size) ** 2 % 3, -1),
        "place": np.where(known["place_known"][:, None], np.asarray(wave(0.9, size, 2)), np.nan),
        "sign": np.where(known["sign_known"][:, None], np.arange(size)[:, None] % 2, np.inf).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, {"image": wave(1.1 + shift, size, 4, scale=2.0), **labels, **known})


def forward(params, model_state, batch, ctx):
    features = jnp.tanh(dense(params["trunk"], batch["image"]))
    return {"features": features, **{task: dense(params[task], features) for task in TASKS}}, model_state


TERMS = {task: Term(RATES[task], mean_of_present(LOSSES[task], task, task, f"{task}_known")) for task in TASKS}
PENALTY = labelled(LABELS, {label: Term(rate, l2) for label, rate in DECAYS.items()})
loss_fn = make_loss_fn(forward, TERMS, PENALTY)


@jax.jit
def _own_gradients(data):
    def loss(params, task):
        return make_loss_fn(forward, TERMS)(params, {}, data, context())[0][task]

    return {task: jax.grad(loss)(network(), task) for task in TASKS}


def own_gradients(data=None):
    """{task: gradient of its weighted loss alone}, one `jax.grad` at a time."""
    return _own_gradients(batch() if data is None else data)


def trunk_row(gradient):
    """The trunk's part of a gradient as one vector, float64."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient["trunk"])])


def without(data, *tasks):
    """The batch when no example has a label for these tasks."""
    return data | {f"{task}_known": jnp.zeros_like(data[f"{task}_known"]) for task in tasks}


COMBINE = {
    "equal": equal_weights,
    "pcgrad": pcgrad_weights,
    "mgda": mgda_weights,
    "cagrad": cagrad_weights,
    "imtl_g": imtl_g_weights,
    "nash": nash_weights,
}


@functools.cache
def operated(combine, tasks=TASKS, loss_fn=loss_fn):
    return jax.jit(surgery(loss_fn, combine, tasks, TRUNK))


def gradients_of(combine, data=None, params=None, **options):
    params, data = network() if params is None else params, batch() if data is None else data
    return operated(combine, **options)(params, {}, data, context())
