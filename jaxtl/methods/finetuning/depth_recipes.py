"""Rows of methods that act along the depth of a network, all by its stages as labels "depth:k"."""

from __future__ import annotations

from jaxtl.labels import label_by_depth, label_set
from jaxtl.methods.finetuning.depth import (
    AUTO_RGN,
    GRADUALLY,
    layer_scales,
    moving_from,
    no_norms,
    slanted_triangle,
    surgical,
    unfreezing,
)
from jaxtl.methods.finetuning.source_recipes import fine_tuned
from jaxtl.models import stage_paths
from jaxtl.optimizers import Group
from jaxtl.problems import FewShot
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.trees import Tree


def depths(problem: FewShot) -> tuple[Tree, list[str]]:
    """The tree of labels "depth:k", and the labels from input to output."""
    labels = label_by_depth(problem.moved.params, stage_paths(problem.model))
    return labels, [f"depth:{k}" for k in range(len(label_set(labels)))]


def by_depth(problem: FewShot) -> Program:
    """A learning rate for every stage."""
    labels, names = depths(problem)
    return fine_tuned(problem, labels=labels, groups={name: Group() for name in names})


def discriminative(problem: FewShot) -> Program:
    """The learning rate of a stage is 1/2.6 of that of the next."""
    labels, names = depths(problem)
    scales = layer_scales(len(names), GRADUALLY)
    groups = {name: Group(moving_from(0, scale)) for name, scale in zip(names, scales, strict=True)}
    return fine_tuned(problem, labels=labels, groups=groups)


def unfrozen(problem: FewShot) -> Program:
    """The head moves at once, each stage below it some steps after the one above."""
    labels, names = depths(problem)
    starts = unfreezing(len(names), problem.config.steps)
    groups = {name: Group(moving_from(start)) for name, start in zip(names, starts, strict=True)}
    return fine_tuned(problem, labels=labels, groups=groups)


def ulmfit(problem: FewShot) -> Program:
    """Both, while the learning rate rises shortly and falls slowly."""
    labels, names = depths(problem)
    plan = zip(names, unfreezing(len(names), problem.config.steps), layer_scales(len(names), GRADUALLY), strict=True)
    groups = {name: Group(moving_from(start, scale)) for name, start, scale in plan}
    return fine_tuned(problem, labels=labels, groups=groups, schedule=slanted_triangle(problem.config.steps))


def auto_rgn(problem: FewShot) -> Program:
    """The learning rate of a stage is proportional to ‖g‖ / ‖w‖ of it."""
    labels, names = depths(problem)
    return fine_tuned(problem, labels=labels, groups={name: Group() for name in names}, gradient=surgical(labels))


def with_norms(problem: FewShot, draw: Draw) -> Weights:
    """Where `auto_rgn` starts: no gradient was seen."""
    start = problem.start(draw)
    return start._replace(model_state={**start.model_state, **no_norms(depths(problem)[0])})


def without_norms(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """Without what only training needed."""
    return weights._replace(model_state={k: tree for k, tree in weights.model_state.items() if k != AUTO_RGN})


DEPTH = {
    "layer_decay": Recipe(
        by_depth,
        ("learning_rate", "layer_decay"),
        "fine-tuning in which every stage learns more slowly than the next, by one factor",
        {"layer_decay": Range(0.3, 0.98)},
    ),
    "discriminative": Recipe(discriminative, means="layer_decay with the factor 1/2.6"),
    "gradual_unfreezing": Recipe(
        unfrozen, means="the head alone at first, in the first half of training one more stage after the other"
    ),
    "ulmfit": Recipe(
        ulmfit,
        means="discriminative with gradual_unfreezing, and a learning rate that rises shortly and falls slowly",
    ),
    "auto_rgn": Recipe(
        auto_rgn,
        means="fine-tuning in which stages learn as fast as their gradient is large beside their weights",
        start=with_norms,
        finish=without_norms,
    ),
}
