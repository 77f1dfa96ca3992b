"""Ways to bring images to the descriptions of their classes, and ways on from there with a few labelled images.

Rows of a table on `problems.JointSpace`, and of one on `problems.FewDescribed`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import image_batches
from jaxtl.labels import NEW, TRANSFERRED, label_params
from jaxtl.losses import softmax_cross_entropy
from jaxtl.methods.multimodal.alignment import (
    SIGLIP_START,
    START,
    clip_loss,
    clip_scale,
    cosine_loss,
    mse_loss,
    siglip_loss,
)
from jaxtl.models import Classifier, Mlp, as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems import CLASSIFY, FewDescribed, JointSpace
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.selection import heads
from jaxtl.trees import Tree

LEARNED = "space"  # top-level name, and label, of what an alignment learns beside the map: a number or two
PULLED = ("learning_rate", "pull")
ZERO, TEXT = {"zero": Term(0.0, l2)}, {"text": Term(0.0, l2, ("anchor",))}
SOURCE = {"source": Term(0.0, l2, ("anchor",))}


# ---------------------------------------------------------------- one space for images and descriptions


def space(problem: JointSpace, loss: Callable[..., jax.Array], own: Tree) -> Program:
    """A map of images to the descriptions of their classes, pulled towards 0.

    Args:
        problem: the question.
        loss: (outputs with "features", "placed" and "space", texts [B, E], batch, ctx) -> scalar.
        own: numbers that it learns; {} without any.
    """
    labels = label_params(
        _started(problem, own, Draw(0)).params, [("trunk/.*", NEW), *([(".*", LEARNED)] if own else [])]
    )
    forward = as_forward(problem.model)

    def both(params, model_state, batch, ctx):
        outputs, model_state = forward(params, model_state, batch, ctx)
        return {**outputs, "placed": outputs["taps"]["dense_0"], "space": params.get(LEARNED)}, model_state

    def task(outputs, batch, ctx):
        return loss(outputs, ctx.given["texts"][batch["label"]], batch, ctx)

    return make_program(
        both,
        labels,
        {"task": Term(1.0, task)},
        {label: Group() for label in (NEW, *([LEARNED] if own else []))},
        {NEW: ZERO},
        optimizer="nesterov",
        momentum=problem.config.momentum,
        schedule=problem.schedule,
        prepare=problem.batches(),
        given=problem.given(Draw(0)),
        dense=True,
    )


def _started(problem: JointSpace, own: Tree, draw: Draw) -> Weights:
    start = problem.start(draw)
    return start._replace(params={**start.params, **({LEARNED: own} if own else {})})


def _same_class(batch: Mapping[str, Any]) -> jax.Array:
    return batch["label"][:, None] == batch["label"][None]


def _all_learned(outputs: Mapping[str, Any], texts: jax.Array, batch: Any, ctx: Any) -> jax.Array:
    """Cross-entropy over the descriptions of all learned classes."""
    features = outputs["features"] / np.sqrt(outputs["features"].shape[1])
    logits = clip_scale(outputs["space"]["log_scale"]) * features @ ctx.given["texts"].T
    logits = jnp.where(ctx.given["learned"][None], logits, -1e9)
    return jnp.mean(softmax_cross_entropy(logits, batch["label"]))


def _row(loss: Callable[..., jax.Array], means: str, **own: float) -> Recipe:
    numbers = {name: jnp.float32(value) for name, value in own.items()}
    return Recipe(
        functools.partial(space, loss=loss, own=numbers),
        PULLED,
        means,
        start=lambda problem, draw: _started(problem, numbers, draw),
        transfers=False,
    )


SPACES = {
    "classes": _row(
        _all_learned,
        "each image finds its description among those of all learned classes",
        log_scale=START,
    ),
    "clip": _row(
        lambda o, texts, batch, ctx: clip_loss(o["features"], texts, clip_scale(o["space"]["log_scale"])),
        "each image finds its description in the batch, and each description its image",
        log_scale=START,
    ),
    "clip_classes": _row(
        lambda o, texts, batch, ctx: clip_loss(
            o["features"], texts, clip_scale(o["space"]["log_scale"]), _same_class(batch)
        ),
        "clip, any other of its class being as right",
        log_scale=START,
    ),
    "siglip": _row(
        lambda o, texts, batch, ctx: siglip_loss(
            o["features"], texts, jnp.exp(o["space"]["log_scale"]), o["space"]["bias"]
        ),
        "of every image and description in a batch it is told whether they are a pair",
        log_scale=SIGLIP_START[0],
        bias=SIGLIP_START[1],
    ),
    "cosine": _row(
        lambda o, texts, batch, ctx: cosine_loss(o["features"], texts), "image and description point the same way"
    ),
    "mse": _row(lambda o, texts, batch, ctx: mse_loss(o["placed"], texts), "both are at the same place"),
}


# ---------------------------------------------------------------- a few labelled images of new classes


def head(problem: FewDescribed) -> Program:
    """The head alone on features of the map, pulled towards 0 and towards the descriptions."""
    width = problem.texts.shape[1]
    return make_program(
        as_forward(Classifier(Mlp(widths=()), problem.model.heads)),
        {"head": problem.moved.labels["head"]},
        {"task": CLASSIFY},
        {NEW: Group()},
        {NEW: ZERO | TEXT},
        prepare=image_batches(problem.config.batch_size, np.zeros(width), np.ones(width)),
        dense=True,
        **_downhill(problem),
    )


def whole(problem: FewDescribed) -> Program:
    """Map and head, each pulled towards 0 and towards where it starts."""
    return make_program(
        as_forward(problem.model),
        problem.moved.labels,
        {"task": CLASSIFY},
        {TRANSFERRED: Group(), NEW: Group()},
        {TRANSFERRED: ZERO | SOURCE, NEW: ZERO | TEXT},
        prepare=problem.images.batches(problem.config.batch_size),
        dense=True,
        **_downhill(problem),
    )


def _downhill(problem: FewDescribed) -> dict[str, Any]:
    return {"optimizer": "nesterov", "momentum": problem.config.momentum, "schedule": problem.schedule}


def at_text(problem: FewDescribed, draw: Draw) -> Weights:
    """See `FewDescribed.described`."""
    return problem.described(draw)


def towards_text(problem: FewDescribed, draw: Draw, start: Weights) -> dict[str, Tree]:
    """Source and descriptions as the anchor, wherever training starts."""
    return {"anchor": problem.described(draw).params}


def head_towards_text(problem: FewDescribed, draw: Draw, start: Weights) -> dict[str, Tree]:
    """Descriptions as the anchor."""
    return {"anchor": {"head": problem.described(draw).params["head"]}}


def probe(problem: FewDescribed, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """What ridge regression on the features as they are says."""
    examples, parts = problem.examples(draw), (problem.task.train.images, problem.task.test.images)
    labels, count = examples.labels[examples.seen], len(problem.task.classes)
    found, _ = heads.ridge(parts[0][examples.seen], labels, count, None, draw.seed)
    return problem.answered(weights, *(heads.logits(found, part) for part in parts))


def means(problem: FewDescribed, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The direction of Σ z_i + k · text by class, k labelled images being worth what a description is."""
    features, labels = problem.features(weights, draw)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    sums = np.stack([units[labels == label].sum(axis=0) for label in range(len(problem.texts))])
    centres = sums + setting.get("text_images", 0.0) * problem.texts
    return problem.headed(weights, draw, centres / np.linalg.norm(centres, axis=1, keepdims=True))


