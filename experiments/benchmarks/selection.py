"""What does choosing λ cost in one program, beside what people do today?

    python -m experiments.benchmarks.selection                        # part of `make bench`
    python -m experiments.benchmarks.selection --config.rows=5000     # smaller paths

A grid of K configurations by `sweep` against the same runs one after another in one process, and against a fresh
process for each; ridge and logistic paths against scikit-learn. Ratios are seconds of the other over ours.

    one after another ÷ sweep         K    one device    a device a core    cores at most    32 or 16 fresh processes
    linear head 512-10, 400 steps    32          10.4               11.7              2.1                        17.8
    MLP 784-128-10, 400 steps        16    1.36; 1.36         1.47; 1.67       1.51; 1.62                    7.2; 5.8
    CNN 16-32-64, 40 steps           16    1.23; 1.10         1.52; 1.36       1.60; 1.38                    8.4; 7.6

    ridge, 50,000 × 512, 10 targets, 100 λ with LOO     scales alike    over 3 decades
    ridge_path                                          1.00 = 1.2 s      1.00 = 1.6 s
    RidgeCV; its svd mode                                 38.6; 14.3         27.0; 9.8
    a Ridge for every λ, no LOO                                 32.4              23.2

    logistic, 10,000 × 512, 10 classes, 10 λ × 5 folds: logistic_path 1.00 = 4.5 s, LogisticRegressionCV at its default
    tolerance 16; the folds' losses differ by up to 6e-3

LOO errors agree to 1e-13, and the same λ is chosen. MLP and CNN by two runs of `make bench`; the head and the paths by
`--config.problems=head --config.sizes=1,32 --config.processes=32 --config.started=1 --config.rounds=1
--config.memory_sizes=1 --config.tolerances=1e-4`; on 2 quiet CPU cores (AMD EPYC), Python 3.11, jax 0.10.2,
scikit-learn 1.9.1. A device a core: JAX_NUM_CPU_DEVICES=2. Side by side only the head gains much. 2 and 1.75 were the
goals of MLPs and CNNs: a run of one of them keeps both cores busy by itself, so that a configuration on each core gains
no more than "at most", measured where there is one core, and what is gained is that. LogisticRegressionCV has one
thread of BLAS: with two, OpenBLAS' own choice here, 2,000 × 256 took it 109 s in `make bench`, in place of 13.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, as_findings, duration, keep
from experiments.benchmarks.sweeps import CLASSES, Size, SweepConfig, medians, memory_of_sweeps, sweeps
from experiments.benchmarks.variants import timed
from jaxtl import cli
from jaxtl.data import stratified_folds
from jaxtl.loop import raise_if_stopped
from jaxtl.report import Section, Table
from jaxtl.selection import logistic_path, ridge_path

Tolerances = Annotated[tuple[cli.Positive, ...], cli.Items(1)]


@dataclasses.dataclass(frozen=True)
class Config(SweepConfig):
    preset: str = ""  # quick: what make bench takes; smoke: seconds, for a look at the tables
    # examples of the ridge path; a fifth of them for the logistic path
    rows: Annotated[int, cli.Within(500, 10**8)] = 50_000
    features: Size = 512
    lams: Size = 100
    tolerances: Tolerances = (1e-4, 1e-6)  # of LogisticRegressionCV; the first is its default

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {
            "problems": ("mlp", "cnn"),
            "sizes": (16,),
            "processes": 16,
            "started": 1,
            "rounds": 1,
            "rows": 10_000,
            "features": 256,
            "tolerances": (1e-4,),
            "memory_sizes": (1, 64),
        },
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
            "memory_sizes": (1, 2),
        },
    }


# ---------------------------------------------------------------- paths


def regression(rows: int, features: int, decades: float) -> tuple[np.ndarray, np.ndarray]:
    """Features whose scales span so many decades, and ten noisy targets."""
    random = np.random.default_rng(0)
    scales = np.logspace(0, -decades, features)[:, None]
    rotation = np.linalg.qr(random.standard_normal((features, features)))[0]
    x = (random.standard_normal((rows, features)) @ (scales * rotation) + 1).astype(np.float32)
    return x, 3 * x @ random.standard_normal((features, CLASSES)) + random.standard_normal((rows, CLASSES))


def ridge(config: Config, console: Console) -> Findings:
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
        found: dict[str, Any] = {"ridge_path": {"seconds": mine, "first": first["ridge_path"]}}
        for name, peer in peers.items():
            raise_if_stopped(f"before {name}")
            taken, model = timed(partial(peer.fit, wide, y))
            loo = model.cv_results_.mean(axis=0).T
            gap = float(np.max(np.abs(path.loo / loo - 1)))
            chosen = alphas[path.loo.mean(axis=1).argmin()]
            same = "same" if np.isclose(model.alpha_, chosen) else f"{model.alpha_:.3g}, ours {chosen:.3g}"
            rows.append(["", name, f"{taken / mine:.1f}", f"{gap:.1e}", same])
            found[name] = {"seconds": taken, "largest_relative_difference": gap}
        raise_if_stopped("before a loop of Ridge")
        taken = sum(timed(partial(Ridge(alpha).fit, wide, y))[0] for alpha in alphas[::10])
        rows.append(["", "a Ridge for every λ, no LOO", f"{10 * taken / mine:.1f}", "", ""])
        figures[f"{decades:g}"] = found | {"loop of Ridge": {"seconds": 10 * taken}}
    columns = ["features", "way", "seconds ÷ ours", "LOO, largest gap", "λ chosen"]
    lines = [
        f"{config.rows} × {config.features}, {CLASSES} targets, {config.lams} λ; leave-one-out errors of all.",
        "Gap: relative, over all λ and targets. The loop of Ridge: ten times every tenth λ.",
    ]
    sections = [Section("Ridge", [Table(columns, rows, words=(0, 1, 4))], lines)]
    return Findings(sections, seconds_in("ridge", figures), {"ridge": figures})


def logistic(config: Config, console: Console) -> Findings:
    from sklearn.linear_model import LogisticRegressionCV
    from threadpoolctl import threadpool_limits  # scikit-learn's own

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
    figures: dict[str, Any] = {"logistic_path": {"seconds": mine, "first": first["logistic_path"]}}
    cut = stratified_folds(labels, folds, 0)
    for tolerance in config.tolerances:
        raise_if_stopped("before LogisticRegressionCV")
        peer = LogisticRegressionCV(
            Cs=1 / (0.8 * rows * lams),
            cv=cut,
            max_iter=5000,
            tol=tolerance,
            scoring="neg_log_loss",
            l1_ratios=(0,),
            use_legacy_attributes=False,
        )
        with warnings.catch_warnings(), threadpool_limits(1, "blas"):
            warnings.simplefilter("ignore")  # of its options, which change from version to version
            taken, model = timed(partial(peer.fit, x.astype(np.float64), labels))
        theirs = -np.asarray(model.scores_).reshape(folds, -1)
        gap = float(np.max(np.abs(path.fold_loss.T - theirs)))
        table.append([f"LogisticRegressionCV, tol {tolerance:g}", f"{taken / mine:.1f}", f"{gap:.1e}"])
        figures[f"LogisticRegressionCV {tolerance:g}"] = {"seconds": taken, "largest_difference": gap}
    lines = [
        f"{rows} × {features}, {CLASSES} classes, {len(lams)} λ × {folds} folds. Gap: in the folds' mean log-loss.",
        "scikit-learn's has one thread of BLAS, which is its best: with more it can take many times as long.",
    ]
    sections = [Section("Logistic regression", [Table(["way", "seconds ÷ ours", "largest gap"], table)], lines)]
    return Findings(sections, seconds_in("logistic", figures), {"logistic": figures})


def seconds_in(name: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Every number of seconds in there, by its path."""
    numbers: dict[str, float] = {}
    for key, value in figures.items():
        if isinstance(value, Mapping):
            numbers |= seconds_in(f"{name}/{key}", value)
        elif key == "seconds":
            numbers[f"{name}/seconds"] = value
    return numbers


# ---------------------------------------------------------------- all of it


def measure(config: Config, console: Console, once: Once) -> Findings:
    parts = (sweeps, memory_of_sweeps, ridge, logistic)
    found = [as_findings(once(part.__name__, partial(part, config, console))) for part in parts]
    sections = [section for one in found for section in one.sections]
    numbers = {name: number for one in found for name, number in one.numbers.items()}
    return Findings(sections, numbers, {name: entry for one in found for name, entry in one.details.items()})


def check(config: Config) -> None:
    cli.check(config)
    needed = 8.0 * config.rows * (3 * config.features + config.lams)
    what = f"{config.rows} rows of {config.features} features and {config.lams} λ"
    cli.refuse_beyond_memory(needed, what, where="--config.rows", todo="use fewer of them")
    most = max(*config.sizes, *config.memory_sizes, config.processes)
    what = f"{most} MLPs of 101,770 parameters side by side"
    cli.refuse_beyond_memory(12.0 * 101_770 * most, what, where="--config.sizes", todo="use smaller ones")


def main(config: Config, workdir: Path) -> None:
    check(config)
    keep("benchmarks.selection", config, workdir, [(measure, config)])


if __name__ == "__main__":
    cli.run(main, Config)
