"""Ways to carry a source model to a few labelled examples: rows of a table, and the programs they run in."""

from jaxtl.methods.finetuning.elbo_recipes import DE_ELBO
from jaxtl.methods.finetuning.label_tree_recipes import label_trees, labellings, moving
from jaxtl.methods.finetuning.recipes import RECIPES, TOWARDS, head, joint, options, pulled, pulls, untuned

__all__ = [
    "DE_ELBO",
    "RECIPES",
    "TOWARDS",
    "head",
    "joint",
    "label_trees",
    "labellings",
    "moving",
    "options",
    "pulled",
    "pulls",
    "untuned",
]
