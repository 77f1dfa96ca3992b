"""How much of the tuning can be left to the machine?

Three questions on the problem of `cifar_transfer`. Rates: does a gradient find λ and the learning rates as well as a
grid, from a start far off, and what does it cost? Label trees: which blocks of the network to freeze, to fine-tune or
to begin anew, chosen among all by validation. The start: is one that was learned from many small tasks better than the
source model's?

    python -m experiments.automated_transfer             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.automated_transfer --smoke     # digits, a few runs of everything
    python -m experiments.automated_transfer --config.parts=label_trees

Measured on exact CIFAR-10, classes 0-4 → 5-9, 8 draws (seeds 2-9), jax 0.10.2, in 5.8 minutes on 2 CPU cores that
were busy otherwise (4 minutes of work). Differences in points of test accuracy, paired by draw, 95 % intervals.

Rates of the head on frozen features, n = 20: the grid of 144 65.0 ± 1.2; by gradient from rates far too small +0.01
[−0.10, 0.12], from far too large −0.77 [−2.13, 0.59], where 3 searches stay at the edge of divergence; λ alone
from 3, forward −0.15 [−0.61, 0.30], implicit the same. A search took 0.1 s, the grid side by side 0.06 s. Five rates
of an MLP: 64 at random 55.6 ± 1.8 in 1.0 s; by gradient +0.38 [0.03, 0.73] and +0.65 [0.14, 1.17] in 5 s. 256 at
random cost about as much, and with another source model −0.41 [−1.80, 0.97] and +0.35 [−0.10, 0.79] were left: a
gradient saves runs, not seconds, where runs are small. The CNN itself: a run 0.7 s, with its slope for five rates
4.7 s in reverse and 9.6 s forward.

Label trees, n = 20: all transferred 65.6 ± 1.6, all frozen 65.4 ± 1.2, all new 56.9 ± 2.0; chosen, the first block
frozen and two fine-tuned, 67.1 ± 1.8: +1.46 [0.90, 2.02] over all transferred, +1.68 [0.39, 2.97] over all frozen.

The start of an MLP, n = 5: the source model's 45.3 ± 3.0, a fresh one −6.55 [−8.12, −4.98]. After the source model,
iMAML +4.29 [1.55, 7.04], Reptile −1.53 [−3.08, 0.02]; without it −2.67 [−4.71, −0.64] and −6.34 [−8.38, −4.29]. The
inner λ and Reptile's rate were set by the loss of the source's own small tasks. A setting chosen on 2 draws instead of
8 once was unstable on others, and cost 16 points.

All this with convolutions and matrix products by YNNPACK. With --config.seed=1 and by Eigen, which differs in rounding
only, in 4.4 minutes on busy cores: five rates by gradient +0.47 [−0.19, 1.13] and +0.67 [−0.24, 1.57] over 64 at
random; the same label tree chosen, +0.74 [−0.17, 1.65] over all transferred, +0.87 [−0.48, 2.22] over all frozen; after
the source model iMAML +3.04 [1.64, 4.44], Reptile −2.19 [−3.92, −0.46]. (The same by YNNPACK: +0.36 [−0.11, 0.84] and
+0.68 [0.38, 0.98]; +1.43 [0.37, 2.48], +0.68 [−0.20, 1.57]; +3.41 [2.03, 4.78], −2.20 [−4.00, −0.40].)

An interrupted run keeps source models and label trees; everything else takes a minute or two and is done again.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import cifar_transfer
from experiments.cifar_transfer import LEARNING_RATES, TASK, Problem, accuracy, make_source, outputs, predict
from jaxtl import backend, cli, report
from jaxtl.data import DataSet, Split, keep_to_data, load, normalise
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, label_params, some
from jaxtl.loop import fit, refuse_stop
from jaxtl.loop.finite import not_finite
from jaxtl.losses import make_loss_fn, softmax_cross_entropy
from jaxtl.models import Classifier, Mlp, as_forward
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.report import Plot, Section, Table
from jaxtl.report.results import compact, number, points
from jaxtl.report.searches import Ground, labellings, ways
from jaxtl.report.tables import counted
from jaxtl.selection import (
    FROZEN,
    Draw,
    Implicit,
    LearnedRates,
    Run,
    RunStore,
    Sweep,
    assignment_grid,
    assignment_start,
    assignments,
    imaml,
    learn_rates,
    paired,
    reptile,
    sweep,
    verdict_sentence,
)
from jaxtl.step import Context, Fixed, init_state, make_epoch, make_train_step, total_gradient
from jaxtl.terminal import Terminal
from jaxtl.trees import Tree
from jaxtl.writers import Progress

PARTS = ("head_rates", "all_rates", "label_trees", "starts")
Parts = Annotated[tuple[Annotated[str, cli.OneOf("part", PARTS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    parts: Parts = PARTS  # what is asked
    n_per_class: cli.Count = 20  # labelled target examples
    model: Literal["cnn", "mlp"] = "cnn"
    widths: cli.Widths = (16, 32, 64)
    normalisation: Literal["group", "none"] = "group"
    input_size: cli.Count = 16  # larger images are averaged down towards this edge
    source_steps: cli.Steps = 2500
    source_batch_size: cli.Count = 128
    source_learning_rate: cli.Rate = 0.1
    source_decay: cli.Rate = 5e-4
    steps: cli.Steps = 150
    batch_size: cli.Count = 50
    momentum: cli.Share = 0.9
    chunk: cli.Chunk = 0  # steps in one dispatch; 0: what suits the device
    tuning_draws: cli.Draws = 2
    report_draws: cli.PairedDraws = 8
    validation: cli.Count = 1000  # target training images outside every subset
    # Rates: of the head alone, and of everything in a small MLP
    learning_rate: cli.Ends = (0.001, 1.0)  # the ends of the grid
    penalty: cli.Ends = (1e-5, 10.0)
    points: cli.Points = 12  # of the grid on each side
    weak: cli.Pair = (0.001, 1e-5)  # where gradients begin: learning rates and penalties far too small,
    strong: cli.Pair = (0.3, 3.0)  # and far too large
    five_rates_of: Literal["small", "model"] = "small"  # the MLP, or the model itself: minutes a search on CPU
    random: cli.Trials = 64  # settings tried in place of a grid where the rates are five
    longest: cli.Trials = 40  # runs of a search by gradient, at most
    small_edge: Annotated[int, cli.Within(2, 65_536)] = 8  # images are averaged down to this edge for the MLP
    small_widths: cli.Widths = (128, 64)
    # Label trees
    block_learning_rates: cli.Rates = (0.02, 0.06, 0.18)  # each labelling chooses one
    # The start
    shots: cli.Count = 5  # labelled examples of a class, in every small task and in the target
    meta_steps: cli.Steps = 300
    tasks: cli.Count = 8  # side by side in a step of meta-learning
    inner_steps: cli.Steps = 40
    inner_learning_rate: cli.Rate = 0.02
    inner_penalty: cli.Rate = 1.0
    adapted_learning_rates: cli.Rates = (0.003, 0.01, 0.03, 0.1)  # tried with every start,
    adapted_penalties: cli.Rates = (0.0, 0.1, 1.0)  # each with every pull towards it
    seed: cli.Seed = 0

    glossary: ClassVar = {
        "grid": "rates by the smallest held-out log-loss among all pairs of a grid",
        "grid, 16 of it": "the same among 16 of them at random",
        "grid, by accuracy": "rates by the best held-out accuracy on the grid",
        "random": "rates by the smallest held-out log-loss among settings at random",
        "random, 16 of it": "the same among 16 of them",
        "random, by accuracy": "rates by the best held-out accuracy among settings at random",
        "gradient from weak": "all rates go down the slope of the held-out log-loss, from values far too small",
        "gradient from strong": "the same from values far too large",
        "λ alone, forward": "the penalty alone goes down that slope, which is carried along forwards through training",
        "λ alone, implicit": "the same, but the slope is that at the minimum where training is supposed to have ended",
        "frozen": "a block of the network that keeps the source model's parameters",
        "transferred": "a block that is trained from the source model's parameters on",
        "new": "a block that is trained from random parameters on",
        "source": "adaptation starts from the source model's trunk under a fresh head",
        "fresh": "adaptation starts from random parameters",
        "reptile": "from a start moved towards where training on each of many small source tasks ends",
        "iMAML": "from a start that goes down the slope of the small tasks' loss after training on them",
        "source + reptile": "as reptile, with that learning begun from the source model",
        "source + iMAML": "as iMAML, with that learning begun from the source model",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "n_per_class": 5,
            "source_steps": 200,
            "steps": 30,
            "tuning_draws": 1,
            "report_draws": 3,
            "validation": 100,
            "points": 6,
            "longest": 12,
            "block_learning_rates": (0.05,),
            "meta_steps": 50,
        },
    }


HEAD_RATES = ("learning_rate/new", "penalty/new")
ALL_RATES = (*LEARNING_RATES, "penalty/transferred/zero", "penalty/transferred/source", "penalty/new")
FEW = 16  # settings of a grid, at random: what a person would try
HEAD, ADAPTED = "head", "adapted"
META = ("reptile", "iMAML")
EVALUATE = Context(0, None, {}, {}, train=False)


# ---------------------------------------------------------------- rates


class Found(NamedTuple):
    """What one way of choosing rates came to on one draw."""

    rates: dict[str, float]
    log_loss: float  # of the held-out examples, which chose
    test: float
    runs: int
    seconds: float
    settled: bool | None = None  # of a search by gradient


class Tuning:
    """One program of a problem as `sweep` and `learn_rates` take it: rates in, held-out log-loss out."""

    def __init__(self, config: Config, problem: Problem, name: str, learned: Sequence[str]):
        self.config, self.problem, self.name, self.learned = config, problem, name, learned
        self.program = problem.programs[name]
        self.train = make_epoch(self.program.step, config.steps)
        alone = Classifier(Mlp(widths=()), problem.model.heads)
        self.forward = as_forward(alone if name == HEAD else problem.model)
        labels = problem.task.train.labels[problem.held]
        held = {"image": self.inputs(problem.target_images[problem.held]), "label": jnp.asarray(labels)}
        self.given = {"anchor": problem.moved.anchor, "held": held}
        self.test = {"image": self.inputs(problem.test_images), "label": jnp.asarray(problem.task.test.labels)}

    def inputs(self, images: jax.Array) -> jax.Array:
        """What the trained part of the model sees."""
        problem = self.problem
        if self.name == HEAD:
            return jnp.asarray(outputs(problem.model, problem.moved.params, images, problem.images, "features"))
        return normalise(images, problem.images.mean, problem.images.std)

    def init(self, point):
        """The source's trunk under the head of a draw, which is a number like any other here."""
        draw = Draw(point["draw"])
        params = {**self.problem.moved.params, "head": self.problem.fresh(draw)["head"]}
        rates = {name: point[name] for name in self.learned}
        return init_state(self.program.own(params), self.program.tx, self.problem.key(draw, "run")), rates

    def score(self, state, data, fixed):
        """Minus the log-loss of held-out examples."""
        held = fixed.given["held"]
        return -jnp.mean(softmax_cross_entropy(self.logits(state.params, held), held["label"]))

    def logits(self, params: Tree, batch: dict[str, jax.Array]) -> jax.Array:
        return self.forward(params, {}, batch, EVALUATE)[0]["head"]

    @functools.cached_property
    def accuracies(self):
        """(params stacked [K], batch) -> accuracy [K]."""

        def one(params, batch):
            return jnp.mean(jnp.argmax(self.logits(params, batch), axis=-1) == batch["label"])

        return jax.jit(jax.vmap(one, (0, None)))

    def data(self, draw: Draw):
        return self.problem.data(self.name, self.problem.moved.params, self.problem.examples(draw), draw)

    @functools.cached_property
    def implicit_mode(self) -> Implicit:
        """The mode that needs the end of training only, for the head alone."""
        labels = {name: self.problem.moved.labels[name] for name in self.program.trains}
        loss_fn = make_loss_fn(self.forward, {"task": TASK}, labelled(labels, {NEW: Term(0.0, l2)}))

        def every_example(data):
            return {"image": data["image"][data["index"]], "label": data["label"][data["index"]]}

        return Implicit(total_gradient(loss_fn), every_example)

    # Two ways to choose.

    def among(self, draw: Draw, columns: Mapping[str, np.ndarray]) -> tuple[dict[str, Found], np.ndarray]:
        """(the best of all these rates, the best of a few of them at random, the best by accuracy; all log-losses)."""
        data, count = self.data(draw), len(next(iter(columns.values())))
        grid = {**columns, "draw": np.full(count, draw.seed)}
        began = time.perf_counter()
        swept = sweep(self.init, self.train, self.score, grid, data, self.given, batching="vmap")
        jax.block_until_ready(swept.states)
        seconds = time.perf_counter() - began
        right = np.where(np.isfinite(swept.scores), self.accuracies(swept.states.params, self.given["held"]), 0.0)
        few = np.random.default_rng([self.config.seed, draw.seed]).permutation(count)[:FEW]

        def found(k: int, of: int) -> Found:
            rates = {name: float(column[k]) for name, column in columns.items()}
            params = jax.tree.map(lambda leaf: leaf[k : k + 1], swept.states.params)
            test = float(self.accuracies(params, self.test)[0])
            return Found(rates, -float(swept.scores[k]), test, of, seconds * of / count)

        best = {
            "": found(int(np.argmax(swept.scores)), count),
            f", {len(few)} of it": found(int(few[np.argmax(swept.scores[few])]), len(few)),
            ", by accuracy": found(int(np.argmax(right)), count),
        }
        return best, -swept.scores

    def climb(self, draw: Draw, start: Mapping[str, float], mode, **held: float) -> tuple[Found, LearnedRates]:
        """Rates learned by gradient."""
        data = self.data(draw)
        began = time.perf_counter()
        learned = learn_rates(
            self.init,
            self.train,
            self.score,
            start,
            data,
            self.given,
            steps=self.config.longest,
            held={"draw": draw.seed, **held},
            mode=mode,
        )
        seconds = time.perf_counter() - began
        test = float(self.accuracies(learned.states.params, self.test)[0])
        rates = {**learned.point, **held}
        score, runs = float(learned.scores[learned.best]), len(learned.scores)
        return Found(rates, -score, test, runs, seconds, learned.settled), learned


