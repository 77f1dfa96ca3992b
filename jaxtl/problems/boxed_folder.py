"""Pictures with boxes of one's own and a trunk, some stages of which are trained under a detector's head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import Split, on_device
from jaxtl.detection import detection_loss
from jaxtl.models.detector import Detector, stride_of
from jaxtl.penalties import Term
from jaxtl.problems.detection import Detection, DetectionConfig, Pictures, true_boxes
from jaxtl.problems.few_shot import falling
from jaxtl.program import Program, Weights
from jaxtl.protocol import Budget, Draw
from jaxtl.transfer import Transfer, transfer
from jaxtl.trees import among

CHOOSES, WHOLE = Draw(0), Draw(1)  # leaves the pictures out that choose; learns from all


@dataclasses.dataclass(frozen=True)
class BoxTuning(DetectionConfig, Budget):
    """How a detector is trained, and what is searched."""

    batch_size: bounds.Count = 8
    learning_rate: bounds.Span = (0.001, 0.008)  # of Adam
    ratio: bounds.Span = (0.03, 1.0)  # learning rate of the trunk / of the head


class Seen(NamedTuple):
    """What a detector learns from.

    Attributes:
        array: [V · N, ...] pictures, or what frozen stages make of them: all as they are, then all mirrored (V = 2).
        boxes: box [V · N, M, 4] and box_class [V · N, M] of these.
        held: rows among the first N that choose.
        many: N.
        cell: pixels of a picture for each row and column of the array.
    """

    array: Any
    boxes: Split
    held: np.ndarray
    many: int
    cell: int = 1

    def rows(self, draw: Draw) -> np.ndarray:
        """That a draw learns from, mirrored ones too."""
        own = np.arange(self.many)
        own = np.setdiff1d(own, self.held) if draw == CHOOSES else own
        return np.concatenate([own + k * self.many for k in range(len(self.boxes) // self.many)])


class BoxedFolder(Detection):
    """Pictures with boxes and a trunk; a `protocol.Problem` on which the rows of `DETECTION` run.

    The draw `CHOOSES` learns from pictures of which some are held out, by mAP on which settings and methods are chosen;
    `WHOLE` learns from all.

    Args:
        config: has the fields of `BoxTuning`.
        trunk: params and model_state of a pretrained trunk; of its leaves those of the model's trunk are taken.
        model: the part that is trained.
        images: how the array reaches it.
        seen: what is learned from.
        classes: names.
    """

    def __init__(self, config: Any, trunk: Weights, model: Detector, images: Pictures, seen: Seen, classes: Any):
        self.config, self.model, self.images, self.seen = config, model, images, seen
        self.stride = seen.cell * stride_of(model, images.shape)
        self.objective = Term(1.0, detection_loss(len(classes), self.stride))
        self.title, self.origin = f"boxes in {seen.many} pictures", "one's own"
        self.content = tuple(seen.boxes.fields.values())
        self.pictures = {"train": jnp.asarray(seen.array)}
        self.truth_of = {"train": true_boxes(seen.boxes)}
        self.schedule, self.decay_kind = falling(config.steps), config.decay
        like = self.fresh(CHOOSES)
        state = {
            name: {"trunk": among(tree["trunk"], trunk.model_state[name])} for name, tree in like.model_state.items()
        }
        self.trunk = Weights(among(like.params["trunk"], trunk.params), state)
        self.moved = self.transferred(CHOOSES)

    def examples(self, draw: Draw) -> np.ndarray:
        """The rows of a draw."""
        return self.seen.rows(draw)

    def data(self, program: Program, start: Weights, draw: Draw) -> Any:
        """All of them, with the order in which a draw goes through its own: of one shape, whatever its size."""
        part = self.seen.boxes.having(image=self.pictures["train"])
        rows, count = self.examples(draw), self.config.steps * self.config.batch_size
        generator = np.random.default_rng([self.config.seed, draw.seed])
        index = np.concatenate([generator.permutation(rows) for _ in range(-(-count // len(rows)))])[:count]
        return on_device(part, self.key(draw, "order"), index)

    def transferred(self, draw: Draw) -> Transfer:
        """What `start` copies, with labels and anchor."""
        return transfer({"trunk": self.trunk.params}, self.fresh(draw).params, reinit=["head/.*"])

    def start(self, draw: Draw) -> Weights:
        """The trunk under a fresh head."""
        return Weights(self.transferred(draw).params, self.trunk.model_state)

    def point(self, weights: Weights, draw: Draw) -> Mapping[str, float]:
        """mAP on the pictures that choose."""
        return {"validation": self.score(weights, "train", self.seen.held)}
