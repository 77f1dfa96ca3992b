"""A joint space of images and descriptions, and a few labelled images of classes that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.models import Classifier
from jaxtl.models.space import Space
from jaxtl.problems.answered import Answered
from jaxtl.problems.images import Images
from jaxtl.problems.joint_space import Described, head_of
from jaxtl.problems.source import Source
from jaxtl.problems.texts import Texts
from jaxtl.program import Weights
from jaxtl.protocol import Draw


class FewDescribed(Answered):
    """A `FewShot` whose head may start at the descriptions of its classes: without any label it is the zero-shot one.

    Args:
        config, n: as for `FewShot`.
        source: joint spaces, see `JointSpace.as_source`.
        described: the target.
    """

    def __init__(self, config: Any, source: Source | Sequence[Source], described: Described, n: int):
        self.texts = described.texts
        super().__init__(config, source, described.task, n)
        self.title = f"{self.source.task.name} → {described.task.name}; {n} labelled images per class"

    def net(self, inputs: Images | Texts, **heads: int) -> Classifier:
        """A map into the space of the descriptions."""
        return Classifier(Space(self.texts.shape[1]), tuple(heads.items()))

    def headed(self, weights: Weights, draw: Draw, directions: Any) -> Weights:
        """A head by the cosine with a direction [C, E] for each class, as sure as that of the draw's joint space is."""
        kernel = self.source_of(draw).weights.params["head"]["kernel"]
        scale = float(jnp.linalg.norm(kernel[:, 0])) * np.sqrt(len(kernel))
        return weights._replace(params={**weights.params, "head": head_of(directions, scale)})

    def described(self, draw: Draw) -> Weights:
        """The source's map under the descriptions of the target's classes."""
        return self.headed(self.start(draw), draw, self.texts)
