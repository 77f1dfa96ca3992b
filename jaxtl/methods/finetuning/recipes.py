"""Ways to carry a source model to a few labelled examples; each a recipe, most of them rates of one program.

All take the same number of steps; probing a head takes as many again, which cost next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import image_batches, paired
from jaxtl.data.mixing import then
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.losses import softmax_cross_entropy
from jaxtl.models import Classifier, Mlp, as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l2
from jaxtl.problems import CLASSIFY, FewShot, Source, objective_of
from jaxtl.problems.few_shot import SOURCE_HEAD
from jaxtl.problems.many_sources import start_from
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Recipe

TOWARDS = {"zero": Term(0.0, l2), "source": Term(0.0, l2, ("anchor",))}  # a method means how hard


def options(problem: FewShot) -> dict[str, Any]:
    """How all but `untuned` go downhill, as arguments of `make_program`: a config may name another optimizer."""
    optimizer = getattr(problem.config, "optimizer", "nesterov")
    momentum = {"momentum": problem.config.momentum} if optimizer == "nesterov" else {}
    return {"optimizer": optimizer, "schedule": problem.schedule, **momentum}


def pulls(problem: FewShot, *labels: str, owner: str = TRANSFERRED, **elsewhere: Term) -> dict[str, Any]:
    """Groups of some labels, pulled towards zero as `config.decay` means, and those of an owner elsewhere."""
    groups = {label: Group(decay_kind=problem.decay_kind) for label in labels}
    if problem.config.decay != "loss":
        penalties: dict[str, Any] = {owner: elsewhere} if elsewhere else {}
        return {"groups": groups, "penalties": penalties, "rates": {f"decay/{label}": 0.0 for label in labels}}
    penalties = {label: TOWARDS["zero"] for label in labels}
    if elsewhere:
        penalties[owner] = {"zero": TOWARDS["zero"], **elsewhere}
    return {"groups": groups, "penalties": penalties}


def pulled(problem: FewShot, task: Term | None = None, mixing: Callable | None = None) -> Program:
    """Transferred parameters are pulled towards zero, towards the source, or not at all; new ones towards zero.

    Args:
        problem: the question.
        task: another loss than the problem's.
        mixing: number of classes -> a transform of batches that are prepared.
    """
    prepare = problem.images.batches(problem.config.batch_size)
    return make_program(
        as_forward(problem.model),
        problem.moved.labels,
        {"task": task or objective_of(problem)},
        **pulls(problem, TRANSFERRED, NEW, source=TOWARDS["source"]),
        given={"anchor": problem.moved.anchor},
        prepare=prepare if mixing is None else then(prepare, mixing(dict(problem.model.heads)["head"])),
        **options(problem),
    )


def head(problem: FewShot) -> Program:
    """The head alone, on features that the frozen trunk gives once: seconds instead of minutes for all folds."""
    width = problem.source.weights.params["head"]["kernel"].shape[0]
    return make_program(
        as_forward(Classifier(Mlp(widths=()), problem.model.heads)),
        {"head": problem.moved.labels["head"]},
        {"task": objective_of(problem)},
        **pulls(problem, NEW),
        prepare=image_batches(problem.config.batch_size, np.zeros(width), np.ones(width)),
        dense=True,
        **options(problem),
    )


def joint(problem: FewShot) -> Program:
    """Σ ℓ_target + source_weight · Σ ℓ_source: one trunk, two heads, a batch of each task."""
    forward, source_forward = as_forward(problem.joint_model), as_forward(problem.source_model)
    target, source = (i.batches(problem.config.batch_size) for i in (problem.images, problem.source_images))
    one_of_each = paired(target=target, source=source)

    def prepare(data, rng, step):
        batch = one_of_each(data, rng, step)
        return {**batch["target"], "source": batch["source"]}

    def both(params, model_state, batch, ctx):
        outputs, model_state = forward(params, model_state, batch, ctx)
        source_outputs, model_state = source_forward(params, model_state, batch["source"], ctx)
        return {**outputs, "source": source_outputs}, model_state

    def source_loss(outputs, batch, ctx):
        return jnp.mean(softmax_cross_entropy(outputs["source"][SOURCE_HEAD], batch["source"]["label"]))

    own = jax.tree.map(lambda _: TRANSFERRED, problem.source.weights.params["head"])
    return make_program(
        both,
        {**problem.moved.labels, SOURCE_HEAD: own},
        {"task": CLASSIFY, "source": Term(0.0, source_loss)},
        {TRANSFERRED: Group(), NEW: Group()},
        prepare=prepare,
        **options(problem),
    )


def untuned(problem: FewShot) -> Program:
    """The common recipe: Adam at 1e-3, coupled decay 1e-5 on the trunk and 1e-4 on the head."""
    groups = {TRANSFERRED: Group(1e-3, 1e-5, "coupled"), NEW: Group(1e-3, 1e-4, "coupled")}
    prepare = problem.images.batches(problem.config.batch_size)
    forward = as_forward(problem.model)
    return make_program(forward, problem.moved.labels, {"task": CLASSIFY}, groups, optimizer="adam", prepare=prepare)


def fresh(problem: FewShot, draw: Draw) -> Weights:
    """Nothing from the source."""
    return problem.fresh(draw)


def with_source_head(problem: FewShot, draw: Draw) -> Weights:
    """Both heads on the source's trunk."""
    start = problem.start(draw)
    return start._replace(params={**start.params, SOURCE_HEAD: problem.source_of(draw).weights.params["head"]})


