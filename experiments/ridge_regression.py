"""How does each penalty act on a linear model, and which criterion chooses its λ well?

The textbook case first: gradient descent with a labelled L2 penalty reaches ridge regression in closed form. Then
ten measurements of 442 diabetes patients: what L2, L1, elastic net and group lasso do to the coefficients along λ, all
trained by the library's own step, and what leave-one-out, GCV, AIC, BIC and the evidence say about λ.

    python -m experiments.ridge_regression           # 15 to 45 s on 2 shared CPU cores
    python -m experiments.ridge_regression --smoke

Measured with jax 0.10.2. Textbook: θ = 2.116148 without an intercept, 2.055326 x + 1.037698 with one, both within 2e-7
of the closed form. Diabetes, 49 λ from 0.001 to 10: largest difference from the closed form 7.1e-6 (L2), from
scikit-learn 6.4e-6 (L1) and 1.0e-5 (elastic net, ratio 0.5), with exactly the same zeros at every λ; of the group lasso
from its optimality conditions 1.1e-7. At λ = 0.1 L1 has 6 zeros of 10, elastic net 4, group lasso 2 (1 group of 4),
L2 and L1 by subgradients none. All 442 patients: λ = 0.0040 (LOO), 0.0071 (GCV, AIC), 0.035 (evidence), 0.18 (BIC).

R² of patients left out in %, mean ± sd of 200 splits, λ chosen on 20, 50, 200 patients: LOO 25.8 ± 26.3, 41.6 ± 5.4,
47.9 ± 2.8; evidence − LOO +5.09 [1.96, 8.21], +0.82 [0.34, 1.30], +0.20 [0.13, 0.28]; AIC − LOO −23.4 [−37.3, −9.5],
−0.31 [−0.73, 0.10], +0.04 [0.02, 0.07]; BIC − LOO −11.8 [−23.6, −0.1], −0.51 [−1.14, 0.11], −0.34 [−0.50, −0.18].
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import cli, report
from jaxtl.labels import count_by_label, label_params, label_set
from jaxtl.loop import fit
from jaxtl.losses import mean_of, squared_error
from jaxtl.optimizers import Group
from jaxtl.penalties import Term, l1, l2
from jaxtl.program import Weights, make_program
from jaxtl.protocol import each_draw, paired
from jaxtl.protocol.results import points
from jaxtl.proximal import Prox, count_zeros, prox_elastic_net, prox_group_lasso, prox_l1
from jaxtl.report import Plot, Section, Table
from jaxtl.report.cells import percent
from jaxtl.report.paths import criteria_section
from jaxtl.report.plots.paths import coefficient_paths
from jaxtl.selection import linear, ridge_path
from jaxtl.step import make_epoch
from jaxtl.sweep import sweep
from jaxtl.terminal import Terminal
from jaxtl.trees import Tree
from jaxtl.writers import Writer

PATIENTS = 442
Sizes = Annotated[tuple[Annotated[int, cli.Within(12, PATIENTS - 10)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: fills what is not given
    textbook_lambda: cli.Rate = 0.1  # beside the sum of squared errors, as textbooks have it; our rate is λ/n
    rates: cli.Ends = (1e-3, 10.0)  # the range of λ along which coefficients are followed
    path_points: cli.Points = 49  # how many λ in it
    steps: cli.Steps = 8000  # of gradient descent for every λ
    l1_ratio: Annotated[float, cli.Within(0, 1, "low")] = 0.5  # of the elastic net
    criteria_rates: cli.Ends = (1e-5, 100.0)  # the range of λ among which criteria choose
    criteria_points: cli.Points = 141  # how many λ in it
    splits: Annotated[int, cli.Within(2, 1_000_000)] = 200  # random splits on which choices are judged
    train_sizes: Sizes = (20, 50, 200)  # patients to choose λ on; all others test it
    seed: cli.Seed = 0  # of the splits

    glossary: ClassVar = {
        "L2": "half the sum of squared coefficients",
        "L1": "the sum of their absolute values",
        "elastic net": "a mixture of L1 and L2 by l1_ratio",
        "group lasso": "the norm of each group of coefficients times the root of its size; a group goes to 0 as one",
        "L1, subgradient": "L1 in the loss instead of as a proximal step: nothing becomes exactly 0",
        "LOO": "the mean squared error of each patient, predicted from all others",
        "GCV": "generalised cross-validation: LOO with the mean leverage in place of each patient's own",
        "AIC": "Akaike's criterion: n log(error) + 2 df, the effective degrees of freedom",
        "AICc": "AIC with its correction for few patients",
        "BIC": "Schwarz' criterion: n log(error) + df log n",
        "evidence": "the probability of the targets with all coefficients integrated out",
        "best λ": "chosen by the test patients themselves, which nobody can do",
        "least squares": "λ = 0",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"path_points": 9, "steps": 3000, "criteria_points": 29, "splits": 20},
    }


COEFFICIENTS, INTERCEPT = "coefficients", "intercept"
SUBGRADIENT = "L1, subgradient"
GROUPS = {"person": ("age", "sex"), "body": ("bmi", "bp"), "lipids": ("s1", "s2", "s3", "s4", "s5"), "glucose": ("s6",)}
SIZES = [len(names) for names in GROUPS.values()]
FEATURES = {name: group for group, names in GROUPS.items() for name in names}
TASK = {"task": Term(1.0, mean_of(squared_error, target="y"))}


# ---------------------------------------------------------------- the textbook case


class Line(NamedTuple):
    """y ≈ slope · x + intercept; None: the model has no intercept."""

    slope: float
    intercept: float | None

    def __str__(self) -> str:
        return f"{self.slope:.6f} x" + ("" if self.intercept is None else f" + {self.intercept:.6f}")


def textbook_data() -> tuple[np.ndarray, np.ndarray]:
    """x and y [100, 1] with y = 2x + 1 + noise/2; x is drawn first."""
    random = np.random.RandomState(0)
    x = random.randn(100, 1)
    return x, 2 * x + 1 + random.randn(100, 1) / 2


def descend(x: np.ndarray, y: np.ndarray, lam: float, intercept: bool, workdir: Path) -> Line:
    """Minimise 1/(2n) Σ(y − θx − b)² + λ/(2n) θ² by gradient descent: the kernel pays, the intercept does not."""
    params, rules = {"kernel": jnp.zeros((1, 1))}, [("kernel", COEFFICIENTS)]
    if intercept:
        params["bias"], rules = jnp.zeros(1), [*rules, ("bias", INTERCEPT)]
    labels = label_params(params, rules)

    def forward(params, model_state, batch, ctx):
        return {"head": batch["x"] @ params["kernel"] + params.get("bias", jnp.zeros(1))[None]}, model_state

    groups = {label: Group(0.5) for label in label_set(labels)}
    program = make_program(forward, labels, TASK, groups, {COEFFICIENTS: Term(lam / len(x), l2)})
    data = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}
    state = program.start(Weights(params), jax.random.key(0))
    with Writer(workdir) as writer:
        state, _ = fit(program.step, state, data, program.fixed(), steps=100, chunk=10, every=10, log=writer)
    return Line(state.params["kernel"].item(), state.params["bias"].item() if intercept else None)


def solve(x: np.ndarray, y: np.ndarray, lam: float, intercept: bool) -> Line:
    """The minimum of the same in closed form, θ = Σ xy / (Σ x² + λ); with an intercept, of x and y less their means."""
    x_mean, y_mean = (x.mean(), y.mean()) if intercept else (0.0, 0.0)
    slope = float(np.sum((x - x_mean) * (y - y_mean)) / (np.sum((x - x_mean) ** 2) + lam))
    return Line(slope, float(y_mean - slope * x_mean) if intercept else None)


def textbook(config: Config, workdir: Path) -> tuple[Section, dict[str, Any]]:
    (x, y), lam = textbook_data(), config.textbook_lambda
    rows, figures = [], {}
    for name, intercept in (("no_intercept", False), ("intercept", True)):
        found, closed = descend(x, y, lam, intercept, workdir / name), solve(x, y, lam, intercept)
        gap = max(abs(a - b) for a, b in zip(found, closed, strict=True) if a is not None and b is not None)
        rows.append([name.replace("_", " "), str(found), str(closed), f"{gap:.1e}"])
        figures[name] = {"descended": found, "closed": closed}
    lines = [
        f"y = 2x + 1 + noise/2, n = {len(x)}, λ = {lam:g} beside the sum of squares: a rate of {lam / len(x):g} beside "
        "their mean. The intercept is not penalised.",
        "Without an intercept the slope has to explain the 1 as well, and is wrong; no λ repairs that.",
    ]
    table = Table(["model", "gradient descent", "closed form", "difference"], rows)
    return Section("The textbook case", [table], lines), {"textbook": figures}


# ---------------------------------------------------------------- paths


class Problem(NamedTuple):
    """Standardised features [n, 10] and targets [n], and the same as the step takes them: a block for each group."""

    x: np.ndarray
    y: np.ndarray
    params: Tree
    labels: Tree
    data: dict[str, Any]

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Problem:
        x, y = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
        blocks = dict(zip(GROUPS, np.split(x, np.cumsum(SIZES)[:-1], axis=1), strict=True))
        params = {group: {"kernel": jnp.zeros((len(names), 1))} for group, names in GROUPS.items()}
        labels = label_params(params, [(".*/kernel", COEFFICIENTS)])
        data = {"x": blocks, "y": y[:, None]}
        return cls(x, y, params, labels, jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), data))


class Pull(NamedTuple):
    """A penalty, in the loss or as a proximal step, and who else solves it."""

    penalty: Term | None
    proximal: Prox | None
    solver: str
    solve: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None  # (x, y, lams) -> coefficients [L, D]


def pulls(config: Config) -> dict[str, Pull]:
    mixed = functools.partial(prox_elastic_net, l1_ratio=config.l1_ratio)
    lasso = functools.partial(linear.elastic_net_path, l1_ratio=1.0)
    elastic_net = functools.partial(linear.elastic_net_path, l1_ratio=config.l1_ratio)
    return {
        "L2": Pull(Term(0.0, l2), None, "closed form", linear.ridge_coefficients),
        "L1": Pull(None, Prox(0.0, prox_l1), "scikit-learn", lasso),
        "elastic net": Pull(None, Prox(0.0, mixed), "scikit-learn", elastic_net),
        "group lasso": Pull(None, Prox(0.0, prox_group_lasso), "optimality", None),
        SUBGRADIENT: Pull(Term(0.0, l1), None, "scikit-learn", lasso),
    }


def forward(params, model_state, batch, ctx):
    """Σ_group x_group · kernel_group: a kernel into one output is one group of the group lasso."""
    return {"head": sum(batch["x"][group] @ layer["kernel"] for group, layer in params.items())}, model_state


def follow(problem: Problem, pull: Pull, lams: np.ndarray, steps: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [L, D] after gradient descent with every λ, in one sweep; and zero weights and groups [2, L]."""
    penalties = {COEFFICIENTS: pull.penalty} if pull.penalty else {}
    program = make_program(forward, problem.labels, TASK, {COEFFICIENTS: Group(proximal=pull.proximal)}, penalties)
    curvature = float(np.linalg.eigvalsh(problem.x.T @ problem.x / len(problem.x))[-1])

    def init(point):
        rates = {f"penalty/{COEFFICIENTS}": point["lam"]}
        rates[f"learning_rate/{COEFFICIENTS}"] = 1 / (curvature + point["lam"])
        return program.start(Weights(problem.params), jax.random.key(0)), rates

    def score(state, data, fixed):
        return -jnp.mean(squared_error(forward(state.params, {}, data, None)[0]["head"], data["y"]))

    train = make_epoch(program.step, steps)
    params = sweep(init, train, score, {"lam": lams}, problem.data, {}, batching="vmap", progress=name).states.params
    zeros = jax.vmap(lambda params: count_zeros(params, problem.labels)[COEFFICIENTS])(params)
    coefficients = np.concatenate([np.asarray(params[group]["kernel"])[..., 0] for group in GROUPS], axis=1)
    return coefficients, np.array([zeros.weights, zeros.groups])


