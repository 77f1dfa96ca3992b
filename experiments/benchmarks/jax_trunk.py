"""JAX's side of `experiments.benchmarks.trunks`: `python -m ...jax_trunk EDGE BATCH`, asked in lines of JSON.

Weights are random numbers: how long they take does not depend on them.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.variants import timed
from experiments.benchmarks.workers import serve
from jaxtl.devices import backend
from jaxtl.devices.compiler import compiler_options
from jaxtl.labels import TRANSFERRED, label_params
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, as_forward
from jaxtl.models.efficientnet import efficientnet_lite0
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Fixed, compile_step, init_state, make_train_step, total_gradient

CLASSES = 5


def answer_for(edge: int, batch_size: int) -> None:
    random, model = np.random.default_rng(0), Classifier(efficientnet_lite0(), (("head", CLASSES),))

    def drawn(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        """A kernel that keeps variances, else numbers near 1."""
        width = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1
        return jnp.asarray(random.normal(float(leaf.ndim == 1), width, leaf.shape), jnp.float32)

    images = jnp.asarray(random.normal(size=(batch_size, edge, edge, 3)), jnp.float32)
    batch = {"image": images, "label": jnp.asarray(random.integers(0, CLASSES, batch_size), jnp.int32)}
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), images)
    variables: dict[str, Any] = jax.tree.map(drawn, dict(shapes))
    params, model_state = variables.pop("params"), variables

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def features(variables, images):
        outputs: Any = model.apply(variables, images, False)
        return outputs["features"]

    tx = per_label(label_params(params, [(".*", TRANSFERRED)]), {TRANSFERRED: Group(0.01)}, "nesterov", momentum=0.9)
    loss_fn = make_loss_fn(as_forward(model), {"task": Term(1.0, mean_of(softmax_cross_entropy))})
    step = compile_step(make_train_step(total_gradient(loss_fn), tx))

    def forward(calls: int) -> float:
        given = {"params": params, **model_state}
        return timed(lambda: [features(given, images) for _ in range(calls)])[0]

    def training(calls: int) -> float:
        state = init_state(params, tx, jax.random.key(1), model_state)

        def run(state):
            for _ in range(calls):
                state, _ = step(state, batch, Fixed())
            return state

        return timed(run, jax.block_until_ready(state))[0]

    serve(forward=forward, step=training)


if __name__ == "__main__":
    backend.use_compilation_cache()
    answer_for(int(sys.argv[1]), int(sys.argv[2]))
