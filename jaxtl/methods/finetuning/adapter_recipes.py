"""Rows of adapters: the source's kernels stay, a few numbers beside them and the new head are trained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxtl.labels import NEW, TRANSFERRED, kernels, selected
from jaxtl.methods.finetuning.adapters import ADAPTER, BASE, adapted, dora, factored_l2, lora, lora_scale, merged, pissa
from jaxtl.methods.finetuning.recipes import options, pulls
from jaxtl.models import as_forward
from jaxtl.optimizers import Group
from jaxtl.penalties import Term
from jaxtl.problems import CLASSIFY, FewShot
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Recipe, Setting
from jaxtl.trees import Tree

RANK, SIZE = 8, 8.0  # r and α
SCALE = lora_scale(SIZE, RANK)
STREAM = 0x10A4  # folded into the key of the head

Make = Callable[[Tree, Tree, jax.Array], dict[str, Tree]]  # (params, which kernels, key) -> {"base", "adapter"}


def by_lora(params: Tree, on: Tree, rng: jax.Array) -> dict[str, Tree]:
    """See `lora`."""
    return lora(params, on, RANK, rng)


def by_dora(params: Tree, on: Tree, rng: jax.Array) -> dict[str, Tree]:
    """See `dora`."""
    return dora(params, on, RANK, rng)


def by_pissa(params: Tree, on: Tree, rng: jax.Array) -> dict[str, Tree]:
    """See `pissa`."""
    return pissa(params, on, RANK)


def start(make: Make, problem: FewShot, draw: Draw) -> Weights:
    """The source under a fresh head, with an adapter beside every kernel that was transferred."""
    weights = problem.start(draw)
    rng = jax.random.fold_in(problem.key(draw, "head"), STREAM)
    return weights._replace(params=make(weights.params, _adapted_kernels(problem), rng))


def program(make: Make, scale: float, problem: FewShot) -> Program:
    """Adapters and head move, pulled towards 0 or, as a product, towards no change; what was transferred is frozen."""
    params, on = problem.moved.params, _adapted_kernels(problem)
    like = jax.eval_shape(lambda rng: make(params, on, rng)[ADAPTER], jax.random.key(0))
    how = pulls(problem, NEW, ADAPTER, owner=ADAPTER, source=Term(0.0, factored_l2(scale)))
    how["groups"][TRANSFERRED] = Group(frozen=True)
    return make_program(
        adapted(as_forward(problem.model), scale),
        {BASE: problem.moved.labels, ADAPTER: jax.tree.map(lambda _: ADAPTER, like)},
        {"task": CLASSIFY},
        **how,
        prepare=problem.images.batches(problem.config.batch_size),
        **options(problem),
    )


def into_the_model(scale: float, problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The model that the adapters make of the source."""
    return weights._replace(params=merged(weights.params, scale))


def _adapted_kernels(problem: FewShot) -> Tree:
    return selected(problem.moved.params, problem.moved.labels, TRANSFERRED, kernels, "adapters")


def _with(make: Make, scale: float) -> dict[str, Any]:
    """What the rows of one kind of adapter have in common."""
    return {
        "program": functools.partial(program, make, scale),
        "start": functools.partial(start, make),
        "finish": functools.partial(into_the_model, scale),
    }


LORA, DORA, PISSA = _with(by_lora, SCALE), _with(by_dora, SCALE), _with(by_pissa, 1.0)
ADAPTERS = {
    "lora": Recipe(
        **LORA,
        search=("learning_rate", "pull/adapter"),
        means="the change of every transferred kernel is of low rank, its factors pulled towards 0",
    ),
    "lora_l2_sp": Recipe(
        **LORA,
        search=("learning_rate", "pull/source", "pull/new"),
        means="as lora, but the change itself is pulled towards 0 and not its factors; new kernels towards 0",
    ),
    "dora": Recipe(
        **DORA,
        search=("learning_rate", "pull/adapter"),
        means="as lora, with a length of its own for every column of a kernel",
    ),
    "pissa": Recipe(
        **PISSA, means="the largest singular directions of every transferred kernel are trained, the rest stays"
    ),
}
