"""Rows that adapt a source model to the target: each draw has one, which they share; its steps are part of theirs.

What is left of the steps is theirs. AdaBN takes no step on target images, and has all of them for its source model.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl.data import Split, on_device
from jaxtl.errors import InputError
from jaxtl.labels import NEW, SHARED
from jaxtl.methods.domain.adversary import both_players, domain_loss
from jaxtl.methods.domain.confidence import entropy
from jaxtl.methods.domain.game_recipes import adversary_of, own_of, played, split, spoken, with_adversary
from jaxtl.methods.domain.term_recipes import ADVERSARY, ANCHOR, Sides, adapted, source_only
from jaxtl.models import as_forward
from jaxtl.penalties import Term
from jaxtl.problems.adaptation import Adaptation
from jaxtl.problems.images import with_statistics_of
from jaxtl.program import Program, Weights, alternate
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.step import EVALUATE
from jaxtl.sweep import run
from jaxtl.trees import Tree

ANCHOR_STATE = "anchor_state"  # what the source model carries along
SLOW = Range(1e-4, 0.03)  # learning rates where no label holds answers in place: 2e-4 (ADDA) and 1e-3 (Tent) published
STATISTICAL = ("adabn", "tent")
NORMS, HELD = "norms", "held"  # labels: scales and shifts of normalisations, and all the rest


@functools.lru_cache(maxsize=32)
def source_model(problem: Adaptation, draw: Draw) -> Weights:
    """A network after `source_steps` on the labelled source, at `source_learning_rate`."""
    config, start = problem.config, problem.start(draw)
    program = source_only(problem, config.source_steps)
    rates = problem.rates(program, {"learning_rate": config.source_learning_rate})
    data = problem.data(program, start, draw)
    return run(program, start, data, rates, problem.key(draw, "run"), steps=config.source_steps).weights


def remaining(problem: Adaptation) -> int:
    """The steps that the source model has left."""
    return problem.config.steps - problem.config.source_steps


def check_after(config: Any, methods: Sequence[str]) -> None:
    """That what these rows need is there.

    Raises:
        InputError: no step is left, or no batch normalisation for a row that changes its statistics.
    """
    asked = [name for name in methods if name in AFTER]
    begun = [name for name in asked if AFTER[name].start is not None]
    if begun and config.source_steps >= config.steps:
        what = f"{config.source_steps} of {config.steps} steps are the source model's, none are left for {begun[0]}"
        raise InputError(what, where="--config.source_steps", todo="give it fewer than --config.steps")
    of_batches = [name for name in asked if name in STATISTICAL]
    if of_batches and (config.model == "mlp" or config.normalisation != "batch"):
        what = f"{of_batches[0]} changes statistics of batch normalisation, and this model has none"
        raise InputError(what, where="--config.methods", todo="add --config.model=cnn --config.normalisation=batch")


def as_anchor(problem: Adaptation, draw: Draw, start: Weights) -> dict[str, Tree]:
    """The source model, to be pulled towards or compared with."""
    return {ANCHOR: start.params, ANCHOR_STATE: start.model_state}


# ---------------------------------------------------------------- ADDA


def untied(problem: Adaptation) -> Program:
    """ADDA: a copy of the source's trunk learns to give target images features that are taken for the source's.

    In phases: the adversary tells features of the held source trunk from those of the copy; then the copy is rewarded
    where it is taken for the source (labels inverted). The head stays the source's.
    """
    net, forward = adversary_of(problem, "dann")[0], as_forward(problem.model)
    play, field = functools.partial(spoken, net), problem.field

    def apart(params, model_state, batch, ctx):
        (own, adversary), theirs = split(params), split(ctx.given[ANCHOR])[0]
        source, _ = forward(theirs, ctx.given[ANCHOR_STATE], {field: batch["source"][field]}, EVALUATE)
        target, model_state = forward(own, model_state, {field: batch["target"][field]}, ctx)
        sides = {"source": source["features"], "target": target["features"]}
        said = {side: both_players(play, adversary, features) for side, features in sides.items()}
        return said, model_state

    def learns(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
        return domain_loss(outputs["source"][0], outputs["target"][0])

    def fools(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
        return jnp.mean(jax.nn.softplus(-outputs["target"][1]))

    how: dict[str, Any] = {"forward": apart, "own": own_of(problem, "dann"), "task": None, "steps": remaining(problem)}
    return alternate(
        learn=adapted(problem, {ADVERSARY: Term(1.0, learns)}, frozen=(SHARED, NEW), **how),
        fool=adapted(problem, {"adda": Term(1.0, fools)}, frozen=(NEW, ADVERSARY), **how),
    )


# ---------------------------------------------------------------- normalisations


def target_statistics(problem: Adaptation, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The same parameters with the statistics of target examples.

    Source: Li, Wang, Shi, Liu and Hou, "Revisiting Batch Normalization for Practical Domain Adaptation", 2016.
    """
    data = on_device(Split(**{problem.field: problem.target_images}), problem.key(draw, "target order"))
    return with_statistics_of(problem, weights, data, problem.key(draw, "run"))


def entropy_of_norms(problem: Adaptation) -> Program:
    """Tent: scales and shifts of batch normalisations go down on the entropy of answers to target batches.

    Here on training images of the target, for what is left of the steps; running averages, which become the target's on
    the way, normalise test images. In the paper it goes on at test time, each test batch by its own statistics.

    Source: Wang, Shelhamer, Liu, Olshausen and Darrell, "Tent: Fully Test-time Adaptation by Entropy Minimization",
    2021.
    """

    def sure(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
        return jnp.mean(entropy(outputs["target"]["head"]))

    rules = (("trunk/norm_.*", NORMS), (".*", HELD))
    how: dict[str, Any] = {"domains": ("target",), "task": sure, "frozen": (HELD,), "rules": rules}
    return adapted(problem, {}, steps=remaining(problem), **how)


# ---------------------------------------------------------------- rows


def _continued(means: str, *pulls: str, towards_source: bool = False) -> Recipe:
    """DANN from the source model on, with pulls."""
    weight = {"dann_weight": Range(0.1, 3.0)}
    return Recipe(
        played("dann", anchored=towards_source, steps=remaining),
        ("learning_rate", *weight, *pulls),
        means,
        weight,
        start=with_adversary("dann", source_model),
        given=as_anchor if towards_source else None,
        transfers=False,
    )


AFTER = {
    "dann_after": _continued("dann from the source model on, nothing pulled"),
    "dann_after_l2_sp": _continued(
        "the same, the trunk pulled towards the source model", "pull/source", towards_source=True
    ),
    "dann_after_differential": _continued(
        "the same, trunk and head pulled to 0, each harder or softer than the other", "pull/shared", "pull/new"
    ),
    "adda": Recipe(
        untied,
        means="a copy of the source's trunk gives target images features that an adversary takes for the source's",
        ranges={"learning_rate": SLOW},
        start=with_adversary("dann", source_model),
        given=as_anchor,
        transfers=False,
    ),
    "adabn": Recipe(
        source_only,
        means="source examples alone, then the batch statistics of target images",
        finish=target_statistics,
        transfers=False,
    ),
    "tent": Recipe(
        entropy_of_norms,
        means="the source model whose normalisations make answers to target images sure",
        ranges={"learning_rate": SLOW},
        start=source_model,
        transfers=False,
    ),
}