def ends(config: Config, name: str) -> tuple[float, float]:
    """The range of a rate."""
    low, high = config.learning_rate if name in LEARNING_RATES else config.penalty
    return low, high


def beginning(config: Config, names: Sequence[str], at: tuple[float, ...]) -> dict[str, float]:
    """A start of a search: one value for all learning rates, one for all penalties."""
    return {name: at[0] if name in LEARNING_RATES else at[1] for name in names}


def at_random(config: Config, names: Sequence[str], draw: Draw) -> dict[str, np.ndarray]:
    """Log-uniform rates, others on every draw."""
    places = np.random.default_rng([config.seed, draw.seed]).random((config.random, len(names)))
    span = {name: np.log(ends(config, name)) for name in names}
    return {name: np.exp(span[name][0] + places[:, i] * np.ptp(span[name])) for i, name in enumerate(names)}


def choose_for_head(config: Config, tuning: Tuning, draw: Draw) -> tuple[dict[str, Found], Any]:
    """Every way on one draw, and what the picture shows."""
    axes = [np.geomspace(*ends(config, name), num=config.points) for name in HEAD_RATES]
    columns = dict(zip(HEAD_RATES, (mesh.ravel() for mesh in np.meshgrid(*axes, indexing="ij")), strict=True))
    weak, strong = (beginning(config, HEAD_RATES, at) for at in (config.weak, config.strong))
    middle = float(np.sqrt(np.prod(config.learning_rate)))
    only = {"penalty/new": strong["penalty/new"]}
    best, losses = tuning.among(draw, columns)
    found = {f"grid{which}": one for which, one in best.items()}
    climbed: dict[str, LearnedRates] = {}
    for name, start in (("weak", weak), ("strong", strong)):
        found[f"gradient from {name}"], climbed[name] = tuning.climb(draw, start, "forward")
    found["λ alone, forward"], _ = tuning.climb(draw, only, "forward", **{"learning_rate/new": middle})
    found["λ alone, implicit"], _ = tuning.climb(draw, only, tuning.implicit_mode, **{"learning_rate/new": middle})
    across, up = (axes[HEAD_RATES.index(name)] for name in ("learning_rate/new", "penalty/new"))
    ground = Ground("λ of the head", "learning rate of the head", up, across, losses.reshape(len(across), -1).T)
    return found, (ground, {f"gradient from {name}": way_of(learned) for name, learned in climbed.items()})


