"""Rates of one program chosen by held-out log-loss: the best of many that are tried, or down the loss's own slope."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.data import normalise
from jaxtl.losses import make_loss_fn, softmax_cross_entropy
from jaxtl.models import Classifier, Mlp, as_forward
from jaxtl.penalties import LabelTerms, labelled
from jaxtl.problems.few_shot import FewShot
from jaxtl.problems.images import outputs
from jaxtl.problems.source import CLASSIFY
from jaxtl.program import Program, Weights
from jaxtl.protocol import Draw
from jaxtl.selection import Implicit, LearnedRates, learn_rates
from jaxtl.step import EVALUATE, Fixed, TrainState, make_epoch, total_gradient
from jaxtl.sweep import sweep

FEW = 16  # settings among many, at random: what a person would try


class Found(NamedTuple):
    """What one way of choosing rates came to on one draw."""

    rates: dict[str, float]
    log_loss: float  # of the held-out examples, which chose
    test: float
    runs: int
    seconds: float
    settled: bool | None = None  # of a search by gradient


class Tuning:
    """One program of a few-shot problem as `sweep` and `learn_rates` take it: rates in, held-out log-loss out.

    A run starts from the source's trunk under the fresh head of its draw.

    Args:
        problem: what is trained on and judged by.
        program: moves all parameters, or the head alone on features of the trunk.
        learned: the rates that are chosen; the others of the program have their defaults.
    """

    def __init__(self, problem: FewShot, program: Program, learned: Sequence[str]):
        self.problem, self.program, self.learned = problem, program, tuple(learned)
        self.train = make_epoch(program.step, problem.config.steps)
        self.of_features = set(program.labels) == {"head"}
        alone = Classifier(Mlp(widths=()), problem.model.heads)
        self.forward = as_forward(alone if self.of_features else problem.model)
        labels = problem.task.train.labels[problem.held]
        held = {"image": self._inputs(problem.target_images[problem.held]), "label": jnp.asarray(labels)}
        self.given = {**program.given, "held": held}
        self.test = {"image": self._inputs(problem.test_images), "label": jnp.asarray(problem.task.test.labels)}

    def init(self, point: Mapping[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        """Where a run starts, and its rates; the draw is a number like any other here."""
        draw = Draw(point["draw"])
        params = {**self.problem.moved.params, "head": self.problem.fresh(draw).params["head"]}
        start = Weights(params, self.problem.source.weights.model_state)
        rates = {name: point[name] for name in self.learned}
        return self.program.start(start, self.problem.key(draw, "run")), rates

    def score(self, state: TrainState, data: Any, fixed: Fixed) -> jax.Array:
        """Minus the log-loss of held-out examples."""
        held = fixed.given["held"]
        logits = self.logits(Weights(state.params, state.model_state), held)
        return -jnp.mean(softmax_cross_entropy(logits, held["label"]))

    def logits(self, weights: Weights, batch: Mapping[str, jax.Array]) -> jax.Array:
        """[N, C] of what the program has trained."""
        return self.forward(weights.params, weights.model_state, batch, EVALUATE)[0]["head"]

    @functools.cached_property
    def accuracies(self):
        """(weights stacked [K], batch) -> accuracy [K]."""

        def one(weights, batch):
            return jnp.mean(jnp.argmax(self.logits(weights, batch), axis=-1) == batch["label"])

        return jax.jit(jax.vmap(one, (0, None)))

    def implicit(self, penalties: LabelTerms) -> Implicit:
        """The mode of `learn_rates` that needs the end of training only, for a program with these penalties.

        Make it once: another one compiles anew.
        """
        penalty = labelled(self.program.labels, penalties)
        loss_fn = make_loss_fn(self.forward, {"task": CLASSIFY}, penalty)

        def every_example(data):
            return {"image": self._seen(data["image"][data["index"]]), "label": data["label"][data["index"]]}

        return Implicit(total_gradient(loss_fn), every_example)

    # Which rates are tried, and two ways to choose.

    def grid(self, ranges: Mapping[str, Sequence[float]], points: int) -> dict[str, np.ndarray]:
        """{rate: [points ** rates]}, all that is in (low, high) of each by the others', the last rate the fastest."""
        axes = [np.geomspace(low, high, points) for low, high in (ranges[name] for name in self.learned)]
        meshes = np.meshgrid(*axes, indexing="ij")
        return {name: mesh.ravel() for name, mesh in zip(self.learned, meshes, strict=True)}

    def scattered(self, ranges: Mapping[str, Sequence[float]], count: int, draw: Draw) -> dict[str, np.ndarray]:
        """{rate: [count]}, log-uniform in (low, high) of each, others on every draw."""
        places = np.random.default_rng([self.problem.config.seed, draw.seed]).random((count, len(self.learned)))
        span = {name: np.log(ranges[name]) for name in self.learned}
        return {name: np.exp(low + places[:, i] * (high - low)) for i, (name, (low, high)) in enumerate(span.items())}

    def among(self, draw: Draw, columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Found], np.ndarray]:
        """Try many rates on a draw, side by side.

        Args:
            draw: on what.
            columns: {rate: [K]}.

        Returns:
            ({"": the best of all, ", 16 of it": of a few at random, ", by accuracy": by held-out accuracy}, log-losses
            [K]).
        """
        data, count = self._data(draw), len(next(iter(columns.values())))
        grid = {**columns, "draw": np.full(count, draw.seed)}
        began = time.perf_counter()
        swept = sweep(self.init, self.train, self.score, grid, data, self.given, batching="vmap")
        jax.block_until_ready(swept.states)
        seconds = time.perf_counter() - began
        ended = Weights(swept.states.params, swept.states.model_state)
        right = np.where(np.isfinite(swept.scores), self.accuracies(ended, self.given["held"]), 0.0)
        few = np.random.default_rng([self.problem.config.seed, draw.seed]).permutation(count)[:FEW]

        def found(k: int, of: int) -> Found:
            rates = {name: float(column[k]) for name, column in columns.items()}
            test = float(self.accuracies(jax.tree.map(lambda leaf: leaf[k : k + 1], ended), self.test)[0])
            return Found(rates, -float(swept.scores[k]), test, of, seconds * of / count)

        best = {
            "": found(int(np.argmax(swept.scores)), count),
            f", {len(few)} of it": found(int(few[np.argmax(swept.scores[few])]), len(few)),
            ", by accuracy": found(int(np.argmax(right)), count),
        }
        return best, -swept.scores

    def climb(
        self,
        draw: Draw,
        start: Mapping[str, float],
        mode: Any,
        held: Mapping[str, float] | None = None,
        *,
        longest: int,
    ) -> tuple[Found, LearnedRates]:
        """Learn rates by gradient on a draw.

        Args:
            draw: on what.
            start: {rate: where it begins}.
            mode: as for `learn_rates`.
            held: rates that stay as they are.
            longest: runs at most.

        Returns:
            (what it came to, the whole search).
        """
        data = self._data(draw)
        began = time.perf_counter()
        learned = learn_rates(
            self.init,
            self.train,
            self.score,
            start,
            data,
            self.given,
            steps=longest,
            held={"draw": draw.seed, **(held or {})},
            mode=mode,
        )
        seconds = time.perf_counter() - began
        test = float(self.accuracies(Weights(learned.states.params, learned.states.model_state), self.test)[0])
        rates = {**learned.point, **(held or {})}
        score, runs = float(learned.scores[learned.best]), len(learned.scores)
        return Found(rates, -score, test, runs, seconds, learned.settled), learned

    def _data(self, draw: Draw) -> Any:
        return self.problem.data(self.program, self.problem.start(draw), draw)

    def _seen(self, images: jax.Array) -> jax.Array:
        """What the steps read, as the model sees it."""
        return images if self.of_features else normalise(images, self.problem.images.mean, self.problem.images.std)

    def _inputs(self, images: jax.Array) -> jax.Array:
        """Raw images as what is trained sees them: features, or normalised."""
        problem = self.problem
        if not self.of_features:
            return self._seen(images)
        return jnp.asarray(outputs(problem.model, problem.start(Draw(0)), images, problem.images, "features"))
