"""Rows of models made of models: fine-tuning runs that are interpolated, averaged, or followed by an average.

A soup is made of one run for every setting of fine-tuning on the draw itself, as many as others try to choose one of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from jaxtl.data import on_device
from jaxtl.methods.finetuning.averaging import averaged, ema_decay, of_average, with_average
from jaxtl.methods.finetuning.recipes import RECIPES, pulled
from jaxtl.methods.finetuning.weight_space import greedy_soup, lines, model_stock, uniform_soup, wise_ft
from jaxtl.models import stage_paths
from jaxtl.problems import FewShot
from jaxtl.problems.images import with_statistics_of
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw, Range, Recipe, Setting, Trained


def between(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The setting's "alpha" of the way from the source."""
    params = wise_ft(weights.params, problem.anchor(draw.replicate), problem.moved.labels, setting["alpha"])
    return with_statistics(problem, weights._replace(params=params), draw)


def by_depth(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """The setting's "alpha" of the way in the first block, all of it in the last."""
    trunk: Any = problem.model.trunk
    blocks, anchor = len(trunk.stage_names), problem.anchor(draw.replicate)
    depth = functools.partial(block_of, stages=stage_paths(problem.model), blocks=blocks)
    params = lines(weights.params, anchor, problem.moved.labels, depth, blocks, setting["alpha"])
    return with_statistics(problem, weights._replace(params=params), draw)


def block_of(path: str, stages: Sequence[str], blocks: int) -> int:
    """The block of a trunk's parameter, from 1 on; a stem belongs to the first, a norm that closes to the last.

    Args:
        path: of the parameter.
        stages: what `stage_paths` gives.
        blocks: how many stages the trunk has.

    Example:
        >>> stages = ["trunk/stem/.*", "trunk/stage_0(_[^/]*)?/.*", "trunk/top/.*", "head/.*|trunk/norm/.*"]
        >>> paths = "trunk/stem/kernel", "trunk/stage_0_block_1/kernel", "trunk/top/kernel", "trunk/norm/scale"
        >>> [block_of(path, stages, 2) for path in paths]
        [1, 1, 2, 2]
    """
    before = len(stages) - 1 - blocks  # 1 where something stands before the first stage
    place = next(k for k, stage in enumerate(stages) if re.fullmatch(stage, path))
    return min(max(place + 1 - before, 1), blocks)


def followed(problem: FewShot) -> Program:
    """Fine-tuning with an average over about a fifth of the run beside it."""
    return averaged(pulled(problem), ema_decay(problem.config.steps))


def start_followed(problem: FewShot, draw: Draw) -> Weights:
    """The source under a fresh head, which its average is too."""
    start = problem.start(draw)
    return with_average(start, start.params)


def at_average(problem: FewShot, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """What the run leaves is its average."""
    return with_statistics(problem, of_average(weights), draw)


def mean_of_runs(problem: FewShot, runs: Sequence[Trained], draw: Draw) -> Weights:
    """A uniform soup."""
    return with_statistics(problem, uniform_soup([run.weights for run in runs]), draw)


def best_of_means(problem: FewShot, runs: Sequence[Trained], draw: Draw) -> Weights:
    """A greedy soup, by the examples that choose."""

    def ready(weights: Weights) -> Weights:
        return with_statistics(problem, weights, draw)

    def score(weights: Weights) -> float:
        return problem.validate(runs[0]._replace(weights=ready(weights)), draw)

    return ready(greedy_soup([run.weights for run in runs], score)[0])


def stocked(problem: FewShot, runs: Sequence[Trained], draw: Draw) -> Weights:
    """A Model Stock of all runs; of a single one that has not diverged, that one."""
    if len(runs) == 1:
        return runs[0].weights
    anchor, mean = problem.anchor(draw.replicate), uniform_soup([run.weights for run in runs])
    params = model_stock([run.weights.params for run in runs], anchor, problem.moved.labels)
    return with_statistics(problem, mean._replace(params=params), draw)


def with_statistics(problem: FewShot, weights: Weights, draw: Draw) -> Weights:
    """Weights with the statistics of batch normalisation that are their own; without such, as they are."""
    examples = problem.examples(draw)
    data = on_device(problem.labelled(examples.labels), problem.key(draw, "order"), examples.seen)
    return with_statistics_of(problem, weights, data, problem.key(draw, "run"))


ALPHA = Range(0.1, 1.0)
MEMBER = RECIPES["fine_tune"]
WEIGHT_SPACE = {
    "wise_ft": Recipe(
        pulled,
        ("learning_rate", "alpha"),
        "fine-tuning, then transferred parameters a part of the way back to the source",
        ranges={"alpha": ALPHA},
        finish=between,
        after=("alpha",),
    ),
    "lines": Recipe(
        pulled,
        ("learning_rate", "alpha"),
        "fine-tuning, then transferred parameters back towards the source, the more the nearer to the input",
        ranges={"alpha": ALPHA},
        finish=by_depth,
        after=("alpha",),
    ),
    "ema": Recipe(
        followed,
        means="fine-tuning, and the average of its parameters over about the last fifth of the run",
        start=start_followed,
        finish=at_average,
    ),
    "uniform_soup": Recipe(
        None,
        (),
        "the mean of a fine-tuned model for every learning rate, none of which is chosen",
        combine=(MEMBER, mean_of_runs),
    ),
    "greedy_soup": Recipe(
        None,
        (),
        "the mean of those of them that do not lower the score on held-out examples, from the best one on",
        combine=(MEMBER, best_of_means),
    ),
    "model_stock": Recipe(
        None,
        (),
        "their mean, drawn towards the source layer by layer as far as they disagree",
        combine=(MEMBER, stocked),
    ),
    "scratch_soup": Recipe(
        None,
        (),
        "the mean of models from one random start, which have no basin in common: how a soup fails",
        transfers=False,
        combine=(RECIPES["scratch"], mean_of_runs),
    ),
}