def way_of(learned: LearnedRates) -> np.ndarray:
    """[T, 2]: (λ, learning rate) of every run."""
    return np.stack([learned.points["penalty/new"], learned.points["learning_rate/new"]], axis=1)


def choose_for_all(config: Config, tuning: Tuning, draw: Draw) -> tuple[dict[str, Found], Any]:
    """Five rates, two of them for one label: how hard transferred parameters are pulled to zero and to the source."""
    best, _ = tuning.among(draw, at_random(config, ALL_RATES, draw))
    found = {f"random{which}": one for which, one in best.items()}
    for name, at in (("weak", config.weak), ("strong", config.strong)):
        found[f"gradient from {name}"], _ = tuning.climb(draw, beginning(config, ALL_RATES, at), "reverse")
    return found, None


def judge(config: Config, heading: str, tuning: Tuning, choose: Callable) -> tuple[Section, dict[str, Any], Any]:
    """All ways on every report draw; the first way is what the others are compared with."""
    draws = range(config.tuning_draws, config.tuning_draws + config.report_draws)
    runs: list[dict[str, Found]] = []
    shown: Any = None
    with Progress(len(draws), heading) as progress:
        for seed in draws:
            refuse_stop(f"before draw {seed} of {heading}")
            found, extra = choose(config, tuning, Draw(seed))
            runs.append(found)
            shown = shown or extra
            progress.advance()
    columns = {name: [run[name] for run in runs] for name in runs[0]}
    baseline = next(iter(columns))
    outcome, chosen, figures = [], [], {}
    for name, found in columns.items():
        row, figures[name] = outcome_row(name, found, baseline, columns[baseline])
        outcome.append(row)
        rates = {rate: np.exp(np.mean([np.log(one.rates[rate]) for one in found])) for rate in tuning.learned}
        chosen.append([name, *map(compact, rates.values())])
    head = [
        "rates by",
        "log-loss",
        f"− {baseline}",
        "accuracy",
        f"− {baseline}, points",
        "runs",
        "seconds",
        "compiling",
    ]
    words = [rate.replace("learning_rate", "lr").replace("penalty", "λ").replace("/", " ") for rate in tuning.learned]
    lines = [
        f"Every draw chooses for itself by the log-loss of {len(tuning.problem.held)} held-out examples; accuracy is "
        "that on test data, looked at once.",
        f"Mean over {len(draws)} draws (accuracy ± sd); differences paired by draw, 95 % interval. Rates: geometric "
        "means.",
        "A run of a search also computes its slope. Seconds: median of all draws but the first; compiling: what the "
        f"first took longer, 0 where a row above compiled the program. For {FEW} of many: their share of the time.",
    ]
    settled = {name: [one.settled for one in found] for name, found in columns.items() if found[0].settled is not None}
    told = (f"{name.strip()}: {sum(map(bool, each))}" for name, each in settled.items())
    lines.append(f"Searches that settled within {config.longest} runs, of {len(draws)} draws: {'; '.join(told)}.")
    lines.append(guessing(tuning.problem))
    return Section(heading, [Table(head, outcome), Table(["rates by", *words], chosen)], lines), figures, shown


