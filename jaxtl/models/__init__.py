"""Flax modules; the only room that imports Flax."""

from jaxtl.models.classifiers import Classifier, Cnn, Mlp, cut, initial_model_state, initialise, stage_paths
from jaxtl.models.forward import as_forward
from jaxtl.models.layers import max_pool, mean_pool
from jaxtl.models.residual import ResidualNetwork, resnet18, wide_resnet

__all__ = [
    "Classifier",
    "Cnn",
    "Mlp",
    "ResidualNetwork",
    "as_forward",
    "cut",
    "initial_model_state",
    "initialise",
    "max_pool",
    "mean_pool",
    "resnet18",
    "stage_paths",
    "wide_resnet",
]