def from_others(recipe: Recipe, sources: Sequence[Source], means: str) -> Recipe:
    """The same method from other source models: they are what it starts from and is pulled towards.

    Args:
        recipe: starts at a problem's source, without a stage before it.
        sources: one for each replicate, or the one of all.
        means: what it then does, in a line.

    Raises:
        InputError: a recipe that starts elsewhere.

    Example:
        >>> from_others(RECIPES["l2"], [], "l2, from a model of wrong labels").search
        ('learning_rate', 'pull')
    """
    if recipe.start or recipe.given or recipe.before or recipe.combine:
        raise InputError("starts elsewhere", where=f"from_others {recipe.means}", todo="name one without stages")

    def its(draw: Draw) -> Source:
        return sources[draw.replicate if len(sources) > 1 else 0]

    return dataclasses.replace(
        recipe,
        means=means,
        start=lambda problem, draw: start_from(problem, its(draw), draw),
        given=lambda problem, draw, start: {"anchor": problem.transferred(draw, its(draw)).anchor},
        transfers=False,
    )


PROBED = (Recipe(head), {"learning_rate": "head_learning_rate"})  # its head is first trained on features
RECIPES = {
    "scratch": Recipe(
        pulled,
        ("learning_rate", "pull"),
        "from random parameters, pulled towards 0; nothing of the source is used",
        start=fresh,
        transfers=False,
    ),
    "features": Recipe(
        head,
        ("learning_rate", "pull/new"),
        "the head alone is trained, pulled towards 0, on features of the source model, which stays as it is",
    ),
    "fine_tune": Recipe(pulled, means="all parameters are trained from the source model on, pulled nowhere"),
    "l2": Recipe(pulled, ("learning_rate", "pull"), "fine-tuning with one pull towards 0 for all kernels"),
    "l2_differential": Recipe(
        pulled,
        ("learning_rate", "pull/transferred", "pull/new"),
        "fine-tuning with a pull towards 0 of its own for transferred and for new kernels",
    ),
    "l2_sp": Recipe(
        pulled,
        ("learning_rate", "pull/source", "pull/new"),
        "fine-tuning; transferred parameters are pulled towards the source model, new kernels towards 0",
    ),
    "lr_ratio": Recipe(
        pulled,
        ("learning_rate", "ratio"),
        "fine-tuning in which the trunk learns more slowly than the head, pulled nowhere",
    ),
    "lp_ft": Recipe(
        pulled,
        ("learning_rate", "head_learning_rate"),
        "the head alone first, on features of the source model, then fine-tuning of everything",
        before=PROBED,
    ),
    "lp_l2_sp": Recipe(
        pulled,
        ("learning_rate", "head_learning_rate", "pull/source", "pull/new"),
        "the head alone first, as in lp_ft, then l2_sp",
        before=PROBED,
    ),
    "joint": Recipe(
        joint,
        ("learning_rate", "source_weight"),
        "source and target are learned together by one trunk with two heads; the source's loss has a weight",
        start=with_source_head,
    ),
    "untuned": Recipe(
        untuned,
        (),
        "fine-tuning by Adam at 1e-3 with decay 1e-5 on the trunk and 1e-4 on the head; nothing is chosen",
    ),
}