def guessing(problem: Problem) -> str:
    return report.Truth(problem.task.test.labels, problem.task.classes).sentence


def outcome_row(name: str, found: list[Found], baseline: str, others: list[Found]) -> tuple[list[str], dict[str, Any]]:
    loss, test = (np.array([getattr(one, column) for one in found]) for column in ("log_loss", "test"))
    losses = paired(name, baseline, loss - [one.log_loss for one in others])
    tests = paired(name, baseline, test - [one.test for one in others])
    seconds = [one.seconds for one in found]
    later = float(np.median(seconds[1:]))
    low, high = (number(end, ".3f") for end in losses.ci95)
    compared = [f"{number(losses.difference, '+.3f')} [{low}, {high}]", points(tests)] if name != baseline else ["", ""]
    row = [name, number(loss.mean(), ".3f"), compared[0]]
    row += [f"{number(100 * test.mean(), '.1f')} ± {100 * test.std(ddof=1):.1f}", compared[1]]
    runs = float(np.mean([one.runs for one in found]))
    row += [number(runs, ".3g"), number(later, ".2f"), number(max(0.0, seconds[0] - later), ".1f")]
    figures = {"log_loss": loss, "test": test, "rates": [one.rates for one in found], "runs": runs, "seconds": seconds}
    return row, figures | {"difference": tests.difference, "ci95": tests.ci95, "verdict": tests.verdict}


# ---------------------------------------------------------------- label trees