def paths(config: Config, problem: Problem) -> tuple[Section, dict[str, Any]]:
    lams = np.geomspace(config.rates[0], config.rates[1], config.path_points)
    rows: list[list[str]] = []
    figures: dict[str, dict[str, Any]] = {}
    counts = {"λ": [f"{lam:.2g}" for lam in lams]}
    for name, pull in pulls(config).items():
        began = time.perf_counter()
        coefficients, zeros = follow(problem, pull, lams, config.steps, name)
        seconds = time.perf_counter() - began
        same = "–"
        if pull.solve is None:
            gap = linear.group_lasso_violation(problem.x, problem.y, lams, coefficients, SIZES)
            counts[name] = [f"{w} ({g} of {len(GROUPS)} groups)" for w, g in zip(*zeros, strict=True)]
        else:
            solved = pull.solve(problem.x, problem.y, lams)
            gap = float(np.abs(coefficients - solved).max())
            same = f"{np.sum(np.all((coefficients == 0) == (solved == 0), axis=1))} of {len(lams)}"
            counts[name] = [str(w) for w in zeros[0]]
        how = "proximal step" if pull.proximal else "in the loss"
        rows.append([name, how, pull.solver, f"{gap:.1e}", same, f"{seconds:.1f}"])
        figures[name] = {"coefficients": coefficients, "zeros": zeros, "gap": gap, "seconds": seconds}
    columns = ["penalty", "charged", "held against", "largest gap", "same zeros", "seconds"]
    shown = np.unique(np.linspace(0, len(lams) - 1, 9).astype(int))
    zeros_at = Table(["zeros at λ", *figures], [[column[k] for column in counts.values()] for k in shown])
    lines = [
        f"{len(lams)} λ from {lams[0]:g} to {lams[-1]:g}, {config.steps} steps of full-batch gradient descent for "
        "each: one sweep a penalty. Features and target are standardised.",
        "Largest gap: in a coefficient; of the group lasso in the conditions that hold at a minimum and nowhere else.",
        f"Same zeros: for how many λ exactly the same of the {len(FEATURES)} coefficients are exactly 0.",
    ]
    drawn = {name: found["coefficients"] for name, found in figures.items() if name != SUBGRADIENT}
    draw = functools.partial(coefficient_paths, "Diabetes: coefficients along λ", lams, drawn, FEATURES)
    plot = Plot("paths", "Coefficients and zeros along λ", draw)
    section = Section("Coefficients along λ", [Table(columns, rows, words=(0, 1, 2)), zeros_at], lines, [plot])
    return section, {"paths": {"lambda": lams, "features": list(FEATURES), **figures}}


