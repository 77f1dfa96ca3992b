"""JAX's side of `experiments.benchmarks.sequences`: `python -m ...jax_sequences MODEL BATCH TOKENS`, asked in JSON.

Weights and words are random: how long they take does not depend on them.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.workers import on_one_core, serve
from jaxtl.devices import backend
from jaxtl.devices.compiler import compiler_options
from jaxtl.labels import TRANSFERRED, label_params
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, as_forward, initialise
from jaxtl.models.bert import minilm_l6
from jaxtl.models.recurrent import lstm_classic, lstm_default
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term
from jaxtl.step import Fixed, compile_step, init_state, make_epoch, make_train_step, total_gradient

WORDS, CLASSES = 10_000, 2
TRUNKS: dict[str, Any] = {"default": lstm_default(WORDS), "classic": lstm_classic(WORDS), "minilm": minilm_l6()}


def classifier(name: str) -> Classifier:
    return Classifier(TRUNKS[name], (("head", CLASSES),))


def answer_for(name: str, batch_size: int, tokens: int) -> None:
    random, model = np.random.default_rng(0), classifier(name)
    batch = {
        "token": jnp.asarray(random.integers(2, WORDS, (batch_size, tokens)), jnp.int32),
        "label": jnp.asarray(random.integers(0, CLASSES, batch_size), jnp.int32),
    }
    params = initialise(model, jax.random.key(0), jax.ShapeDtypeStruct((tokens,), jnp.int32))
    tx = per_label(label_params(params, [(".*", TRANSFERRED)]), {TRANSFERRED: Group(1e-3)}, "adam")
    loss_fn = make_loss_fn(as_forward(model, "token"), {"task": Term(1.0, mean_of(softmax_cross_entropy))})
    step = make_train_step(total_gradient(loss_fn), tx)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def logits(params, tokens):
        outputs: Any = model.apply({"params": params}, tokens, False)
        return outputs["head"]

    @functools.cache
    def steps(number: int) -> Any:
        """So many in a dispatch, as `fit` does it."""
        return compile_step(make_epoch(step, number))

    def forward(calls: int) -> float:
        began = time.process_time()
        jax.block_until_ready([logits(params, batch["token"]) for _ in range(calls)])
        return time.process_time() - began

    def training(calls: int) -> float:
        state = jax.block_until_ready(init_state(params, tx, jax.random.key(1)))
        began = time.process_time()
        jax.block_until_ready(steps(calls)(state, batch, Fixed()))
        return time.process_time() - began

    serve(forward=forward, step=training)


if __name__ == "__main__":
    on_one_core()
    backend.use_compilation_cache()
    answer_for(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
