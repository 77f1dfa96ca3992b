"""A source model and a few labelled texts, and beside them what answers without that model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data import DataSet
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.source import Source
from jaxtl.program import Weights

ANSWERS = "answers"  # in the state of weights: what was said of each text, of the training and of the test part


class FewTexts(FewShot):
    """A `FewShot` of tokens that keeps the texts, so that what reads them otherwise can be a row beside its methods.

    Args:
        config, source, n: as for `FewShot`.
        task: with the field "token", see `data.tokenised`.
        texts: the same task with the field "text".
        encoded: what a frozen encoder makes of the texts of each part, [N, D]; None without one.
    """

    def __init__(
        self,
        config: Any,
        source: Source | Sequence[Source],
        task: DataSet,
        n: int,
        texts: DataSet,
        encoded: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        super().__init__(config, source, task, n)
        self.texts, self.encoded = texts, encoded
        self.title = f"{self.source.task.name} → {task.name} by {config.model}; {n} labelled texts per class"

    def answered(self, start: Weights, train: np.ndarray, test: np.ndarray) -> Weights:
        """Weights that say of the training and of the test part what is said here, [N, C] each."""
        return start._replace(model_state={**start.model_state, ANSWERS: (train, test)})

    def answers(self, weights: Weights, index: np.ndarray | None = None) -> np.ndarray:
        """See `FewShot`."""
        if ANSWERS not in weights.model_state:
            return super().answers(weights, index)
        train, test = weights.model_state[ANSWERS]
        return test if index is None else train[index]
