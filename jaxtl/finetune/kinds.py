"""What a label is, and all that follows from it: what an answer pays, which heads are tried, what outputs mean.

    classes   one of several names         softmax cross-entropy          a probability each, that sum to 1
    several   any of several names         a sigmoid and its log-loss     a probability each
    number    a number, standardised       squared error                  a value and its interval

All else of a fine-tuning knows nothing of the kind, but for `page`, which shows each in its own way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data.targets import SEPARATOR
from jaxtl.finetune import tfidf
from jaxtl.finetune.readings import COVERAGE, Reading, half_width
from jaxtl.losses import mean_of, sigmoid_binary_cross_entropy, squared_error
from jaxtl.penalties import Term
from jaxtl.problems import CLASSIFY
from jaxtl.protocol import MEASURES, R2, Measure
from jaxtl.selection import heads as fits
from jaxtl.selection.validation import calibrated, log_likelihoods

SHOWN = 20  # names of classes in a line
SURE = 0.5  # probability from which on a label is named


class Kind:
    """What a label is; one object for each kind, in `KINDS`.

    Attributes:
        name: as --task has it.
        noun: what the labels are called.
        measures: that may decide, the first by default.
        heads: how each is fitted.
        tuned: of fine-tuning, what is tried by default, in the order in which a budget gives them up from behind.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    heads: ClassVar[Mapping[str, fits.Fit]]
    tuned: ClassVar[tuple[str, ...]]

    def measure(self, name: str, labels: np.ndarray) -> Measure:
        """What decides, by its key; `labels` are all that is learned from."""
        return MEASURES[name]

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """A name for each output of the head."""
        return tuple(classes)

    def learned(self, labels: np.ndarray, everything: np.ndarray) -> np.ndarray:
        """Labels as they are learned; `everything` that is learned from says in which unit."""
        raise NotImplementedError

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """[N] integers >= 0 that folds have equal shares of."""
        raise NotImplementedError

    def most(self, labels: np.ndarray) -> int:
        """Of how many folds each can have something to be judged by."""
        return int(np.bincount(self.strata(labels)).max())

    def objective(self, outputs: int) -> Term:
        """What an answer pays in training."""
        raise NotImplementedError

    def likelihood(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        """Of labels as they are learned, up to a constant: tells apart what the measure calls equal."""
        raise NotImplementedError

    def reading(self, labels: np.ndarray, outputs: np.ndarray, everything: np.ndarray) -> Reading:
        """What outputs mean, of examples left out; `labels` as they are learned, `everything` as they are."""
        raise NotImplementedError

    def said(self, outputs: jax.Array, reading: Reading) -> jax.Array:
        """[B, C] outputs -> [B, S] what is told, a pure function."""
        raise NotImplementedError

    def columns(self, classes: Sequence[str]) -> list[str]:
        """Of a table of answers."""
        return [*self.answer_column, *(f"p({name})" for name in classes)]

    answer_column: ClassVar[tuple[str, ...]] = ()

    def answer(self, classes: Sequence[str], said: np.ndarray) -> str:
        """What one row of `said` names; "" of a number."""
        raise NotImplementedError

    def in_words(self, classes: Sequence[str], said: np.ndarray) -> str:
        """One row of `said` for a person."""
        raise NotImplementedError

    def described(self, labels: np.ndarray, classes: Sequence[str]) -> str:
        """Labels in a line: how many of each."""
        counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(classes))
        span = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.min()}"
        return f"{len(classes):,} {self.noun} of {span} each"

    def sentence(self, classes: Sequence[str]) -> str:
        """What such a model answers, for its card."""
        raise NotImplementedError

    def meaning(self, reading: Reading) -> str:
        """How its outputs become answers, for its card."""
        raise NotImplementedError


