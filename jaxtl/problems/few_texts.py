"""A source model and a few labelled texts, which are kept as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtl.data import DataSet
from jaxtl.problems.answered import Answered
from jaxtl.problems.source import Source


class FewTexts(Answered):
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
