"""What can be said of a trained net about how hard to pull: held-out examples, folds, degrees of freedom, evidence."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.labels import kernels
from jaxtl.models import as_forward
from jaxtl.penalties import LabelTerms, labelled
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.images import accuracy, outputs
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Setting, Trained, Trainer
from jaxtl.selection import net_criteria, validation_criteria
from jaxtl.selection.validation import log_likelihoods
from jaxtl.step import Fixed

EXACT, PROBES = 1000, 8  # numbers observed, above which degrees of freedom are estimated, by so many probes


class Criteria:
    """Everything that may choose λ on a few-shot problem, and what the choice is worth.

    Biases and scales go where they will, and are taken as given: criteria count kernels.

    Args:
        problem: whose runs are judged.
        penalties: those of the program that they ran in.
    """

    def __init__(self, problem: FewShot, penalties: LabelTerms):
        self.problem, self.forward = problem, as_forward(problem.model)
        self.penalty = labelled(problem.moved.labels, penalties)
        pulled = kernels(problem.moved.params)
        self.given = jax.tree.map(lambda kernel: not kernel, pulled)
        self.all_but_the_head = {**jax.tree.map(lambda _: True, pulled), "head": self.given["head"]}

    def logits(self, weights: Weights, image: jax.Array) -> np.ndarray:
        """[N, C] of raw images."""
        return outputs(self.problem.model, weights, image, self.problem.images, "head")

    def measure(self, trained: Trained, draw: Draw) -> dict[str, float]:
        """All but k-fold validation. Test figures judge, and choose nothing."""
        problem, examples, weights = self.problem, self.problem.examples(draw), trained.weights
        seen, held = (problem.target_images[index] for index in (examples.seen, examples.held))
        found = {"train_loss": _loss(self.logits(weights, seen), examples.labels[examples.seen])}
        validated = validation_criteria(self.logits(weights, held), examples.labels[examples.held])
        found |= {"validation_log_loss": validated.log_loss, "temperature": validated.temperature}
        logits, labels = self.logits(weights, problem.test_images), problem.task.test.labels
        found |= {"test": accuracy(logits.argmax(axis=1), labels), "test_loss": _loss(logits, labels)}
        found |= {
            f"norm/{label}": float(norm)
            for label, norm in problem.norms(weights.params, problem.moved.anchor)["norm"].items()
        }
        return found | self.price(trained, draw)

    def of_all(
        self, trainer: Trainer, method: str, draw: Draw, trained: Sequence[Trained | None], settings: Sequence[Setting]
    ) -> list[dict[str, float]]:
        """`measure` and `by_folds` of every setting; of a run that diverged the folds alone."""
        by_folds = self.by_folds(trainer, method, settings, draw)
        return [found | (self.measure(one, draw) if one else {}) for one, found in zip(trained, by_folds, strict=True)]

    def price(self, trained: Trained, draw: Draw) -> dict[str, float]:
        """Criteria that need no held-out example: of all kernels, and of the head's above a given trunk."""
        problem, examples = self.problem, self.problem.examples(draw)
        batch = {
            **problem.images.batch(problem.target_images[examples.seen]),
            "label": jnp.asarray(examples.labels[examples.seen]),
        }
        pulls = {name: rate for name, rate in trained.rates.items() if name.startswith("penalty/")}
        fixed = Fixed(pulls, problem.given(draw))
        observed = len(examples.seen) * (len(problem.task.classes) - 1)
        ask: Any = functools.partial(net_criteria, self.forward, trained.weights.params, batch, self.penalty, fixed)
        whole = ask(frozen=self.given, probes=0 if observed <= EXACT else PROBES)
        head = ask(frozen=self.all_but_the_head)
        kept = {name: getattr(whole, name) for name in ("df", "aic", "aicc", "bic", "log_evidence")}
        return kept | {"head_df": head.df, "head_log_evidence": head.log_evidence}

    def by_folds(
        self, trainer: Trainer, method: str, settings: Sequence[Setting], draw: Draw
    ) -> list[dict[str, float]]:
        """k-fold validation on the labelled examples alone, of every setting; {} for one that diverged in a fold."""
        folds = self.problem.config.folds
        logits: list[list[np.ndarray] | None] = [[] for _ in settings]
        labels, parts = [], []
        for fold in range(folds):
            part = Draw(draw.seed, fold, folds)
            examples = self.problem.examples(part)
            labels.append(examples.labels[examples.held])
            parts.append(np.full(len(examples.held), fold))
            held = self.problem.target_images[examples.held]
            for k, one in enumerate(trainer.train_all(method, settings, part)):
                so_far = logits[k]
                logits[k] = None if one is None or so_far is None else [*so_far, self.logits(one.weights, held)]
        true, of = np.concatenate(labels), np.concatenate(parts)
        judged = [
            None if blocks is None else validation_criteria(np.concatenate(blocks), true, of) for blocks in logits
        ]
        return [{} if one is None else {"folds": one.accuracy, "folds_log_loss": one.log_loss} for one in judged]


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy."""
    return -float(log_likelihoods(logits.astype(np.float64), labels).mean())
