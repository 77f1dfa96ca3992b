"""A source model and a few labelled examples, and beside them what answers without that model."""

from __future__ import annotations

import numpy as np

from jaxtl.problems.few_shot import FewShot
from jaxtl.program import Weights

ANSWERS = "answers"  # in the state of weights: what was said of each example, of the training and of the test part


class Answered(FewShot):
    """A `FewShot` beside whose methods a row may be what sees its examples otherwise."""

    def answered(self, start: Weights, train: np.ndarray, test: np.ndarray) -> Weights:
        """Weights that say of the training and of the test part what is said here, [N, C] each."""
        return start._replace(model_state={**start.model_state, ANSWERS: (train, test)})

    def answers(self, weights: Weights, index: np.ndarray | None = None) -> np.ndarray:
        """See `FewShot`."""
        if ANSWERS not in weights.model_state:
            return super().answers(weights, index)
        train, test = weights.model_state[ANSWERS]
        return test if index is None else train[index]
