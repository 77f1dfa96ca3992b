"""Problems of signals in which what answers from their spectrum alone can be a row beside others.

`learned_from` is what a draw labels: of the source where the target has no labels, else a few windows of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtl.data import DataSet
from jaxtl.models import Classifier
from jaxtl.models.signals import Spectrum
from jaxtl.problems.adaptation import Adaptation
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.images import outputs
from jaxtl.problems.source import Source
from jaxtl.program import Weights
from jaxtl.protocol import Draw

SPECTRUM = "spectrum"  # in the state of weights: a head on log spectra, which answers in place of the network


class AdaptedSignals(Adaptation):
    """An `Adaptation` of signals, whose weights may answer by the spectrum."""

    def learned_from(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """(windows of the source [n, T, C], their labels)."""
        _, learned, _ = self.parts(draw.replicate)
        return self.source.train[self.field][learned], self.source.train.labels[learned]

    def answers(self, weights: Weights, images: jax.Array, output: str = "head") -> np.ndarray:
        """See `Adaptation`."""
        if SPECTRUM not in weights.model_state:
            return super().answers(weights, images, output)
        return outputs(spectral(self), Weights(weights.model_state[SPECTRUM], {}), images, self.images, output)


class FewSignals(FewShot):
    """A `FewShot` of signals, whose weights may answer by the spectrum."""

    def __init__(self, config: Any, source: Source | Sequence[Source], task: DataSet, n: int):
        super().__init__(config, source, task, n)
        self.title = f"{self.source.task.name} → {task.name}; {n} labelled windows per class"

    def learned_from(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        """(the labelled windows of the target [n, T, C], their labels)."""
        examples = self.examples(draw)
        return self.task.train[self.field][examples.seen], examples.labels[examples.seen]

    def logits(self, weights: Weights, image: jax.Array) -> np.ndarray:
        """See `FewShot`."""
        if SPECTRUM not in weights.model_state:
            return super().logits(weights, image)
        return outputs(spectral(self), Weights(weights.model_state[SPECTRUM], {}), image, self.images, "head")


def spectral(problem: AdaptedSignals | FewSignals) -> Classifier:
    """The log spectrum under a linear head."""
    return Classifier(Spectrum(), problem.model.heads)


def spectra(problem: AdaptedSignals | FewSignals, signals: np.ndarray) -> np.ndarray:
    """[n, T // 2 · C] log spectra of windows [n, T, C]."""
    return outputs(Classifier(Spectrum(), ()), Weights({}, {}), jax.numpy.asarray(signals), problem.images, "features")
