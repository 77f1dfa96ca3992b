"""Rows of methods that act on inner outputs: near the source's, rich in directions, normalised by two statistics."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import normalise
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import squared_error
from jaxtl.methods.finetuning.features import batch_spectral_shrinkage, channel_attention, delta, losses_without
from jaxtl.methods.finetuning.recipes import pulls
from jaxtl.methods.finetuning.source_recipes import (
    beside_source,
    fine_tuned,
    mean_term,
    seen,
    source_given,
    source_weights,
)
from jaxtl.models import Classifier, as_forward, cut
from jaxtl.penalties import Term
from jaxtl.problems import CLASSIFY, FewShot
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Range, Recipe
from jaxtl.trees import Tree

RIDGE = 1e-2  # of the head that attention is asked of, times the features' mean square


def delta_program(problem: FewShot) -> Program:
    """½ Σ_layers Σ_c a_c·C·‖FM_c − FM⁰_c‖² / (HW), the mean over the batch."""

    def moved(outputs, batch, ctx):
        return delta(outputs["taps"], outputs["source"]["taps"], ctx.given["attention"])

    terms = {"task": CLASSIFY, "delta": mean_term(moved)}
    forward = beside_source(problem, as_forward(problem.model))
    return fine_tuned(problem, forward=forward, terms=terms, **pulls(problem, TRANSFERRED, NEW))


def alike(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """The source model, and as much attention for one channel as for another."""
    trunk: Any = problem.model.trunk
    widths = zip(trunk.stage_names, trunk.widths, strict=True)
    attention = {name: jnp.full(width, 1 / width, jnp.float32) for name, width in widths}  # a weak type compiles anew
    return {**source_given(problem, draw, start), "attention": attention}


def attentive(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """The source model, and attention by what the draw's examples miss without a channel of it.

    Asked of a head on the source's features that least squares give at once; its loss is the squared error.
    """
    images, labels = seen(problem, draw)
    codes = jnp.asarray(np.eye(problem.model.heads[0][1], dtype=np.float32)[labels])
    source = source_weights(problem, draw)
    inputs = normalise(images, problem.images.mean, problem.images.std)
    attention = _attention(problem.model, source.params["trunk"], source.model_state, inputs, codes)
    return {**source_given(problem, draw, start), "attention": attention}


@functools.partial(jax.jit, static_argnums=0)
def _attention(model: Classifier, trunk: Tree, model_state: Tree, inputs: jax.Array, codes: jax.Array) -> Tree:
    net: Any = model.trunk
    state = {name: tree["trunk"] for name, tree in model_state.items()}
    features, _ = net.apply({"params": trunk, **state}, inputs, False)
    head = ridge_head(features, codes)

    def judged(values: jax.Array, rest: Classifier | None) -> jax.Array:
        if rest is None:
            return jnp.mean(squared_error(values @ head["kernel"] + head["bias"][None], codes))
        found: Any = rest.apply({"params": {"trunk": trunk, "head": head}, **model_state}, values, False)
        return jnp.mean(squared_error(found["head"], codes))

    attention = {}
    for depth, name in enumerate(net.stage_names, start=1):
        values, rest = features, None
        if depth < len(net.stage_names):
            below, rest = cut(model, depth)
            values, _ = below.apply({"params": trunk, **state}, inputs, False)
        loss = functools.partial(judged, rest=rest)
        attention[name] = channel_attention(losses_without(loss, values), loss(values))
    return attention


def ridge_head(features: jax.Array, codes: jax.Array) -> dict[str, jax.Array]:
    """A linear head on features [N, D] by least squares towards codes [N, C], with a small pull towards 0."""
    mean, target = jnp.mean(features, axis=0), jnp.mean(codes, axis=0)
    centred = features - mean[None]
    gram = centred.T @ centred / len(features)
    lam = RIDGE * jnp.mean(jnp.diagonal(gram)) + 1e-12  # all features may be one
    kernel = jnp.linalg.solve(gram + lam * jnp.eye(len(gram)), centred.T @ (codes - target[None]) / len(features))
    return {"kernel": kernel, "bias": target - mean @ kernel}


def bss(problem: FewShot) -> Program:
    """The smallest squared singular value of the batch's features."""
    shrinkage = Term(0.0, lambda outputs, batch, ctx: batch_spectral_shrinkage(outputs["features"]))
    return fine_tuned(problem, terms={"task": CLASSIFY, "bss": shrinkage}, **pulls(problem, TRANSFERRED, NEW))


def stochnorm(problem: FewShot) -> Program:
    """Every batch normalisation takes running averages in half of its channels.

    Raises:
        InputError: a model without batch normalisation.
    """
    trunk: Any = problem.model.trunk
    kind = getattr(trunk, "normalisation", "none")
    if kind != "batch":
        what = f"the model has {kind} normalisation, and this method acts on batch normalisation"
        raise InputError(what, where="stochnorm", todo="use --config.normalisation=batch, or leave the method out")
    model = Classifier(trunk.clone(normalisation="stochastic"), problem.model.heads)
    return fine_tuned(problem, forward=as_forward(model), **pulls(problem, TRANSFERRED, NEW))


FEATURES = {
    "delta": Recipe(
        delta_program,
        ("learning_rate", "delta_weight", "pull/new"),
        "fine-tuning in which inner outputs stay near the source model's on the same images; new kernels go towards 0",
        {"delta_weight": Range(0.001, 1.0)},
        given=alike,
    ),
    "delta_attention": Recipe(
        delta_program,
        ("learning_rate", "delta_weight", "pull/new"),
        "delta, most for the channels that the target task misses without",
        {"delta_weight": Range(0.001, 1.0)},
        given=attentive,
    ),
    "bss": Recipe(
        bss,
        ("learning_rate", "bss_weight", "pull/new"),
        "fine-tuning in which the weakest direction of a batch's features is made weaker",
        {"bss_weight": Range(1e-4, 0.1)},
    ),
}
BATCH_NORMALISED = {  # for models with batch normalisation
    "stochnorm": Recipe(
        stochnorm,
        ("learning_rate", "pull"),
        "l2 with running averages in half of the channels of every batch normalisation, other ones in each step",
    ),
}
