"""Rows of methods that act on predictions: the source's head goes on, or examples are contrasted with each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning.contrast import (
    bi_tuning,
    empty_queue,
    enqueued,
    following,
    unit,
    with_one,
)
from jaxtl.methods.finetuning.predictions import (
    co_tuning,
    direct_relation,
    distillation,
    pure_classes,
    reverse_relation,
)
from jaxtl.methods.finetuning.recipes import pulls
from jaxtl.methods.finetuning.source_recipes import (
    OLD_HEAD,
    PROBED_OLD,
    beside_source,
    both_heads,
    fine_tuned,
    mean_term,
    seen,
    source_given,
    source_logits,
    source_model,
    source_weights,
    with_old_head,
)
from jaxtl.models import Classifier, as_forward
from jaxtl.problems import CLASSIFY, FewShot, outputs
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.selection import logistic_path, temperature
from jaxtl.trees import Tree

KEYS, PROJECTOR, PROJECTED = "bi_tuning", "projector", 128  # in the model state; beside the heads; its outputs
CALIBRATING = 2000  # source examples that choose the temperature
LAMBDAS = np.geomspace(1e-4, 1.0, 9)  # of the logistic model from source probabilities to target classes


def lwf(problem: FewShot) -> Program:
    """task + rate · T²·KL of the source's head, trained further, from what the source model says."""
    model, labels = both_heads(problem)

    def forgotten(found, batch, ctx):
        return distillation(found[OLD_HEAD], found["source"][OLD_HEAD])

    return fine_tuned(
        problem,
        forward=beside_source(problem, as_forward(model)),
        labels=labels,
        terms={"task": CLASSIFY, "lwf": mean_term(forgotten)},
        **pulls(problem, TRANSFERRED, NEW),
    )


def co_tuned(problem: FewShot) -> Program:
    """task + rate · cross-entropy of the source's head towards p(y_s | y_t)."""
    model, labels = both_heads(problem)

    def meant(found, batch, ctx):
        return co_tuning(found[OLD_HEAD], ctx.given["relation"], batch["label"])

    return fine_tuned(
        problem,
        forward=as_forward(model),
        labels=labels,
        terms={"task": CLASSIFY, "co_tuning": mean_term(meant)},
        **pulls(problem, TRANSFERRED, NEW),
    )


def calibrated(problem: FewShot, draw: Draw) -> tuple[jax.Array, np.ndarray]:
    """(the source model's probabilities [N, S] of a draw's examples, their labels).

    At the temperature that some of the source's training images ask for: no test image has a say. A source model that
    knows them by heart is left surer than it should be.
    """
    train = problem.seen_source.train
    rows = np.sort(np.random.default_rng(problem.config.seed).permutation(len(train))[:CALIBRATING])
    weights, images = source_weights(problem, draw), jnp.asarray(train[problem.field][rows])
    scale = temperature(
        outputs(source_model(problem), weights, images, problem.source_images, OLD_HEAD), train.labels[rows]
    )
    examples, labels = seen(problem, draw)
    return jax.nn.softmax(jnp.asarray(source_logits(problem, draw, examples)) / scale), labels