class Blocks:
    """Every labelling frozen… transferred… new… of the blocks of a problem's model, under a head that is new."""

    def __init__(self, config: Config, problem: Problem, store: RunStore):
        self.config, self.problem, self.store = config, problem, store
        names = [f"block {i}" for i in range(len(problem.config.widths))]
        rules = [(f"trunk/[a-z]+_{i}/.*", name) for i, name in enumerate(names)]
        self.names = [*names, "head"]
        self.labels = label_params(problem.moved.params, [*rules, ("head/.*", "head")])
        self.rows = [row for row in assignments(self.names) if row["head"] == NEW]
        reads = tuple(f"learning_rate/{name}" for name in self.names)
        groups = {name: Group() for name in self.names}
        problem.programs["blocks"] = problem.program(self.labels, {}, groups, reads)

    def all_are(self, kind: str) -> int:
        """The row in which the whole trunk is of this kind."""
        return next(k for k, row in enumerate(self.rows) if {row[name] for name in self.names[:-1]} == {kind})

    def runs(self, stage: str, settings: Sequence[tuple[int, float]], draw: Draw) -> list[Run]:
        """A run for every (row, learning rate) on one draw, from the store or from one sweep."""
        plans = [
            Run(" ".join(self.rows[row].values()), stage, "", draw.seed, None, row, {"learning_rate": rate})
            for row, rate in settings
        ]
        missing = [plan for plan in plans if self.store.find(plan) is None]
        if missing:
            began = time.perf_counter()
            trained = self.trained(missing, draw)
            seconds = (time.perf_counter() - began) / len(missing)
            for plan, params in zip(missing, trained, strict=True):
                self.store.add(dataclasses.replace(plan, seconds=seconds, **self.judged(params)), {})
        return [found for plan in plans if (found := self.store.find(plan))]

    def trained(self, plans: Sequence[Run], draw: Draw) -> list[Tree]:
        problem, fresh = self.problem, self.problem.fresh(draw)
        starts, rates = [], []
        for plan in plans:
            moving = {"learning_rate/{}": plan.setting["learning_rate"]}
            grid = assignment_grid([self.rows[plan.trial]], {TRANSFERRED: moving, NEW: moving})
            point = {name: column[0] for name, column in grid.items()}
            params, asked = assignment_start(self.labels, problem.moved.params, fresh, point)
            starts.append(params)
            rates.append({name: float(rate) for name, rate in asked.items()})
        data = problem.data("blocks", fresh, problem.examples(draw), draw)
        return [params for params, _ in problem.sweep("blocks", starts, data, rates, draw)]

    def judged(self, params: Tree) -> dict[str, Any]:
        """Validation chooses, test is reported."""
        problem = self.problem
        if not_finite(params):
            return {"validation": -np.inf, "metrics": {"test": 0.0}, "diverged": True}
        predicted = predict(problem.model, params, problem.test_images, problem.images)
        metrics = {"test": accuracy(predicted, problem.task.test.labels)}
        return {"validation": problem.validation(params, problem.held, problem.task.train.labels), "metrics": metrics}


def search_blocks(config: Config, problem: Problem, store: RunStore) -> tuple[Section, dict[str, Any]]:
    """Each labelling chooses its learning rate, then the best is chosen, both on the tuning draws."""
    blocks = Blocks(config, problem, store)
    tried = list(itertools.product(range(len(blocks.rows)), config.block_learning_rates))
    with Progress(config.tuning_draws + config.report_draws, "label trees") as progress:

        def on(stage: str, settings: Sequence[tuple[int, float]], seed: int) -> list[Run]:
            refuse_stop(f"before draw {seed} of the label trees")
            made = blocks.runs(stage, settings, Draw(seed))
            progress.advance()
            return made

        tuning = [[run.validation for run in on("tuning", tried, seed)] for seed in range(config.tuning_draws)]
        scores = np.mean(tuning, axis=0).reshape(len(blocks.rows), -1)
        settings = [(row, config.block_learning_rates[int(k)]) for row, k in enumerate(scores.argmax(axis=1))]
        draws = range(config.tuning_draws, config.tuning_draws + config.report_draws)
        reported = [on("report", settings, seed) for seed in draws]
    test = np.array([[run.metrics["test"] for run in runs] for runs in reported]).T
    return blocks_section(config, blocks, settings, scores.max(axis=1), test)


def blocks_section(
    config: Config, blocks: Blocks, settings: Sequence[tuple[int, float]], scores: np.ndarray, test: np.ndarray
) -> tuple[Section, dict[str, Any]]:
    """scores [rows] on the tuning draws, test [rows, report draws]."""
    chosen, transferred = int(scores.argmax()), blocks.all_are(TRANSFERRED)
    rows, figures = [], []
    for k, row in enumerate(blocks.rows):
        difference = paired("", "all transferred", test[k] - test[transferred])
        cells = [*(row[name] for name in blocks.names[:-1]), compact(settings[k][1]), number(100 * scores[k], ".1f")]
        cells += [f"{number(100 * test[k].mean(), '.1f')} ± {100 * test[k].std(ddof=1):.1f}"]
        rows.append([*cells, points(difference) if k != transferred else "", "chosen" if k == chosen else ""])
        figures.append({"labels": row, "learning_rate": settings[k][1], "validation": scores[k], "test": test[k]})
        figures[-1] |= {"difference": difference.difference, "ci95": difference.ci95}
    against = []
    for kind in (TRANSFERRED, FROZEN):
        name = f"all {kind}"
        if chosen == blocks.all_are(kind):
            against.append(f"The search chose '{name}' itself.")
        else:
            against.append(
                verdict_sentence(paired("the search's choice", name, test[chosen] - test[blocks.all_are(kind)]))
            )
    lines = [
        *against,
        "Learning rate and labelling were chosen by validation accuracy on "
        f"{counted(config.tuning_draws, 'other draw')}; test accuracy is the mean ± sd of {config.report_draws} draws.",
        guessing(blocks.problem),
        "− all transferred: points, paired by draw, 95 % interval, not corrected for the number of rows.",
    ]
    columns = [*blocks.names[:-1], "lr", "validation", "accuracy", "− all transferred", ""]
    words = (*range(len(blocks.names) - 1), len(columns) - 1)
    title = "Which blocks to freeze, to fine-tune, to begin anew"
    draw = functools.partial(labellings, title, blocks.names, blocks.rows, test, chosen, transferred)
    section = Section(title, [Table(columns, rows, words)], lines, [Plot("label_trees", title, draw)])
    return section, {"label_trees": {"rows": figures, "chosen": chosen}}


