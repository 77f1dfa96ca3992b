"""What does choosing λ cost in one program, beside what people do today?

    python -m experiments.benchmarks.selection                        # part of `make bench`
    python -m experiments.benchmarks.selection --config.rows=5000     # smaller paths

A grid of K configurations by `sweep` against the same runs one after another in one process, and against a fresh
process for each; ridge and logistic paths against scikit-learn. Ratios are seconds of the other over ours.

    sweep                        K = 1   K = 4   K = 16   K = 64   32 fresh processes
    linear head 512-10, 400 steps 0.97    4.04     6.10    11.29                 17.2
    MLP 784-128-10, 400 steps     1.07    1.34     1.43     1.31                 14.0
    CNN 16-32-64, 40 steps        1.06    1.07     1.04     1.08                 23.7

    ridge, 50,000 × 512, 10 targets, 100 λ with LOO     scales alike    over 3 decades
    ridge_path                                         1.00 = 0.74 s     1.00 = 0.84 s
    RidgeCV; its svd mode                                 43.7; 13.9        37.8; 12.9
    a Ridge for every λ, no LOO                                 37.2              34.9

    logistic, 10,000 × 512, 10 classes, 10 λ × 5 folds: logistic_path 1.00 = 2.4 s, LogisticRegressionCV at its default
    tolerance 45; the folds' losses differ by up to 4e-3

LOO errors agree to 1e-13, and the same λ is chosen. By `--config.tolerances=1e-4` in 7 minutes on 2 CPU cores, quiet,
Python 3.11, jax 0.10.2, scikit-learn 1.9.1; medians of 3 rounds, the others' paths once. Side by side only the head
gains much: a run of an MLP or a CNN keeps both cores busy by itself, where 2 and 1.75 were the goals.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.benchmarks.step import duration
from jaxtl import backend, cli, report
from jaxtl.data import Split, image_batches, on_device, stratified_folds
from jaxtl.errors import InputError
from jaxtl.labels import NEW, TRANSFERRED, label_params, label_set
from jaxtl.loop import refuse_stop
from jaxtl.losses import make_loss_fn, mean_of, softmax_cross_entropy
from jaxtl.models import Classifier, Cnn, Mlp, as_forward, initialise
from jaxtl.optimizers import Group, per_label
from jaxtl.penalties import Term, l2, labelled
from jaxtl.report import Section, Table
from jaxtl.selection import logistic_path, ridge_path, sweep
from jaxtl.step import Context, Fixed, init_state, make_epoch, make_train_step, program_of, total_gradient


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: seconds, for a look at the tables
    problems: tuple[str, ...] = ("head", "mlp", "cnn")
    sizes: tuple[int, ...] = (1, 4, 16, 64)  # configurations of a sweep
    processes: int = 32  # configurations of the sweep that is held against fresh processes
    started: int = 3  # fresh processes that are really started; their median stands for the others
    rounds: int = 3  # blocks of every way, taken in turns; medians
    rows: int = 50_000  # examples of the ridge path; a fifth of them for the logistic path
    features: int = 512
    lams: int = 100
    tolerances: tuple[float, ...] = (1e-4, 1e-6)  # of LogisticRegressionCV; the first is its default

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "problems": ("head",),
            "sizes": (1, 4),
            "processes": 4,
            "started": 1,
            "rounds": 1,
            "rows": 500,
            "features": 16,
            "lams": 10,
            "tolerances": (1e-2,),
        },
    }


CLASSES = 10


class Kind(NamedTuple):
    """A model, the shape of its inputs, and how long it is trained."""

    trunk: Any
    shape: tuple[int, ...]
    batch_size: int
    steps: int


KINDS = {
    "head": Kind(Mlp(()), (512,), 128, 400),
    "mlp": Kind(Mlp((128,)), (784,), 64, 400),
    "cnn": Kind(Cnn((16, 32, 64), "group", 1), (16, 16, 3), 50, 40),
}


# ---------------------------------------------------------------- sweeps


class Runs:
    """A grid over λ by label and the learning rate, trained by `sweep` or one run after another."""

    def __init__(self, name: str):
        kind = KINDS[name]
        self.name, self.steps = name, kind.steps
        random = np.random.default_rng(0)
        images, labels = random.normal(size=(2000, *kind.shape)).astype(np.float32), np.arange(2000) % CLASSES
        model = Classifier(kind.trunk, (("head", CLASSES),))
        self.params = initialise(model, jax.random.key(0), kind.shape)
        has_trunk = "trunk" in self.params
        of = label_params(self.params, [("head/.*", NEW), *([(".*", TRANSFERRED)] if has_trunk else [])])
        towards = {NEW: Term(0.0, l2)} | ({TRANSFERRED: Term(0.0, l2, ("anchor",))} if has_trunk else {})
        tx = per_label(of, {label: Group(0.1) for label in label_set(of)}, momentum=0.9)
        forward = as_forward(model)
        loss_fn = make_loss_fn(forward, {"task": Term(1.0, mean_of(softmax_cross_entropy))}, labelled(of, towards))
        channels = np.zeros(kind.shape[-1]), np.ones(kind.shape[-1])
        self.step = make_train_step(total_gradient(loss_fn), tx, image_batches(kind.batch_size, *channels))
        self.data = on_device(Split(images, labels), jax.random.key(1))
        self.rates = tuple(f"penalty/{label}" for label in towards)
        self.given = {"anchor": self.params}

        def init(point):
            return init_state(self.params, tx, jax.random.key(2)), point

        def score(state, data, fixed):
            batch = {"image": data["image"][:200], "label": data["label"][:200]}
            outputs, _ = forward(state.params, {}, batch, Context(0, None, {}, {}, train=False))
            return -jnp.mean(softmax_cross_entropy(outputs["head"], batch["label"]))

        self.init, self.score, self.start = init, score, jax.jit(init)
        # on a CPU a convolution's kernel gradient is slow inside a loop: there a call is a step
        self.chunk = 1 if name == "cnn" and jax.default_backend() == "cpu" else kind.steps
        self.train = self.step if self.chunk == 1 else make_epoch(self.step, self.chunk)

    def grid(self, size: int) -> dict[str, np.ndarray]:
        rates = {name: np.geomspace(1e-4, 1e-1, size) for name in self.rates}
        return rates | {"learning_rate/new": np.geomspace(0.001, 0.1, size)}

    def by_sweep(self, size: int) -> np.ndarray:
        calls = self.steps // self.chunk
        how = "loop" if self.chunk == 1 else "auto"
        result = sweep(
            self.init, self.train, self.score, self.grid(size), self.data, self.given, calls=calls, batching=how
        )
        return result.scores

    def one_by_one(self, size: int) -> np.ndarray:
        """The same program for every run, compiled once."""
        run, scores = program_of(self.step, self.chunk), []
        for k in range(size):
            point = {name: np.float32(column[k]) for name, column in self.grid(size).items()}
            state, rates = self.start(point)
            for _ in range(self.steps // self.chunk):
                state, _ = run(state, self.data, Fixed(rates, self.given))
            scores.append(self.score(state, self.data, None))
        return np.asarray(jnp.stack(scores))


def by_process(way: str, name: str, size: int) -> float:
    """Seconds from `python` to the scores, of a sweep or of one run, in a process without compiled programs."""
    code = f"from experiments.benchmarks.selection import Runs; Runs({name!r}).{way}({size})"
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return time.perf_counter() - began


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def medians(
    ways: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """(seconds of the first call, which compiles; median seconds of the others, taken in turns; last results)."""
    first = {name: timed(work)[0] for name, work in ways.items()}
    later: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(rounds):
        for name, work in ways.items():
            refuse_stop(f"before {name}")
            seconds, results[name] = timed(work)
            later[name].append(seconds)
    return first, {name: float(np.median(taken)) for name, taken in later.items()}, results


def sweeps(config: Config, console: Console) -> tuple[Section, dict[str, Any]]:
    rows, figures = [], {}
    for name in config.problems:
        runs, cells = Runs(name), []
        found: dict[str, Any] = {}
        for size in config.sizes:
            console.print(f"measuring a sweep of {size}, {name}")
            ways = {"sweep": partial(runs.by_sweep, size), "one by one": partial(runs.one_by_one, size)}
            first, later, results = medians(ways, config.rounds)
            gap = float(np.max(np.abs(results["sweep"] - results["one by one"])))
            found[str(size)] = {"first": first, "seconds": later, "largest_difference": gap}
            cells.append(f"{later['one by one'] / later['sweep']:.2f} ({duration(later['sweep'])})")
        console.print(f"measuring {config.started} fresh processes, {name}")
        single = float(np.median([by_process("one_by_one", name, 1) for _ in range(config.started)]))
        whole = by_process("by_sweep", name, config.processes)
        found["processes"] = {"one_run": single, "sweep": whole, "configurations": config.processes}
        figures[name] = found
        rows.append([name, *cells, f"{config.processes * single / whole:.1f} ({duration(whole)})"])
    columns = ["problem", *(f"K = {size}" for size in config.sizes), f"fresh processes, K = {config.processes}"]
    lines = [
        "How many times as long the same runs take one after another, compiled once; in brackets the sweep's seconds.",
        f"Fresh processes: {config.processes} × the median of {config.started} that were started, against one process "
        "that starts, compiles and sweeps; nothing is found compiled on disk.",
    ]
    return Section("Sweeps", [Table(columns, rows)], lines), {"sweeps": figures}


# ---------------------------------------------------------------- paths


def regression(rows: int, features: int, decades: float) -> tuple[np.ndarray, np.ndarray]:
    """Features whose scales span so many decades, and ten noisy targets."""
    random = np.random.default_rng(0)
    scales = np.logspace(0, -decades, features)[:, None]
    rotation = np.linalg.qr(random.standard_normal((features, features)))[0]
    x = (random.standard_normal((rows, features)) @ (scales * rotation) + 1).astype(np.float32)
    return x, 3 * x @ random.standard_normal((features, CLASSES)) + random.standard_normal((rows, CLASSES))


def ridge(config: Config, console: Console) -> tuple[Section, dict[str, Any]]:
    from sklearn.linear_model import Ridge, RidgeCV

    rows = []
    figures: dict[str, Any] = {}
    for decades in (0.0, 3.0):
        x, y = regression(config.rows, config.features, decades)
        alphas, wide = np.logspace(-2, 5, config.lams), x.astype(np.float64)
        console.print(f"measuring ridge paths, features over {decades:g} decades")
        first, later, results = medians({"ridge_path": partial(ridge_path, x, y, alphas / len(x))}, config.rounds)
        path, mine = results["ridge_path"], later["ridge_path"]
        rows.append([f"{decades:g} decades", "ridge_path, compiled", f"1.00 = {duration(mine)}", "", ""])
        rows.append(["", "ridge_path, with compilation", f"{first['ridge_path'] / mine:.2f}", "", ""])
        peers = {
            "RidgeCV": RidgeCV(alphas, store_cv_results=True),
            "RidgeCV, svd": RidgeCV(alphas, gcv_mode="svd", store_cv_results=True),
        }
        found: dict[str, Any] = {"ridge_path": mine, "first": first["ridge_path"]}
        for name, peer in peers.items():
            refuse_stop(f"before {name}")
            taken, model = timed(partial(peer.fit, wide, y))
            loo = model.cv_results_.mean(axis=0).T
            gap = float(np.max(np.abs(path.loo / loo - 1)))
            chosen = alphas[path.loo.mean(axis=1).argmin()]
            same = "same" if np.isclose(model.alpha_, chosen) else f"{model.alpha_:.3g}, ours {chosen:.3g}"
            rows.append(["", name, f"{taken / mine:.1f}", f"{gap:.1e}", same])
            found[name] = {"seconds": taken, "largest_relative_difference": gap}
        refuse_stop("before a loop of Ridge")
        taken = sum(timed(partial(Ridge(alpha).fit, wide, y))[0] for alpha in alphas[::10])
        rows.append(["", "a Ridge for every λ, no LOO", f"{10 * taken / mine:.1f}", "", ""])
        figures[f"{decades:g}"] = found | {"loop of Ridge": {"seconds": 10 * taken}}
    columns = ["features", "way", "seconds ÷ ours", "LOO, largest gap", "λ chosen"]
    lines = [
        f"{config.rows} × {config.features}, {CLASSES} targets, {config.lams} λ; leave-one-out errors of all.",
        "Gap: relative, over all λ and targets. The loop of Ridge: ten times every tenth λ.",
    ]
    return Section("Ridge", [Table(columns, rows, words=(0, 1, 4))], lines), {"ridge": figures}


def logistic(config: Config, console: Console) -> tuple[Section, dict[str, Any]]:
    from sklearn.linear_model import LogisticRegressionCV

    rows, features, random = config.rows // 5, config.features, np.random.default_rng(0)
    labels = random.permutation(np.arange(rows) % CLASSES)
    x, _ = regression(rows, features, 2.0)
    x = (2 * x + 0.04 * random.standard_normal((CLASSES, features))[labels]).astype(np.float32)
    lams, folds = np.logspace(-4, 1, 10), 5
    console.print("measuring logistic paths")
    ours = partial(logistic_path, x, labels, lams, folds=folds)
    first, later, results = medians({"logistic_path": ours}, config.rounds)
    mine, path = later["logistic_path"], results["logistic_path"]
    table = [["logistic_path, compiled", f"1.00 = {duration(mine)}", ""]]
    table.append(["logistic_path, with compilation", f"{first['logistic_path'] / mine:.2f}", ""])
    figures: dict[str, Any] = {"logistic_path": mine, "first": first["logistic_path"]}
    cut = stratified_folds(labels, folds, 0)
    for tolerance in config.tolerances:
        refuse_stop("before LogisticRegressionCV")
        peer = LogisticRegressionCV(
            Cs=1 / (0.8 * rows * lams),
            cv=cut,
            max_iter=5000,
            tol=tolerance,
            scoring="neg_log_loss",
            l1_ratios=(0,),
            use_legacy_attributes=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its options, which change from version to version
            taken, model = timed(partial(peer.fit, x.astype(np.float64), labels))
        theirs = -np.asarray(model.scores_).reshape(folds, -1)
        gap = float(np.max(np.abs(path.fold_loss.T - theirs)))
        table.append([f"LogisticRegressionCV, tol {tolerance:g}", f"{taken / mine:.1f}", f"{gap:.1e}"])
        figures[f"LogisticRegressionCV {tolerance:g}"] = {"seconds": taken, "largest_difference": gap}
    lines = [
        f"{rows} × {features}, {CLASSES} classes, {len(lams)} λ × {folds} folds. Gap: in the folds' mean log-loss."
    ]
    return Section("Logistic regression", [Table(["way", "seconds ÷ ours", "largest gap"], table)], lines), {
        "logistic": figures
    }


# ---------------------------------------------------------------- all of it


def main(config: Config, workdir: Path) -> None:
    started = time.perf_counter()
    check(config)
    console, sections = Console(highlight=False), []
    figures: dict[str, Any] = {}
    for part in (sweeps, ridge, logistic):
        section, found = part(config, console)
        report.print_section(console, section)
        sections.append(section)
        figures |= found
    header = {
        "experiment": "benchmarks.selection",
        "data": "random numbers",
        "command": cli.command("benchmarks.selection", config),
        "device": backend.describe_device(),
        "versions": backend.versions(),
        "minutes": (time.perf_counter() - started) / 60,
        "config": dataclasses.asdict(config),
    }
    for path in report.write_sections(workdir, header, figures, sections):
        console.print(f"wrote {path}", soft_wrap=True)


def check(config: Config) -> None:
    for name in config.problems:
        if name not in KINDS:
            raise InputError(f"unknown problem '{name}'", where="--config.problems", todo=f"known: {', '.join(KINDS)}")
    for flag in ("sizes", "processes", "started", "rounds", "features", "lams"):
        for value in np.atleast_1d(getattr(config, flag)):
            if value < 1:
                raise InputError(f"{value} is less than 1", where=f"--config.{flag}")
    if config.rows < 500:
        raise InputError(
            f"{config.rows} is less than 500", where="--config.rows", todo="the logistic path takes a fifth"
        )


if __name__ == "__main__":
    cli.run(main, Config)
