"""Who finds boxes best, and with which setting: by the pictures held out; and what a budget affords."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from jaxtl.errors import NotFinite
from jaxtl.finetune import plan as planning
from jaxtl.loop import raise_if_stopped
from jaxtl.methods.finetuning import DETECTION
from jaxtl.problems.boxed_folder import CHOOSES
from jaxtl.protocol import Run, RunStore, Setting, Trainer, trial_settings
from jaxtl.protocol.detections import MAP, mean_average_precision
from jaxtl.protocol.recipes import range_of

EFFORTS = (  # (settings, steps), from the most to the least
    *((4, 2000), (4, 1200), (4, 800), (3, 800), (3, 600), (3, 400), (3, 300)),
    *((2, 300), (2, 200), (1, 200), (1, 100), (1, 50), (1, 20)),
)
LAST = 5  # efforts, that a method alone is given
LEAST = 100  # steps, whatever few pictures there are


def affordable(
    names: Sequence[str], depth: int, most: int, cost: planning.Cost, left: Callable[[], float]
) -> planning.Plan:
    """The most that fits, with fewer methods where it does not; the least of all anyway.

    Args:
        names: of the methods, given up from behind.
        depth: of the cut.
        most: steps that are of use.
        cost: of a training of the dearest.
        left: -> seconds.

    Example:
        >>> plan = affordable(["features", "l2_sp"], 2, 500, planning.Cost(5.0, 0.1), lambda: 300.0)
        >>> plan.methods, plan.effort.trials, plan.effort.steps
        (('features', 'l2_sp'), 3, 400)
    """
    seconds_left = left()
    for count in range(len(names), 0, -1):
        for trials, wanted in EFFORTS if count == 1 else EFFORTS[:-LAST]:
            steps = min(wanted, max(LEAST, most))
            seconds = (count * trials + 1) * steps * cost.step + (count + 1) * cost.compiling
            if seconds <= seconds_left or (count == 1 and (trials, wanted) == EFFORTS[-1]):
                given_up = names[count:]
                why = f"no time for {', '.join(given_up)}" if given_up else ""
                effort = planning.Effort(1, 1, 1, trials, steps)
                return planning.Plan(effort, depth, tuple(names[:count]), seconds, why)
    raise AssertionError("the last effort is always afforded")


def settings_of(trainer: Trainer, name: str, trials: int) -> list[Setting]:
    """What is tried of a method."""
    recipe = DETECTION[name]
    search = {key: range_of(key, recipe, trainer.problem.config) for key in recipe.search}
    return trial_settings(search, trials)


def tried(trainer: Trainer, store: RunStore, name: str, display: Any) -> list[Run]:
    """Every setting of a method, judged by the pictures held out; what was kept is not made again."""
    problem: Any = trainer.problem
    settings = settings_of(trainer, name, problem.config.trials)
    plans = [Run(name, "tuning", "", 0, None, k, dict(setting)) for k, setting in enumerate(settings)]
    missing = [plan for plan in plans if store.find(plan) is None]
    if missing:
        with display(len(missing), f"trying {name}") as progress:
            raise_if_stopped(f"before {name}")
            started = time.perf_counter()
            trained = trainer.train_all(name, [plan.setting for plan in missing], CHOOSES)
            seconds = (time.perf_counter() - started) / len(missing)
            truth = problem.truth_of["train"][problem.seen.held]
            for plan, one in zip(missing, trained, strict=True):
                found = None if one is None else problem.found(one.weights, "train", problem.seen.held)
                score = -math.inf if found is None else mean_average_precision(truth, found)
                run = dataclasses.replace(plan, seconds=seconds, validation=score, diverged=found is None)
                arrays = {} if found is None else {"found": found}
                metrics = {"test": MAP.failed if found is None else score}
                store.add(dataclasses.replace(run, metrics=metrics, arrays=tuple(arrays)), arrays)
                progress.advance(1)
    return [kept for plan in plans if (kept := store.find(plan))]


def verdict(runs: list[Run]) -> tuple[str, Run]:
    """(the method that is kept, its best run): the head alone unless another is ahead by more than a point.

    Raises:
        NotFinite: each setting of every method diverged.
    """
    best: dict[str, Run] = {}
    for run in runs:
        if not run.diverged and (run.method not in best or run.validation > best[run.method].validation):
            best[run.method] = run
    if not best:
        raise NotFinite("each setting of every method diverged")
    winner = max(best, key=lambda name: best[name].validation)
    if "features" in best and best[winner].validation - best["features"].validation <= MAP.margin:
        winner = "features"
    return winner, best[winner]
