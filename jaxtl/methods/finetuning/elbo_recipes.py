"""Fine-tuning whose λ are learned in the run, and whose learning rate is chosen by what it minimises: no validation."""

from __future__ import annotations

import jax

from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.methods.finetuning.elbo import (
    SIGMA,
    data_emphasis,
    kl_term,
    learned_rates,
    noisy,
    with_noise,
    with_noise_label,
    without_noise,
)
from jaxtl.methods.finetuning.recipes import options
from jaxtl.models import as_forward
from jaxtl.optimizers import Group
from jaxtl.problems import FewShot, objective_of
from jaxtl.program import Program, Weights, make_program
from jaxtl.protocol import Draw, Range, Recipe, Setting
from jaxtl.trees import Tree

# Chosen on digits with 5 labels a class, by held-out examples of draws that report nothing. Begun at 0.03, rates of σ̄
# from 0.01 to 0.3 are alike; begun at 1e-4, σ̄ does not arrive where its rate is small, and what is compared in the end
# is not the models but how far it came.
STD = 0.03  # σ̄ to start from
STD_LEARNING_RATE = 0.03


def variational(problem: FewShot) -> Program:
    """Noisy weights; transferred ones are expected near the source and new ones near 0, how near is learned."""
    term = kl_term(_weight(problem))
    return make_program(
        noisy(as_forward(problem.model)),
        with_noise_label(problem.moved.labels),
        {"task": objective_of(problem)},
        {label: Group() for label in (TRANSFERRED, NEW, SIGMA)},
        {TRANSFERRED: {"source": term}, NEW: term},
        prepare=problem.images.batches(problem.config.batch_size),
        **options(problem),
    )


def _weight(problem: FewShot) -> float:
    return data_emphasis(problem.moved.params, problem.moved.labels)


def _start(problem: FewShot, draw: Draw) -> Weights:
    start = problem.start(draw)
    return start._replace(params=with_noise(start.params, STD))


def _anchor(problem: FewShot, draw: Draw, weights: Weights) -> dict[str, Tree]:
    return {"anchor": {**problem.transferred(draw).anchor, SIGMA: weights.params[SIGMA]}}


def _found(problem: FewShot, weights: Weights, draw: Draw) -> dict[str, float]:
    """λ by the names that these pulls have in `l2_sp`."""
    anchor = problem.transferred(draw).anchor
    rates = jax.device_get(learned_rates(weights.params, anchor, problem.moved.labels, _weight(problem)))
    return {f"penalty/{TRANSFERRED}/source": float(rates[TRANSFERRED]), f"penalty/{NEW}": float(rates[NEW])}


def _at_mean(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    return weights._replace(params=without_noise(weights.params))


DE_ELBO = Recipe(
    variational,
    ("learning_rate", f"learning_rate/{SIGMA}"),
    "l2_sp whose two λ are learned in the run; of 4 learning rates the one that ended with the lowest objective",
    ranges={f"learning_rate/{SIGMA}": Range(STD_LEARNING_RATE)},
    start=_start,
    given=_anchor,
    learned=_found,
    finish=_at_mean,
    chosen="objective",
    trials=4,
)