LABELLED = {
    "probe": Recipe(
        None, (), "ridge regression on features of images; no description is read", transfers=False, finish=probe
    ),
    "zero_shot": Recipe(None, (), "the most similar description; no label is read", start=at_text),
    "nearest_mean": Recipe(None, (), "the most similar class mean in the joint space", finish=means),
    "mean_and_text": Recipe(
        None,
        ("text_images",),
        "the most similar of class means to which the description is added, as so many images",
        ranges={"text_images": Range(0.3, 100.0)},
        finish=means,
    ),
    "fresh_to_zero": Recipe(
        head,
        ("learning_rate", "pull/new"),
        "a fresh head in the joint space, pulled towards 0",
        given=head_towards_text,
    ),
    "fresh_to_text": Recipe(
        head,
        ("learning_rate", "pull/text"),
        "a fresh head in the joint space, pulled towards the descriptions",
        given=head_towards_text,
    ),
    "text_to_zero": Recipe(
        head,
        ("learning_rate", "pull/new"),
        "a head that starts at the descriptions, pulled towards 0",
        start=at_text,
        given=head_towards_text,
    ),
    "text_to_text": Recipe(
        head,
        ("learning_rate", "pull/text"),
        "a head that starts at the descriptions, pulled towards them",
        start=at_text,
        given=head_towards_text,
    ),
    "all_to_zero": Recipe(
        whole, PULLED, "map and head are trained, from the descriptions on, pulled towards 0", start=at_text
    ),
    "all_to_start": Recipe(
        whole,
        ("learning_rate", "pull/source", "pull/text"),
        "map and head are trained, the map pulled towards the source, the head towards the descriptions",
        start=at_text,
        given=towards_text,
    ),
}
