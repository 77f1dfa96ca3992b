"""A small experiment that tests start as a process, or as several, to kill it, stop it and start it again.

    python tests/tiny.py --workdir=W

An MLP with everything that a resumed run could get wrong: dropout, a running average in the model state, momentum and
a schedule, augmentation, epochs that end inside a chunk, a best state, history and metrics.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxtl import cli
from jaxtl.data import Split, image_batches, on_device
from jaxtl.devices.placement import by_example, make_mesh
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.loop import fit
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.step import Fixed, TrainState, init_state, make_train_step, total_gradient
from jaxtl.writers import Writer

EXAMPLES = 22  # no multiple of the batch: an epoch ends within one


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 24
    chunk: int = 3
    every: int = 3
    learning_rate: float = 0.1
    batch_size: int = 5
    mesh: tuple[str, ...] = ()
    broken_at: int = -1  # the step whose images are infinite


def forward(params, model_state, batch, ctx):
    """A hidden layer, normalised by a running average, with a fifth of it dropped."""
    hidden = jnp.tanh(batch["image"].reshape(len(batch["image"]), -1) @ params["trunk"]["kernel"])
    average = 0.9 * model_state["average"] + 0.1 * jnp.mean(hidden, axis=0)
    kept = jax.random.bernoulli(ctx.rng, 0.8, hidden.shape) if ctx.train else 0.8
    return {"head": (hidden - average[None]) * kept @ params["head"]["kernel"]}, {"average": average}


def start(config: Config, mesh: Mesh | None = None):
    """(step, state, data): all that `fit` needs."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (EXAMPLES, 6, 6, 1), dtype=np.uint8)
    sharding = None if mesh is None else by_example(mesh)
    data = on_device(Split(images, np.arange(EXAMPLES) % 3), jax.random.key(1), sharding=sharding)
    params = {
        "trunk": {"kernel": jnp.asarray(random.normal(size=(36, 16)), jnp.float32)},
        "head": {"kernel": jnp.asarray(random.normal(size=(16, 3)), jnp.float32)},
    }
    labels = label_params(params, [("head/.*", NEW), (".*", TRANSFERRED)])
    penalty = labelled(labels, {NEW: Term(0.01, l2), TRANSFERRED: Term(0.001, l2)})
    loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))}, penalty)
    groups = {NEW: Group(config.learning_rate), TRANSFERRED: Group(config.learning_rate / 10)}
    tx = per_label(labels, groups, "adam", schedule=optax.cosine_decay_schedule(1.0, config.steps))
    batches = image_batches(config.batch_size, np.full(1, 128.0), np.full(1, 64.0), crop=1, flip=True)

    def prepare(data, rng, step):
        batch = batches(data, rng, step)
        return {**batch, "image": jnp.where(step == config.broken_at, jnp.inf, batch["image"])}

    step = make_train_step(total_gradient(loss_fn), tx, prepare)
    state = init_state(params, tx, jax.random.key(2), {"average": jnp.zeros(16)})
    return step, state, data


def norm(state: TrainState) -> dict[str, float]:
    """A figure of the parameters that moves with every bit of them."""
    return {"norm": float(jnp.sum(jnp.square(state.params["trunk"]["kernel"])))}


def main(config: Config, workdir: Path) -> None:
    import orbax.checkpoint  # noqa: F401 (half a second in which nothing happens that could be interrupted)

    mesh = make_mesh(config.mesh) if config.mesh else None
    step, state, data = start(config, mesh)
    how = {"steps": config.steps, "chunk": config.chunk, "every": config.every, "evaluate": norm, "best": "norm"}
    print("training", flush=True)
    with Writer(workdir) as log:
        state, history = fit(step, state, data, Fixed(), **how, mesh=mesh, workdir=workdir, log=log)
    figures = {"history": history, "digest": [float(jnp.sum(leaf)) for leaf in jax.tree.leaves(state.params)]}
    (workdir / "summary.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    cli.run(main, Config)