# ---------------------------------------------------------------- the start


class Inner:
    """The inner problem: a few examples of a few classes, all parameters pulled towards where they start."""

    def __init__(self, config: Config, problem: Problem):
        self.config, self.problem = config, problem
        self.labels = jax.tree.map(lambda _: ADAPTED, problem.moved.labels)
        penalty = labelled(self.labels, {ADAPTED: Term(config.inner_penalty, l2, ("anchor",))})
        self.forward = as_forward(problem.model)
        self.grad_fn = total_gradient(make_loss_fn(self.forward, {"task": TASK}, penalty))
        self.tx, tx = (self.moving(schedule) for schedule in (None, problem.schedule))
        self.train = make_epoch(make_train_step(self.grad_fn, self.tx), config.inner_steps)
        self.train_on_target = make_epoch(make_train_step(self.grad_fn, tx), config.steps)

    def moving(self, schedule):
        groups = {ADAPTED: Group(self.config.inner_learning_rate)}
        return per_label(self.labels, groups, "nesterov", momentum=self.config.momentum, schedule=schedule)

    def init(self, anchor: Tree, rng: jax.Array):
        return init_state(anchor, self.tx, rng)

    def begin(self, point):
        """Of a sweep on the target."""
        rates = {f"{rate}/{ADAPTED}": point[rate] for rate in ("learning_rate", "penalty")}
        return init_state(point["params"], self.tx, jax.random.key(0)), rates

    def score(self, state, query, fixed):
        logits = self.forward(state.params, {}, query, EVALUATE)[0]["head"]
        return -jnp.mean(softmax_cross_entropy(logits, query["label"]))

    def right(self, state, data, fixed):
        """Accuracy on held-out examples of the target."""
        held = fixed.given["held"]
        return jnp.mean(jnp.argmax(self.forward(state.params, {}, held, EVALUATE)[0]["head"], axis=-1) == held["label"])

    def batch(self, images: jax.Array, labels: Any) -> dict[str, jax.Array]:
        mean, std = self.problem.images.mean, self.problem.images.std
        return {"image": normalise(images, mean, std), "label": jnp.asarray(labels)}

    # Learning a start.

    def sample(self, data, rng, step):
        """Small tasks, [tasks, ...]: as many of the source's classes as the target has, in any order.

        Support and query come from different halves of the images.
        """
        count, half, shots = len(data), data.shape[1] // 2, self.config.shots
        kept = min(count, len(self.problem.task.classes))

        def task(rng):
            order_rng, support_rng, query_rng = jax.random.split(rng, 3)
            classes = jax.random.permutation(order_rng, count)[:kept]

            def part(rng, first):
                which = first + jax.random.randint(rng, (kept, shots), 0, half)
                images = data[classes[:, None], which].reshape(-1, *data.shape[2:])
                return self.batch(images, jnp.repeat(jnp.arange(kept), shots))

            return {"support": part(support_rng, 0), "query": part(query_rng, half)}

        return jax.vmap(task)(jax.random.split(rng, self.config.tasks))

    def learned(self, kind: str, starts: Mapping[str, Tree]) -> dict[str, tuple[Tree, float]]:
        """{name: (the start after meta-learning on the source's training images, seconds)}, by one compiled step."""
        config = self.config
        if kind == "reptile":
            grad_fn, outer = reptile(self.init, self.train, self.score), ("sgd", 0.1)
        else:
            grad_fn, outer = imaml(self.init, self.train, self.score, self.grad_fn), ("adam", 1e-3)
        schedule = optax.cosine_decay_schedule(1.0, config.meta_steps)
        tx = per_label(self.labels, {ADAPTED: Group(outer[1])}, outer[0], schedule=schedule)
        step, data = make_train_step(grad_fn, tx, self.sample), by_class(self.problem.source.task.train)
        chunk, found = backend.steps_per_dispatch(config.chunk, config.meta_steps), {}
        for name, start in starts.items():
            began = time.perf_counter()
            state = init_state(start, tx, jax.random.key(config.seed))
            name = f"{name}{kind}"
            state, _ = fit(step, state, data, Fixed(), steps=config.meta_steps, chunk=chunk, progress=name)
            found[name] = state.params, time.perf_counter() - began
        return found

    # Using it.

    def starts(self) -> dict[str, tuple[Callable[[Draw], Tree], float]]:
        """Name -> (what adaptation starts from on a draw, seconds of meta-learning). Heads not learned are fresh."""
        problem = self.problem

        def source(draw: Draw) -> Tree:
            return {**problem.moved.params, "head": problem.fresh(draw)["head"]}

        found: dict[str, tuple[Callable[[Draw], Tree], float]] = {
            "source": (source, 0.0),
            "fresh": (problem.fresh, 0.0),
        }
        before = {"": problem.fresh(Draw(0)), "source + ": source(Draw(0))}
        for kind in META:
            for name, (params, seconds) in self.learned(kind, before).items():
                found[name] = functools.partial(lambda params, draw: params, params), seconds
        return found

    @property
    def settings(self) -> list[tuple[float, float]]:
        """(learning rate, λ towards the start) tried with every start."""
        return list(itertools.product(self.config.adapted_learning_rates, self.config.adapted_penalties))

    def adapted(self, start: Tree, draw: Draw) -> Sweep:
        """Every setting from one start, on the labelled examples of a draw."""
        problem, (learning_rates, penalties) = self.problem, zip(*self.settings, strict=True)
        examples, labels = problem.examples(draw), problem.task.train.labels
        data = self.batch(problem.target_images[examples.seen], examples.labels[examples.seen])
        held = self.batch(problem.target_images[problem.held], labels[problem.held])
        columns = {
            "params": jax.tree.map(lambda leaf: jnp.stack([leaf] * len(self.settings)), start),
            "learning_rate": np.array(learning_rates),
            "penalty": np.array(penalties),
        }
        given = {"anchor": start, "held": held}
        return sweep(self.begin, self.train_on_target, self.right, columns, data, given, batching="vmap")

    def test(self, swept: Sweep, setting: int) -> float:
        problem, params = self.problem, jax.tree.map(lambda leaf: leaf[setting], swept.states.params)
        predicted = predict(problem.model, params, problem.test_images, problem.images)
        return accuracy(predicted, problem.task.test.labels)


