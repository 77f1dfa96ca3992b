"""What rows of several tables share: the source model beside the one that is trained, and its head on the new trunk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.labels import TRANSFERRED
from jaxtl.losses import Forward
from jaxtl.methods.finetuning.recipes import head, options
from jaxtl.models import Classifier, as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import Term
from jaxtl.problems import FewShot, objective_of, outputs
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Recipe
from jaxtl.trees import Tree

OLD_HEAD = "old_head"  # the source's, on the trunk that is trained


def fine_tuned(problem: FewShot, **how: Any) -> Program:
    """`make_program` on the problem's model, labels, batches and way downhill; `how` has the rest, and replaces these.

    Args:
        problem: gives the anchor as well.
        how: arguments of `make_program`; groups are needed.
    """
    common = {
        "forward": as_forward(problem.model),
        "labels": problem.moved.labels,
        "terms": {"task": objective_of(problem)},
        "given": {"anchor": problem.moved.anchor},
        "prepare": problem.images.batches(problem.config.batch_size),
        **options(problem),
    }
    return make_program(**{**common, **how})


def with_group(pulled: Mapping[str, Any], group: Group, *rates: str) -> dict[str, Any]:
    """What `pulls` gave, with a group for transferred parameters, and rates that it starts without."""
    own = {**pulled.get("rates", {}), **dict.fromkeys(rates, 0.0)}
    return {**pulled, "groups": {**pulled["groups"], TRANSFERRED: group}, "rates": own}


def source_model(problem: FewShot) -> Classifier:
    """The source's trunk and head, for images of the target's size and channels."""
    return Classifier(problem.model.trunk, ((OLD_HEAD, len(problem.source.task.classes)),))


def source_weights(problem: FewShot, draw: Draw) -> Weights:
    """Of `source_model`, as the source was left; its first kernel adapted where channels differ."""
    source = problem.source_of(draw).weights
    params = {"trunk": problem.anchor(draw.replicate)["trunk"], OLD_HEAD: source.params["head"]}
    return Weights(params, source.model_state)


def source_given(problem: FewShot, draw: Draw, start: Weights) -> dict[str, Tree]:
    """What `beside_source` reads."""
    return {"source": source_weights(problem, draw)._asdict()}


def beside_source(problem: FewShot, forward: Forward) -> Forward:
    """A forward pass with the source model's outputs as "source", on the same augmented images; as in evaluation."""
    there = as_forward(source_model(problem))

    def both(params, model_state, batch, ctx):
        found, model_state = forward(params, model_state, batch, ctx)
        source, still = ctx.given["source"], dataclasses.replace(ctx, train=False, frozen=frozenset())
        outputs_there, _ = there(source["params"], source["model_state"], batch, still)
        return {**found, "source": jax.lax.stop_gradient(outputs_there)}, model_state

    return both


def mean_term(per_example: Callable[[Any, Any, Any], jax.Array]) -> Term:
    """A loss term that starts with the rate 0: the mean of fn(outputs, batch, ctx) -> [B]."""
    return Term(0.0, lambda outputs, batch, ctx: jnp.mean(per_example(outputs, batch, ctx)))


def both_heads(problem: FewShot) -> tuple[Classifier, Tree]:
    """The target's model with the source's head on its trunk too, and the labels of its parameters."""
    model = Classifier(problem.model.trunk, (*problem.model.heads, *source_model(problem).heads))
    own = jax.tree.map(lambda _: TRANSFERRED, problem.source.weights.params["head"])
    return model, {**problem.moved.labels, OLD_HEAD: own}


def with_old_head(problem: FewShot, draw: Draw) -> Weights:
    """Where methods start that train the source's head further."""
    start = problem.start(draw)
    return start._replace(params={**start.params, OLD_HEAD: source_weights(problem, draw).params[OLD_HEAD]})


def source_logits(problem: FewShot, draw: Draw, images: jax.Array) -> np.ndarray:
    """[N, S]: what the source model says of raw target images."""
    return outputs(source_model(problem), source_weights(problem, draw), images, problem.images, OLD_HEAD)


def seen(problem: FewShot, draw: Draw) -> tuple[jax.Array, np.ndarray]:
    """(raw images, labels) that a draw trains on."""
    examples = problem.examples(draw)
    return problem.target_images[examples.seen], examples.labels[examples.seen]


PROBED_OLD = (Recipe(head, start=with_old_head), {"learning_rate": "head_learning_rate"})  # `recipes.PROBED`, so begun
