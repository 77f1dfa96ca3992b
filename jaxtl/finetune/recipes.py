"""What is tried beside the heads: recipes of fine-tuning, and one that goes on where the best head has ended."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.methods.finetuning import DE_ELBO, pulled
from jaxtl.methods.finetuning import RECIPES as ALL
from jaxtl.problems.folder import HEAD, Folder
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Recipe

OF_FEW_SHOT = ("features", "fine_tune", "l2", "l2_differential", "l2_sp", "lr_ratio", "lp_ft", "lp_l2_sp", "scratch")


def from_head(name: str, problem: Folder, draw: Draw) -> Weights:
    """The trunk under a head of what the draw learns from: nothing is worse at the start.

    Args:
        name: of the head, "ridge" or "logistic".
        problem: its kind of label says how the head is fitted.
        draw: which examples are learned from.
    """
    start, (rows, _), examples = problem.start(draw), problem.parts.of(draw), problem.examples
    x = np.asarray(problem.features)[rows]
    groups = None if examples.groups is None else examples.groups[rows]
    fit = problem.kind.heads[name]
    head, _ = fit(x, examples.labels[rows], len(examples.classes), groups, problem.parts.seed)
    return start._replace(params={**start.params, HEAD: jax.tree.map(jnp.asarray, head)})


def _from(name: str) -> Recipe:
    means = f"fine-tuning from the head of {name} on; transferred parameters are pulled towards the trunk's own"
    return Recipe(pulled, ("learning_rate", "pull/source"), means, start=functools.partial(from_head, name))


RECIPES = {
    "logistic_l2_sp": _from("logistic"),
    "ridge_l2_sp": _from("ridge"),
    "de_elbo": dataclasses.replace(DE_ELBO, means="l2_sp whose two λ are learned in the run", chosen="tuned"),
    **{name: ALL[name] for name in OF_FEW_SHOT},
}
