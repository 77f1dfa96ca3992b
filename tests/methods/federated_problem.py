"""Federated learning of a linear model by loops in NumPy: the oracle, which shares nothing with what is tested."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import Split, local_epochs, on_clients
from jaxtl.losses import mean_of, squared_error
from jaxtl.methods.federated import controlled
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.program import Weights, make_program
from jaxtl.step import total_gradient

SIZES = (7, 3, 12, 1, 5)
LABELS = {"trunk": {"kernel": "shared"}, "head": {"kernel": "new"}}
RATE = 0.05


def forward(params, model_state, batch, ctx):
    return {"head": batch["x"] @ params["trunk"]["kernel"] @ params["head"]["kernel"]}, model_state


def weights(seed=0):
    rng = np.random.default_rng(seed)
    trunk, head = (rng.normal(size=shape).astype(np.float32) * 0.5 for shape in ((4, 3), (3, 2)))
    return Weights({"trunk": {"kernel": jnp.asarray(trunk)}, "head": {"kernel": jnp.asarray(head)}})


def data_of(sizes=SIZES, seed=0, clients=None, **more):
    """Clients whose targets differ."""
    rng = np.random.default_rng(seed)
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    x = rng.normal(size=(sum(sizes), 4)).astype(np.float32)
    label = np.concatenate([x[part] @ rng.normal(size=(4, 2)) for part in parts]).astype(np.float32)
    return on_clients(Split(x=x, label=label), parts, jax.random.key(seed), **more)


@functools.cache
def local_program(gradient=total_gradient, mu=None, momentum=0.0, groups=None, schedule=None, optimizer="sgd"):
    groups = dict(groups or {"shared": Group(RATE), "new": Group(RATE)})
    pulls = None if mu is None else {label: Term(mu, l2, ("server",)) for label in groups}
    task = {"task": Term(1.0, mean_of(squared_error))}
    how = {"momentum": momentum, "schedule": schedule, "optimizer": optimizer}
    return make_program(forward, LABELS, task, groups, pulls, gradient=gradient, **how)


@functools.cache
def scaffold_program(**how):
    return local_program(gradient=controlled, **how)


@functools.cache
def compiled(program):
    return jax.jit(program.step)


def run(program, data, count=4, start=None, rates=None, seed=1):
    """The state and the metrics after some rounds."""
    step = compiled(program)
    state, metrics = program.start(start or weights(), jax.random.key(seed)), {}
    for _ in range(count):
        state, metrics = step(state, data, program.fixed(rates))
    return state, metrics


def slope(params, x, y):
    """Of ½ mean ‖x A B − y‖², in float64."""
    a, b = params
    error = (x @ a @ b - y) / len(x)
    return [x.T @ error @ b.T, (x @ a).T @ error]


@functools.cache
def visiting(batch_size, epochs):
    return jax.jit(local_epochs(batch_size, epochs))


def numpy_rounds(data, batch_size, epochs, count, *, mu=0.0, scaffold=False, server=None, drawn=None, rate=RATE):
    """Rounds of plain SGD; clients one after another, batches as `local_epochs` names them.

    server: (x, Δ, memory) -> (x, memory); drawn: round -> clients.
    """
    visit = visiting(batch_size, epochs)
    x_all, y_all = (np.asarray(data["examples"][name], np.float64) for name in ("x", "label"))
    every = np.asarray(data["weight"], np.float64)
    x = [np.asarray(weights().params[part]["kernel"], np.float64) for part in ("trunk", "head")]
    c, controls = [np.zeros_like(w) for w in x], [[np.zeros_like(w) for w in x] for _ in every]
    memory = None
    for number in range(count):
        changes, drifts, shares = [], [], []
        for k in range(len(every)) if drawn is None else drawn(number):
            rows, mask = (np.asarray(part) for part in visit(data, k, number))
            y, steps = [w.copy() for w in x], 0
            for own, counts in zip(rows, mask, strict=True):
                if not counts.any():
                    continue
                gradient = slope(y, x_all[own[counts]], y_all[own[counts]])
                gradient = [g + mu * (w - w0) for g, w, w0 in zip(gradient, y, x, strict=True)]
                if scaffold:
                    gradient = [g - ck + cc for g, ck, cc in zip(gradient, controls[k], c, strict=True)]
                y = [w - rate * g for w, g in zip(y, gradient, strict=True)]
                steps += 1
            changes.append([w - w0 for w, w0 in zip(y, x, strict=True)])
            shares.append(every[k])
            if scaffold:  # the second of the two updates of the paper
                parts = zip(controls[k], c, x, y, strict=True)
                new = [ck - cc + (w0 - w) / (steps * rate) for ck, cc, w0, w in parts]
                drifts.append([a - b for a, b in zip(new, controls[k], strict=True)])
                controls[k] = new
        share = np.array(shares) / np.sum(shares)
        delta = [sum(p * change[i] for p, change in zip(share, changes, strict=True)) for i in range(2)]
        if scaffold:
            took = np.sum(shares) / every.sum()
            c = [
                cc + took * sum(p * drift[i] for p, drift in zip(share, drifts, strict=True)) for i, cc in enumerate(c)
            ]
        x, memory = server(x, delta, memory) if server else ([w + d for w, d in zip(x, delta, strict=True)], None)
    return x, controls


def close(params, expected, rtol=2e-5, atol=2e-6):
    for part, own in zip(("trunk", "head"), expected, strict=True):
        np.testing.assert_allclose(params[part]["kernel"], own, rtol, atol)
