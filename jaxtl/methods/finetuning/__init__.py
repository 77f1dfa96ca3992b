"""Ways to carry a source model to a few labelled examples: rows of tables, and the programs they run in.

RECIPES                   recipes                              what is trained, pulled where, and from which start
DE_ELBO                   elbo                                 how hard transferred and new ones are pulled is learned
PARAMETERS                parameter_space, source_recipes      prices, decays and bounds of parameters
FEATURES, PREDICTIONS     features; predictions, contrast      inner outputs and answers of the source model
DEPTH                     depth                                what is near the input moves less, or later
STAGES                    stage_recipes                          who moves, in one stage after another
WEIGHT_SPACE              weight_space, averaging              models that are interpolated or averaged
ADAPTERS                  adapters                             low-rank changes of kernels that stay
DETECTION                 jaxtl.detection                      boxes: rows of the above for a detector, by Adam
LOSSES                    class_losses, data.mixing            rare classes, less certain labels, mixed examples
HEADS                     prototypes, selection.heads          heads in closed form on features, the bar for all others
"""

from jaxtl.methods.finetuning.adapter_recipes import ADAPTERS
from jaxtl.methods.finetuning.depth_recipes import DEPTH
from jaxtl.methods.finetuning.detection_recipes import DETECTION
from jaxtl.methods.finetuning.elbo_recipes import DE_ELBO
from jaxtl.methods.finetuning.feature_recipes import BATCH_NORMALISED, FEATURES
from jaxtl.methods.finetuning.head_recipes import HEADS
from jaxtl.methods.finetuning.label_tree_recipes import label_trees, labellings, moving
from jaxtl.methods.finetuning.loss_recipes import LOSSES
from jaxtl.methods.finetuning.parameter_recipes import PARAMETERS
from jaxtl.methods.finetuning.prediction_recipes import PREDICTIONS
from jaxtl.methods.finetuning.recipes import RECIPES, TOWARDS, from_others, head, joint, options, pulled, pulls, untuned
from jaxtl.methods.finetuning.stage_recipes import STAGES, Stage, staged
from jaxtl.methods.finetuning.weight_space_recipes import WEIGHT_SPACE

__all__ = [
    "ADAPTERS",
    "BATCH_NORMALISED",
    "DEPTH",
    "DETECTION",
    "DE_ELBO",
    "FEATURES",
    "HEADS",
    "LOSSES",
    "PARAMETERS",
    "PREDICTIONS",
    "RECIPES",
    "STAGES",
    "TOWARDS",
    "WEIGHT_SPACE",
    "Stage",
    "from_others",
    "head",
    "joint",
    "label_trees",
    "labellings",
    "moving",
    "options",
    "pulled",
    "pulls",
    "staged",
    "untuned",
]