def by_class(part: Split) -> jax.Array:
    """Images [classes, as many as the smallest class has, ...]."""
    places = [np.flatnonzero(part.labels == label) for label in range(part.labels.max() + 1)]
    count = min(map(len, places))
    if count < 2:
        what = "a source class has a single image, and small tasks need one to learn from and one to be judged by"
        raise InputError(what, where="--config.split", todo="choose other source classes")
    return jnp.asarray(np.stack([part.images[index[:count]] for index in places]))


def compare_starts(config: Config, problem: Problem) -> tuple[Section, dict[str, Any]]:
    """Settings of each start are chosen on as many other draws as are reported: here a draw takes no time."""
    inner = Inner(config, problem)
    starts = inner.starts()
    figures: dict[str, dict[str, Any]] = {}
    first, last = config.tuning_draws, config.tuning_draws + config.report_draws
    draws, tuning = range(first, last), range(last, last + config.report_draws)
    with Progress(len(starts), "adapting from each start") as progress:
        for name, (start, seconds) in starts.items():
            refuse_stop(f"before adapting from {name}")
            scores = np.mean([inner.adapted(start(Draw(seed)), Draw(seed)).scores for seed in tuning], axis=0)
            best = int(scores.argmax())
            test = [inner.test(inner.adapted(start(Draw(seed)), Draw(seed)), best) for seed in draws]
            figures[name] = {"setting": inner.settings[best], "validation": scores[best], "test": np.array(test)}
            figures[name] |= {"seconds": seconds}
            progress.advance()
    rows, lines = [], []
    for name, found in figures.items():
        difference = paired(name, "source", found["test"] - figures["source"]["test"])
        found |= {"difference": difference.difference, "ci95": difference.ci95, "verdict": difference.verdict}
        learning_rate, penalty = map(compact, found["setting"])
        spread = f"{number(100 * found['test'].mean(), '.1f')} ± {100 * found['test'].std(ddof=1):.1f}"
        told = [points(difference), difference.verdict] if name != "source" else ["", ""]
        rows.append([name, learning_rate, penalty, number(100 * found["validation"], ".1f"), spread, *told])
        rows[-1].append(number(found["seconds"], ".1f") if found["seconds"] else "")
        lines += [verdict_sentence(difference)] if name != "source" else []
    lines += [
        f"{config.shots} labelled examples of a class; an MLP {'-'.join(map(str, config.small_widths))} on images of "
        f"edge {problem.images.shape[0]}. Small tasks: the source's classes in any order.",
        f"Meta-learning ({config.meta_steps} steps of {config.tasks} tasks) learns a head too; the source's is "
        "replaced by a fresh one. Seconds: of meta-learning, the first of a kind with compiling.",
        f"Learning rate and λ towards the start, of {len(inner.settings)} settings, by validation accuracy on "
        f"{counted(len(tuning), 'other draw')}; test accuracy: mean ± sd of {len(draws)} draws.",
        guessing(problem),
    ]
    columns = ["start", "lr", "λ to start", "validation", "accuracy", "− source", "verdict", "seconds"]
    title = "Is a meta-learned start better than the source model?"
    return Section(title, [Table(columns, rows, words=(0, 6))], lines), {"starts": figures}


# ---------------------------------------------------------------- the experiment


