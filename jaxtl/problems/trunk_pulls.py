"""How hard to pull a shared trunk: what every criterion says along a row of pulls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxtl.labels import label_params
from jaxtl.losses import squared_error
from jaxtl.penalties import Term, l2, labelled
from jaxtl.problems.criteria import EXACT, PROBES
from jaxtl.problems.many_tasks import ManyTasks
from jaxtl.protocol import Draw, Setting, Trained, Trainer
from jaxtl.selection import net_criteria
from jaxtl.step import Fixed

PRICED = ("df", "aic", "bic", "log_evidence")  # what a net of numbers says of itself


def along(
    problem: ManyTasks, trainer: Trainer, method: str, settings: Sequence[Setting], draws: Iterable[Draw]
) -> dict[str, np.ndarray]:
    """Test score, and what validation, folds, AIC, BIC and evidence say, of every setting on some draws.

    Args:
        problem, trainer: whose runs they are.
        method: that is tried.
        settings: as many pulls.
        draws: on what.

    Returns:
        {column: [draws, P]}; where a net diverged its test score is 0 and the others are NaN.
    """
    by_draw = [_on_draw(problem, trainer, method, settings, draw) for draw in draws]
    return {name: np.array([columns[name] for columns in by_draw]) for name in by_draw[0]}


def _on_draw(
    problem: ManyTasks, trainer: Trainer, method: str, settings: Sequence[Setting], draw: Draw
) -> dict[str, np.ndarray]:
    """{column: [P]} of one draw."""
    config = problem.config
    priced = problem.numbers and not config.missing  # of classes it would take minutes
    rows: list[dict[str, float]] = []
    for one in trainer.train_all(method, settings, draw):
        if one is None:
            rows.append({"test": 0.0})
            continue
        row = {"test": problem.test(one, draw)[0]["test"], "validation": problem.validate(one, draw)}
        rows.append(row | (price(problem, one, draw) if priced else {}))
    names = ("test", "validation", *(PRICED if priced else ()))
    columns = {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
    parts = []
    for fold in range(config.folds):
        part = Draw(draw.seed, fold, config.folds)
        trained = trainer.train_all(method, settings, part)
        parts.append([math.nan if one is None else problem.validate(one, part) for one in trained])
    return columns | {"folds": np.mean(parts, axis=0)}


def price(problem: ManyTasks, trained: Trained, draw: Draw) -> dict[str, float]:
    """What a net of numbers says of itself: all tasks are one output of as many numbers, their losses its loss."""
    seen, part, params = problem.examples(draw).seen, problem.tasks.train, trained.weights.params
    batch = {"image": jnp.asarray(part.images[seen])}
    batch["label"] = jnp.concatenate([part[task][seen] for task in problem.names], axis=1)

    def forward(params, model_state, batch, ctx):
        found, model_state = problem.net.forward(params, model_state, batch, ctx)
        return {"head": jnp.concatenate([found[task] for task in problem.names], axis=1)}, model_state

    labels = label_params(params, problem.net.rules)
    penalty = labelled(labels, {label: Term(0.0, l2) for label in problem.labels})
    fixed = Fixed({name: rate for name, rate in trained.rates.items() if name.startswith("penalty/")})
    probes = 0 if batch["label"].size <= EXACT else PROBES
    found = net_criteria(forward, params, batch, penalty, fixed, loss=squared_error, probes=probes)
    return {name: getattr(found, name) for name in PRICED}