class Classes(Kind):
    """One of several names."""

    name, noun = "classes", "classes"
    measures = tuple(name for name in MEASURES if name != "r2")
    heads: ClassVar = {
        "ridge": fits.ridge,
        "logistic": fits.logistic,
        "logistic_adjusted": fits.logistic_adjusted,
        tfidf.TFIDF: tfidf.logistic,
    }
    tuned = ("logistic_l2_sp", "l2_sp", "lr_ratio")
    answer_column = ("class",)

    def learned(self, labels: np.ndarray, everything: np.ndarray) -> np.ndarray:
        return labels

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def objective(self, outputs: int) -> Term:
        return CLASSIFY

    def likelihood(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        return float(log_likelihoods(outputs, labels).mean())

    def reading(self, labels: np.ndarray, outputs: np.ndarray, everything: np.ndarray) -> Reading:
        return Reading(calibrated(outputs, labels))

    def said(self, outputs: jax.Array, reading: Reading) -> jax.Array:
        return jax.nn.softmax(outputs / reading.temperature, axis=-1)

    def answer(self, classes: Sequence[str], said: np.ndarray) -> str:
        return classes[int(said.argmax())]

    def in_words(self, classes: Sequence[str], said: np.ndarray) -> str:
        return f"{self.answer(classes, said)}  {100 * said.max():.0f} %"

    def sentence(self, classes: Sequence[str]) -> str:
        return f"Answers with one of {len(classes)} classes, whatever it is shown: {_some(classes)}"

    def meaning(self, reading: Reading) -> str:
        return f"Probabilities: softmax(logits / {reading.temperature:.3g}), the temperature from examples left out"


class Several(Kind):
    """Any of several names, each for itself."""

    name, noun = "several", "labels"
    measures = ("average_precision", "macro_f1", "roc_auc")
    heads: ClassVar = {"ridge": fits.ridge_several, "logistic": fits.logistic_several}
    tuned = Classes.tuned
    answer_column = ("labels",)

    def learned(self, labels: np.ndarray, everything: np.ndarray) -> np.ndarray:
        return labels.astype(np.float32)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """The rarest label of each example, and a stratum of its own for those that have none."""
        counts = labels.sum(axis=0)
        ranked = np.argsort(counts, kind="stable")
        own = ranked[(labels[:, ranked] > 0).argmax(axis=1)]
        return np.where((labels > 0).any(axis=1), own, labels.shape[1])

    def most(self, labels: np.ndarray) -> int:
        return int(np.bincount(self.strata(labels), minlength=labels.shape[1])[: labels.shape[1]].max())

    def objective(self, outputs: int) -> Term:
        return Term(float(outputs), mean_of(sigmoid_binary_cross_entropy))  # the sum over the labels

    def likelihood(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        return -float(np.mean(np.logaddexp(0, outputs) - labels * outputs))

    def reading(self, labels: np.ndarray, outputs: np.ndarray, everything: np.ndarray) -> Reading:
        """One temperature for all labels: σ(z) is the softmax of 0 and z."""
        flat = outputs.reshape(-1)
        return Reading(calibrated(np.stack([np.zeros_like(flat), flat], axis=1), labels.reshape(-1).astype(int)))

    def said(self, outputs: jax.Array, reading: Reading) -> jax.Array:
        return jax.nn.sigmoid(outputs / reading.temperature)

    def answer(self, classes: Sequence[str], said: np.ndarray) -> str:
        names = [name for name, p in zip(classes, said, strict=True) if p >= SURE]
        odd = not names or any(SEPARATOR in name or name.startswith("[") for name in names)
        return json.dumps(names, ensure_ascii=False) if odd else SEPARATOR.join(names)

    def in_words(self, classes: Sequence[str], said: np.ndarray) -> str:
        sure = ", ".join(f"{name} {100 * p:.0f} %" for name, p in zip(classes, said, strict=True) if p >= SURE)
        return sure or f"none (most likely {classes[int(said.argmax())]}, {100 * said.max():.0f} %)"

    def sentence(self, classes: Sequence[str]) -> str:
        return f"Answers with any of {len(classes)} labels, or none, whatever it is shown: {_some(classes)}"

    def meaning(self, reading: Reading) -> str:
        return (
            f"Probabilities, of each label for itself: sigmoid(logit / {reading.temperature:.3g}), one temperature for "
            f"all from examples left out; a label is named from {100 * SURE:.0f} % on"
        )


class Number(Kind):
    """A number, standardised while it is learned."""

    name, noun = "number", "numbers"
    measures = ("r2",)
    heads: ClassVar = {"ridge": fits.ridge_numbers}
    tuned = ("ridge_l2_sp", "l2_sp", "lr_ratio")

    def measure(self, name: str, labels: np.ndarray) -> Measure:
        """R² by the variance of all numbers: that of the few of one fold is no measure of anything."""
        variance = float(np.var(self.learned(labels, labels)))

        def score(own: np.ndarray, outputs: np.ndarray) -> float:
            return 1 - float(np.mean(np.square(own - outputs, dtype=np.float64))) / variance

        return R2._replace(score=score)

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("value",)

    def learned(self, labels: np.ndarray, everything: np.ndarray) -> np.ndarray:
        mean, spread = _moments(everything)
        return ((labels[:, None] - mean) / spread).astype(np.float32)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return np.zeros(len(labels), int)

    def objective(self, outputs: int) -> Term:
        return Term(1.0, mean_of(squared_error))

    def likelihood(self, labels: np.ndarray, outputs: np.ndarray) -> float:
        return -float(np.mean(np.square(labels - outputs)))

    def reading(self, labels: np.ndarray, outputs: np.ndarray, everything: np.ndarray) -> Reading:
        mean, spread = _moments(everything)
        return Reading(1.0, mean, spread, spread * half_width(labels, outputs))

    def said(self, outputs: jax.Array, reading: Reading) -> jax.Array:
        value = reading.value(outputs[:, 0])
        return jnp.stack([value, value - reading.half, value + reading.half], axis=-1)

    def columns(self, classes: Sequence[str]) -> list[str]:
        return ["value", "low", "high"]

    def answer(self, classes: Sequence[str], said: np.ndarray) -> str:
        return ""

    def in_words(self, classes: Sequence[str], said: np.ndarray) -> str:
        value, low, high = said
        return f"{value:.6g}  [{low:.6g}, {high:.6g}]"

    def described(self, labels: np.ndarray, classes: Sequence[str]) -> str:
        return f"numbers from {labels.min():g} to {labels.max():g}"

    def sentence(self, classes: Sequence[str]) -> str:
        return "Answers with a number and an interval around it, whatever it is shown"

    def meaning(self, reading: Reading) -> str:
        return (
            f"Number: {reading.mean:.6g} + {reading.spread:.6g} · output; {100 * COVERAGE:.0f} % of numbers are to lie "
            f"within ± {reading.half:.4g}, as those of examples left out did, and fewer of examples of another kind"
        )


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Classes(), Several(), Number())}


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:SHOWN]) + (", …" if len(classes) > SHOWN else "")


def _moments(labels: np.ndarray) -> tuple[float, float]:
    return float(np.mean(labels, dtype=np.float64)), float(np.std(labels, dtype=np.float64))