def main(config: Config, workdir: Path) -> None:
    started = time.perf_counter()
    check(config)
    console = Terminal()
    report.print_plan(console, config.report_draws, 1)
    data = load(config.data, config.data_dir or None, progress=Progress)
    report.print_data(console, source=data, target=data)
    source_task, task = cifar_transfer.chosen(config.split, "split", data, data, console)
    shared, small = as_transfer(config), as_small(config)
    cifar_transfer.check_tasks(shared, source_task, task)
    shrunk(task, config.small_edge)
    cifar_transfer.check_examples(shared, task)
    cifar_transfer.check_examples(small, task)
    check_memory(config, task)
    keep_to_data(workdir, task.origin, *task.content)
    source = make_source(shared, source_task, 0, workdir / "source")
    console.print(f"source model: {source.accuracy:.1%} of its {len(source_task.test)} test images are right")
    console.print(f"target: {some(task.classes)}; {config.n_per_class} labelled examples of each")
    report.print_batches(console, config.batch_size, config.n_per_class * len(task.classes))
    problem = Problem(shared, source, task, config.n_per_class)

    @functools.cache
    def small_problem(n: int) -> Problem:
        edge, room = config.small_edge, workdir / "small_source"
        return Problem(small, make_source(small, shrink(source_task, edge), 0, room), shrink(task, edge), n)

    def five_rates() -> Problem:
        return problem if config.five_rates_of == "model" else small_problem(config.n_per_class)

    parts: dict[str, Callable[[], tuple[Section, dict[str, Any]]]] = {
        "head_rates": lambda: rates_of_head(config, problem),
        "all_rates": lambda: rates_of_all(config, five_rates()),
        "label_trees": lambda: search_blocks(
            config, problem, RunStore(workdir / "label_trees", of=cli.identity(config))
        ),
        "starts": lambda: compare_starts(config, small_problem(config.shots)),
    }
    sections: list[Section] = []
    figures: dict[str, Any] = {}
    for part in (parts[name] for name in config.parts):
        section, found = part()
        report.print_section(console, section, config.preset)
        sections.append(section)
        figures |= found
    header = cli.header("automated_transfer", config, started, data=data.origin, notice=task.notice)
    console.line()
    for path in report.write_sections(workdir, header, figures, sections):
        console.print(f"wrote {path}", soft_wrap=True)


def rates_of_head(config: Config, problem: Problem) -> tuple[Section, dict[str, Any]]:
    tuning = Tuning(config, problem, HEAD, HEAD_RATES)
    section, figures, (ground, searches) = judge(
        config, "Rates of the head on frozen features", tuning, choose_for_head
    )
    title = "One draw: log-loss over both rates of the head, and the ways of two searches"
    plot = Plot("rates", title, functools.partial(ways, title, ground, searches))
    return section._replace(plots=[plot]), {"rates_of_head": figures}


def rates_of_all(config: Config, problem: Problem) -> tuple[Section, dict[str, Any]]:
    tuning = Tuning(config, problem, "pulled", ALL_RATES)
    model, widths = problem.config.model, "-".join(map(str, problem.config.widths))
    heading = f"Rates of all labels, {model} {widths} on images of edge {problem.images.shape[0]}"
    section, figures, _ = judge(config, heading, tuning, choose_for_all)
    return section, {"rates_of_all": figures}


def shrunk(task: DataSet, edge: int) -> tuple[int, int, int]:
    """(height, width) of images averaged down to at most this edge, and of how many pixels the edge of a block is."""
    shape = task.train.images.shape[1:]
    factor = -(-max(shape[:2]) // edge)
    height, width = (size // factor for size in shape[:2]) if len(shape) == 3 else (0, 0)
    if not (height and width):
        what = f"examples of {cifar_transfer.by_x(shape)} cannot be averaged down to images of edge {edge}"
        raise InputError(what, where="--config.small_edge", todo="give a larger one, or images that are not so narrow")
    return height, width, factor


def shrink(task: DataSet, edge: int) -> DataSet:
    """Images averaged down to at most this edge."""
    height, width, factor = shrunk(task, edge)

    def small(part: Split) -> Split:
        kept = part.images[:, : height * factor, : width * factor]
        blocks = kept.reshape(len(kept), height, factor, width, factor, -1)
        return Split(blocks.mean(axis=(2, 4)).astype(part.images.dtype), part.labels)

    return dataclasses.replace(task, train=small(task.train), test=small(task.test))


def as_transfer(config: Config) -> cifar_transfer.Config:
    """The same settings as the main job has them."""
    own = dataclasses.asdict(config)
    same = {field.name for field in dataclasses.fields(cifar_transfer.Config)} & own.keys() - {"preset", "n_per_class"}
    kept = {name: own[name] for name in same}
    return cifar_transfer.Config(splits=(config.split,), n_per_class=(config.n_per_class,), honest=(), **kept)


def as_small(config: Config) -> cifar_transfer.Config:
    """The same for the MLP on small images."""
    sizes = tuple({config.n_per_class, config.shots})
    return dataclasses.replace(as_transfer(config), model="mlp", widths=config.small_widths, n_per_class=sizes)


def check(config: Config) -> None:
    cli.check(config)
    cifar_transfer.check(as_transfer(config))


def check_memory(config: Config, task: DataSet) -> None:
    """Refuse what is trained side by side and does not fit into memory."""
    one = Split(task.train.images[:1], task.train.labels[:1])  # of the images the shape matters alone
    small = shrink(dataclasses.replace(task, train=one, test=one), config.small_edge)
    images = 2 * config.shots * len(task.classes)
    what, todo = f"{config.tasks:,} tasks of {images:,} images", "use fewer tasks, or fewer shots"
    needed = 4.0 * config.tasks * images * small.train.images[0].size
    cli.refuse_beyond_memory(needed, what, where="--config.tasks", todo=todo)
    what, todo = f"{config.points}² heads on {config.widths[-1]} features", "use fewer points"
    needed = 12.0 * config.points**2 * (1 + config.widths[-1]) * len(task.classes)
    cli.refuse_beyond_memory(needed, what, where="--config.points", todo=todo)
    rows = len(assignments([f"block {i}" for i in range(len(config.widths))]))
    cifar_transfer.check_memory(as_transfer(config), task, rows * len(config.block_learning_rates))
    settings = len(config.adapted_learning_rates) * len(config.adapted_penalties)
    cifar_transfer.check_memory(as_small(config), small, max(config.random, settings, config.tasks))


if __name__ == "__main__":
    cli.run(main, Config)