# ---------------------------------------------------------------- criteria


def criteria(config: Config, problem: Problem, y: np.ndarray) -> tuple[Section, dict[str, Any]]:
    """All 442 patients, features standardised."""
    lams = np.geomspace(config.criteria_rates[0], config.criteria_rates[1], config.criteria_points)
    path = ridge_path(problem.x, y, lams)
    fitted = path.coef[:, :, 0] @ problem.x.T + path.intercept
    curves = {"training error": np.mean((y - fitted) ** 2, axis=1), **linear.ridge_criteria(path)}
    lines = [
        "Training error, LOO and GCV are mean squared errors; evidence is −2 log evidence. df counts the intercept.",
        "The training error always chooses the smallest λ there is.",
    ]
    title = "Diabetes, ridge: what each criterion says about λ"
    section, figures = criteria_section(title, lams, path.df, curves, lines, hidden=["AICc"])
    return section, {"criteria": {"lambda": lams, **figures}}


def judge(config: Config, x: np.ndarray, y: np.ndarray) -> tuple[Section, dict[str, Any]]:
    """R² on the patients left out, with the λ that each criterion chose on those that were not."""
    columns, cells = ["λ by"], {name: [name] for name in (*linear.CRITERIA, linear.UNPENALISED, linear.BEST)}
    choices = np.geomspace(config.criteria_rates[0], config.criteria_rates[1], config.criteria_points)
    figures: dict[str, Any] = {str(size): {} for size in config.train_sizes}
    for size in config.train_sizes:
        found = []
        for draw in each_draw(range(config.splits), f"splits, n = {size}"):
            order = np.random.default_rng([config.seed, size, draw.seed]).permutation(len(y))
            found.append(linear.judge_ridge(x, y, order[:size], order[size:], choices))
        columns += [f"R², n = {size}", "− LOO"]
        for name, row in cells.items():
            scores, lams = np.transpose([one[name] for one in found])
            less = paired(name, "LOO", scores - [one["LOO"][0] for one in found])
            row += [percent(scores), "" if name == "LOO" else points(less)]
            judged = {"r2_mean": scores.mean(), "r2_sd": scores.std(ddof=1), "median_lambda": np.median(lams)}
            figures[str(size)][name] = judged | {"minus_loo": less.difference, "ci95": less.ci95}
    lines = [
        f"R² of the patients left out, in %, mean ± sd over {config.splits} random splits; difference to LOO paired by "
        "split, 95 % interval.",
        "With few patients, a few splits in which λ came out near 0 make most of a mean and its sd.",
        f"The splits share {PATIENTS} patients, so the intervals are narrower than those of fresh patients would be.",
        "Best λ: chosen by the test patients themselves, which nobody can do; least squares: λ = 0.",
    ]
    table = Table(columns, list(cells.values()))
    return Section("Which criterion chooses well?", [table], lines), {"splits": figures}


# ---------------------------------------------------------------- the experiment


def main(config: Config, workdir: Path) -> None:
    started = time.perf_counter()
    cli.check(config)
    x, y = diabetes()
    problem = Problem.of(x, y)
    console = Terminal()
    data = f"diabetes (scikit-learn): {len(y)} patients, {x.shape[1]} features"
    console.print(f"data      {data}")
    for label, count in count_by_label(problem.params, problem.labels).items():
        console.print(f"label     {label}: {count.leaves} kernels, one a group, {count.parameters} parameters")
    page = report.Page(console, config.preset)
    page.add(*textbook(config, workdir))
    page.add(*paths(config, problem))
    page.add(*criteria(config, problem, y))
    page.add(*judge(config, x, y))
    page.write(workdir, cli.header("ridge_regression", config, started, data=data))


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Features [442, 10] in the order of `FEATURES`, and how far the disease has come a year later [442]."""
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True)


if __name__ == "__main__":
    cli.run(main, Config)
