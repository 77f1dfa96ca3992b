"""What is tried beside the heads: recipes of fine-tuning, and one that goes on where the best head has ended."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.finetune import heads
from jaxtl.methods.finetuning import DE_ELBO, pulled
from jaxtl.methods.finetuning import RECIPES as ALL
from jaxtl.problems.folder import HEAD, Folder
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Recipe

OF_FEW_SHOT = ("features", "fine_tune", "l2", "l2_sp", "lr_ratio", "lp_ft", "lp_l2_sp", "scratch")
DEFAULT = ("logistic_l2_sp", "l2_sp", "lr_ratio")  # in the order in which a budget gives them up from behind


def from_logistic(problem: Folder, draw: Draw) -> Weights:
    """The trunk under the head of logistic regression on what the draw learns from: nothing is worse at the start."""
    start, (rows, _), examples = problem.start(draw), problem.parts.of(draw), problem.examples
    x = np.asarray(problem.features)[rows]
    groups = None if examples.groups is None else examples.groups[rows]
    head, _ = heads.logistic(x, examples.labels[rows], len(examples.classes), groups, problem.parts.seed)
    return start._replace(params={**start.params, HEAD: jax.tree.map(jnp.asarray, head)})


RECIPES = {
    "logistic_l2_sp": Recipe(
        pulled,
        ("learning_rate", "pull/source"),
        "fine-tuning from the head of logistic on; transferred parameters are pulled towards the trunk's own",
        start=from_logistic,
    ),
    "de_elbo": dataclasses.replace(DE_ELBO, means="l2_sp whose two λ are learned in the run", chosen="tuned"),
    **{name: ALL[name] for name in OF_FEW_SHOT},
}