def direct(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """p(y_s | y_t) as the mean over the examples of each class."""
    probabilities, labels = calibrated(problem, draw)
    return {"relation": direct_relation(probabilities, jnp.asarray(labels), problem.model.heads[0][1])}


def reverse(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """p(y_s | y_t) by Bayes' rule from a logistic model of p(y_t | y_s), whose λ two folds choose.

    A class without examples in a draw is related to what all examples are.
    """
    probabilities, labels = calibrated(problem, draw)
    marginal, present = jnp.mean(probabilities, axis=0), np.unique(labels)
    relation = jnp.tile(marginal[None], (problem.model.heads[0][1], 1))
    if len(present) > 1:
        found = np.asarray(probabilities, np.float64)
        path = logistic_path(found, np.searchsorted(present, labels), LAMBDAS, folds=2, rare=True)
        best = int(np.argmin(np.nanmean(path.fold_loss, axis=1)))
        given_source = pure_classes(path.coef[best], path.intercept[best])
        relation = relation.at[present].set(reverse_relation(given_source, marginal))
    return {"relation": relation}


def bi_tuned(problem: FewShot) -> Program:
    """task + rate · (contrast of the classifier + contrast of the projector); queue and slow encoder in the state."""
    forward, encode = as_forward(problem.model), as_forward(Classifier(problem.model.trunk, ()))
    own = problem.images.batches(problem.config.batch_size)

    def prepare(data, rng, step):
        one, other = jax.random.split(rng)  # two views of the same images: which ones, the step alone decides
        return {**own(data, one, step), "view": own(data, other, step)[problem.field]}

    def contrasted(params, model_state, batch, ctx):
        rest = {name: tree for name, tree in model_state.items() if name != KEYS}
        found, after = forward(params, rest, batch, ctx)
        before = model_state[KEYS]
        slow = following(before["encoder"], {name: params[name] for name in before["encoder"]})
        key, _ = encode({"trunk": slow["trunk"]}, rest, {problem.field: batch["view"]}, ctx)
        there = jax.lax.stop_gradient(key["features"])
        projected = unit(there @ slow[PROJECTOR]["kernel"] + slow[PROJECTOR]["bias"][None])
        queue = enqueued(before["queue"], unit(with_one(there)), projected, batch["label"])
        found["projected"] = found["features"] @ params[PROJECTOR]["kernel"] + params[PROJECTOR]["bias"][None]
        found |= {"key": projected, "queue": before["queue"], "classifier": params["head"]}
        return found, {**after, KEYS: {"encoder": slow, "queue": queue}}

    def contrast(found, batch, ctx):
        both = found["features"], found["projected"]
        return bi_tuning(*both, found["key"], found["queue"], found["classifier"], batch["label"])

    return fine_tuned(
        problem,
        forward=contrasted,
        labels={**problem.moved.labels, PROJECTOR: {"kernel": NEW, "bias": NEW}},
        terms={"task": CLASSIFY, "bi_tuning": mean_term(contrast)},
        prepare=prepare,
        **pulls(problem, TRANSFERRED, NEW),
    )


def with_keys(problem: FewShot, draw: Draw) -> Weights:
    """A projector drawn at random, an encoder that begins where training does, an empty queue."""
    start = problem.start(draw)
    width, classes = start.params["head"]["kernel"].shape
    rng = jax.random.fold_in(problem.key(draw, "head"), 1)
    projector = {
        "kernel": jax.random.normal(rng, (width, PROJECTED)) / width**0.5,
        "bias": jnp.zeros(PROJECTED),
    }
    keys = {
        "encoder": {"trunk": start.params["trunk"], PROJECTOR: projector},
        "queue": empty_queue(classes, width + 1, PROJECTED),
    }
    return Weights({**start.params, PROJECTOR: projector}, {**start.model_state, KEYS: keys})


def as_the_model(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """Without what only training needed."""
    params = {name: weights.params[name] for name in problem.moved.params}
    state = {name: tree for name, tree in weights.model_state.items() if name != KEYS}
    return Weights(params, state)


WEIGHT = Range(0.03, 10.0)
PREDICTIONS = {
    "lwf": Recipe(
        lwf,
        ("learning_rate", "head_learning_rate", "lwf_weight"),
        "the head alone first, then fine-tuning in which the source's head still says what it said of the same images",
        {"lwf_weight": WEIGHT},
        with_old_head,
        before=PROBED_OLD,
        given=source_given,
        finish=as_the_model,
    ),
    "co_tuning": Recipe(
        co_tuned,
        ("learning_rate", "co_tuning_weight"),
        "fine-tuning in which the source's head learns which source classes a target class looks like, on average",
        {"co_tuning_weight": WEIGHT},
        with_old_head,
        given=direct,
        finish=as_the_model,
    ),
    "co_tuning_reverse": Recipe(
        co_tuned,
        ("learning_rate", "co_tuning_weight"),
        "co_tuning with the relation of classes by Bayes' rule from a logistic model the other way round",
        {"co_tuning_weight": WEIGHT},
        with_old_head,
        given=reverse,
        finish=as_the_model,
    ),
    "bi_tuning": Recipe(
        bi_tuned,
        ("learning_rate", "bi_tuning_weight", "pull/new"),
        "fine-tuning in which examples are contrasted with those of a queue, by classifier and by projector",
        {"bi_tuning_weight": WEIGHT},
        with_keys,
        finish=as_the_model,
    ),
}
