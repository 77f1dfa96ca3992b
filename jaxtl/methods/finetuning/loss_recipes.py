"""Rows of other losses: fine-tuning for rare classes, with less certain labels, with examples that are mixed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from jaxtl.class_losses import (
    adjusted_cross_entropy,
    adjusted_logits,
    balanced_weights,
    class_counts,
    effective_number_weights,
    focal,
    log_prior,
    smoothed_cross_entropy,
    weighted_cross_entropy,
)
from jaxtl.data.mixing import cutmix, mixup
from jaxtl.losses import mean_of
from jaxtl.methods.finetuning.recipes import pulled
from jaxtl.penalties import Term
from jaxtl.problems import FewShot
from jaxtl.program import Weights
from jaxtl.protocol import Draw, Range, Recipe, Setting

BY_CLASS = "by_class"  # among the given: a number for every class


def counts(problem: FewShot, draw: Draw) -> np.ndarray:
    """Labelled examples of every class that a draw trains on, [C]."""
    examples = problem.examples(draw)
    return class_counts(examples.labels[examples.seen], len(problem.task.classes))


def by_class(loss: Callable) -> Term:
    """A loss (logits, labels, a number for every class) -> [B], whose numbers every draw gives."""

    def term(outputs, batch, ctx):
        return mean_of(lambda logits, labels: loss(logits, labels, ctx.given[BY_CLASS]))(outputs, batch, ctx)

    return Term(1.0, term)


def of_counts(fn: Callable[[np.ndarray], np.ndarray]) -> Callable[[FewShot, Draw, Weights], dict[str, np.ndarray]]:
    """What a draw gives: a function of its counts."""
    return lambda problem, draw, start: {BY_CLASS: fn(counts(problem, draw))}


def without_prior(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The setting's "tau" times every class's log share taken off its logit, in the bias."""
    head = weights.params["head"]
    bias = adjusted_logits(head["bias"], log_prior(counts(problem, draw)), setting["tau"])
    return weights._replace(params={**weights.params, "head": {**head, "bias": bias}})


def _mean(loss: Callable) -> Term:
    return Term(1.0, mean_of(loss))


weighted = functools.partial(pulled, task=by_class(weighted_cross_entropy))
LOSSES = {
    "balanced": Recipe(
        weighted, means="fine-tuning in which every class weighs the same", given=of_counts(balanced_weights)
    ),
    "effective_number": Recipe(
        weighted,
        means="fine-tuning in which rare classes weigh more, less so the more examples they have",
        given=of_counts(effective_number_weights),
    ),
    "focal": Recipe(
        functools.partial(pulled, task=_mean(focal)),
        means="fine-tuning in which an example counts less the surer the model is of it",
    ),
    "logit_adjusted": Recipe(
        functools.partial(pulled, task=by_class(adjusted_cross_entropy)),
        means="fine-tuning with every class's log share added to its logit, and used without",
        given=of_counts(log_prior),
    ),
    "posthoc_adjusted": Recipe(
        pulled,
        ("learning_rate", "tau"),
        "fine-tuning, then a multiple of every class's log share taken off its logit",
        ranges={"tau": Range(0.1, 3.0)},
        finish=without_prior,
        after=("tau",),
    ),
    "smoothed": Recipe(
        functools.partial(pulled, task=_mean(smoothed_cross_entropy)),
        means="fine-tuning to labels of which a tenth is spread over all classes",
    ),
    "mixup": Recipe(
        functools.partial(pulled, mixing=functools.partial(mixup, 0.2)),
        means="fine-tuning on averages of two images and their labels",
    ),
    "cutmix": Recipe(
        functools.partial(pulled, mixing=functools.partial(cutmix, 1.0)),
        means="fine-tuning on images with a box of another one, and as much of its label",
    ),
}
