"""Flax modules; the only room that imports Flax."""

from jaxtl.models.classifiers import Classifier, Cnn, Mlp, as_forward, initialise
from jaxtl.models.layers import max_pool, mean_pool

__all__ = ["Classifier", "Cnn", "Mlp", "as_forward", "initialise", "max_pool", "mean_pool"]
