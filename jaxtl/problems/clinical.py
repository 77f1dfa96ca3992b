"""What a clinician asks of a few-label problem: how sure an answer is, whom a threshold finds, and so elsewhere too.

Thresholds and temperatures come from held-out training examples; test examples, here or elsewhere, have no say in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import DataSet, Split
from jaxtl.errors import InputError
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.source import Source
from jaxtl.program import Weights
from jaxtl.protocol import MEASURES, Draw, Trained
from jaxtl.protocol.decisions import at_threshold, threshold_at_specificity
from jaxtl.selection.validation import calibrated

PIXELS = "pixels"  # parameters of a linear answer to the pixels themselves, beside those of the model
HERE, HELD, ELSEWHERE = "logits/test", "logits/held", "logits/elsewhere"  # arrays of a report run


class Reading(NamedTuple):
    """How logits are read, as held-out examples have it.

    Attributes:
        temperature: that logits are divided by.
        threshold: a finding is called above it, in units of `score_of`; NaN where there are several kinds.
    """

    temperature: float
    threshold: float


def score_of(logits: np.ndarray) -> np.ndarray:
    """[N, 2] logits -> [N] how much speaks for the finding, which is the second class: its log odds."""
    return np.asarray(logits[:, 1], np.float64) - logits[:, 0]


def reading_of(logits: np.ndarray, labels: np.ndarray, specificity: float) -> Reading:
    """Temperature and threshold of held-out examples; the temperature takes one more to be wrong, see `calibrated`.

    Args:
        logits: [V, C].
        labels: [V].
        specificity: that the threshold is to have; of two classes.
    """
    two = logits.shape[1] == 2
    threshold = threshold_at_specificity(labels, score_of(logits), specificity) if two else np.nan
    return Reading(calibrated(logits, labels), threshold)


class Clinical(FewShot):
    """A `FewShot` that keeps its answers, and what held-out examples say of how to read them.

    Args:
        config, source, task, n: as for `FewShot`; the config has `specificity`. Of two classes the second
            is the finding.
        elsewhere: examples of the same classes from elsewhere, none of which is trained on here; None for none.

    Raises:
        InputError: a class without held-out examples.
    """

    def __init__(
        self, config: Any, source: Source | Sequence[Source], task: DataSet, n: int, elsewhere: Split | None = None
    ):
        super().__init__(config, source, task, n)
        self.title = f"{task.name} from {self.source.task.name}; {n} labelled examples per class"
        self.elsewhere = elsewhere
        self.far_images = None if elsewhere is None else jnp.asarray(elsewhere[self.field])
        for replicate in range(config.replicates):
            held = task.train.labels[self.parts(replicate)[0]]
            for label in {*range(len(task.classes))} - {*held.tolist()}:
                what = f"no held-out example is of class '{task.classes[label]}'"
                where = f"--config.validation={config.validation}"
                raise InputError(what, where=where, todo="hold out more, or give more training examples")

    def logits(self, weights: Weights, image: jax.Array) -> np.ndarray:
        """See `FewShot`; of a row that answers to pixels, linear in them."""
        if PIXELS not in weights.params:
            return super().logits(weights, image)
        linear = weights.params[PIXELS]
        return flat(np.asarray(image)) @ np.asarray(linear["kernel"]) + np.asarray(linear["bias"])

    def groups(self) -> np.ndarray:
        """[N] who the test examples are of; without groups each is for itself."""
        groups = self.task.test.groups
        return np.arange(len(self.task.test)) if groups is None else groups

    def held_labels(self, replicate: int) -> np.ndarray:
        """[V] of the examples that choose."""
        return self.task.train.labels[self.parts(replicate)[0]]

    def test(self, trained: Trained, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """See `FewShot`; the logits too, and figures that need thresholds or temperatures."""
        metrics, arrays = super().test(trained, draw)
        held, _ = self.parts(draw.replicate)
        logits = {HERE: self.answers(trained.weights), HELD: self.answers(trained.weights, held)}
        read = reading_of(logits[HELD], self.held_labels(draw.replicate), self.config.specificity)
        labels = self.task.test.labels
        metrics |= {"temperature": read.temperature, "roc_auc": MEASURES["roc_auc"].score(labels, logits[HERE])}
        metrics |= _calibration("", labels, logits[HERE], read)
        if len(self.task.classes) == 2:
            metrics |= at_threshold(labels, score_of(logits[HERE]), read.threshold)._asdict()
        if self.elsewhere is not None and self.far_images is not None:
            logits[ELSEWHERE] = self.logits(trained.weights, self.far_images)
            metrics["elsewhere"] = self.measure.score(self.elsewhere.labels, logits[ELSEWHERE])
            metrics |= _calibration("elsewhere/", self.elsewhere.labels, logits[ELSEWHERE], read)
        return metrics, {**arrays, **logits}


def flat(images: np.ndarray) -> np.ndarray:
    """[N, H · W · C] float32, 8 bits as 0..1."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def _calibration(prefix: str, labels: np.ndarray, logits: np.ndarray, read: Reading) -> dict[str, float]:
    """The calibration error as trained, and at the temperature of held-out examples."""
    error = MEASURES["calibration_error"].score
    return {
        f"{prefix}calibration_error": error(labels, logits),
        f"{prefix}calibrated": error(labels, logits / read.temperature),
    }
