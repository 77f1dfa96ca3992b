"""Ways to carry a source model to a few labelled examples: rows of a table, and the programs they run in.

the common ones                         recipes, label_tree_recipes
prices, decays, bounds of parameters    parameter_recipes    equations: parameter_space
inner outputs, predictions              feature_recipes, prediction_recipes    features; predictions, contrast
along the depth                         depth_recipes    depth;  widening: a wider network of the same function
"""

from jaxtl.methods.finetuning.depth_recipes import DEPTH
from jaxtl.methods.finetuning.feature_recipes import BATCH_NORMALISED, FEATURES
from jaxtl.methods.finetuning.label_tree_recipes import label_trees, labellings, moving
from jaxtl.methods.finetuning.parameter_recipes import PARAMETERS
from jaxtl.methods.finetuning.prediction_recipes import PREDICTIONS
from jaxtl.methods.finetuning.recipes import RECIPES, TOWARDS, head, joint, options, pulled, pulls, untuned

__all__ = [
    "BATCH_NORMALISED",
    "DEPTH",
    "FEATURES",
    "PARAMETERS",
    "PREDICTIONS",
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
