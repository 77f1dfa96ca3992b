"""Ridge regression in two kinds of columns, with a rate for each: by the step, and in closed form."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import make_loss_fn, mean_of, squared_error
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.selection.gradient import Implicit
from jaxtl.step import init_state, make_epoch, make_train_step, total_gradient

RIDGE_LABELS = {"old": {"kernel": TRANSFERRED}, "own": {"kernel": NEW}}


def linear(params, model_state, batch, ctx):
    old = params["old"]["kernel"].shape[0]
    return {
        "head": batch["x"][:, :old] @ params["old"]["kernel"] + batch["x"][:, old:] @ params["own"]["kernel"]
    }, model_state


RIDGE_TASK = {"task": Term(1.0, mean_of(squared_error, target="y"))}
RIDGE_PENALTY = labelled(RIDGE_LABELS, {TRANSFERRED: Term(1.0, l2), NEW: Term(1.0, l2)})
RIDGE_GRADIENT = total_gradient(make_loss_fn(linear, RIDGE_TASK, RIDGE_PENALTY))
RIDGE_TX = per_label(RIDGE_LABELS, {TRANSFERRED: Group(0.3), NEW: Group(0.3)}, momentum=0.5)
RIDGE_STEP = make_train_step(RIDGE_GRADIENT, RIDGE_TX, lambda data, rng, step: data["train"])
RIDGE_EPOCH = make_epoch(RIDGE_STEP, 250)
AT_THE_END = Implicit(RIDGE_GRADIENT, prepare=lambda data: data["train"])


def start_of(old, own):
    """Zeros for so many columns; `point` holds a λ for all, or one for each label, beside the mean loss."""

    def init(point):
        params = {"old": {"kernel": jnp.zeros(old)}, "own": {"kernel": jnp.zeros(own)}}
        rates = {f"penalty/{label}": point.get(label, point.get("all")) for label in (TRANSFERRED, NEW)}
        rates |= {name: rate for name, rate in point.items() if name.startswith("learning_rate/")}
        return init_state(params, RIDGE_TX, jax.random.key(0)), rates

    return init


RIDGE_INIT, HAND_INIT = start_of(4, 16), start_of(1, 1)


def ridge_score(state, data, fixed):
    outputs, _ = linear(state.params, {}, data["validation"], None)
    return -jnp.mean((outputs["head"] - data["validation"]["y"]) ** 2)


@functools.cache
def ridge_data(seed=6, n=30):
    """Four columns that matter much and sixteen that matter little: each kind wants a λ of its own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n, 20)).astype(np.float32)
    w = rng.normal(size=20) * np.where(np.arange(20) < 4, 2.0, 0.3)
    y = (x @ w + rng.normal(size=2 * n)).astype(np.float32)
    return {"train": {"x": x[:n], "y": y[:n]}, "validation": {"x": x[n:], "y": y[n:]}}


def wide(part):
    return np.float64(part["x"]), np.float64(part["y"])


def closed_form(logs, data):
    """The validation error at log λ of each kind of column."""
    (x, y), (x_new, y_new) = wide(data["train"]), wide(data["validation"])
    rates = np.exp(np.repeat(logs, [4, 16]))
    w = np.linalg.solve(x.T @ x / len(x) + np.diag(rates), x.T @ y / len(x))
    return np.mean((x_new @ w - y_new) ** 2)


def best_in_closed_form(data):
    """(the best error, log λ of each kind), by a method without slopes."""
    found = scipy.optimize.minimize(closed_form, np.zeros(2), data, method="Nelder-Mead", options={"xatol": 1e-5})
    return found.fun, found.x


def closed(state, data, fixed):
    """A training of one step that arrives."""
    x, y = data["train"]["x"], data["train"]["y"]
    pulls = jnp.repeat(jnp.stack([fixed.rates["penalty/transferred"], fixed.rates["penalty/new"]]), np.array([4, 16]))
    w = jnp.linalg.solve(x.T @ x / len(x) + jnp.diag(pulls), x.T @ y / len(x))
    return state._replace(params={"old": {"kernel": w[:4]}, "own": {"kernel": w[4:]}}), None
