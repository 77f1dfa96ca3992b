"""Is it right to pull new parameters harder than transferred ones? And which criterion finds the right λ?

The problem of `cifar_transfer`, mapped: every pair of pulls from far below to far above 1 is trained, for L2 with two
rates and for L2-SP, on the same draws. On the map stand the choices of held-out validation, k-fold validation, AIC,
AICc, BIC and evidence, and what each choice loses in test accuracy against the best fixed pair of pulls.

    python -m experiments.lambda_selection             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.lambda_selection --smoke     # digits, a coarse map
    python -m experiments.lambda_selection --config.n_per_class=5,20 --config.report_draws=4

Measured by the last command on exact CIFAR-10, classes 0-4 → 5-9, 4 draws (seeds 2-5), in 19 minutes on 2 busy CPU
cores, jax 0.10.2. New parameters pulled harder than transferred ones against equal pulls, the best pairs by validation
on 2 other draws: −0.01 points [−0.18, 0.16] at n = 20 and +0.13 [−0.63, 0.88] at n = 5 for L2, −0.09 [−0.20, 0.03] and
−1.87 [−5.43, 1.69] for L2-SP. Against the best fixed pair of pulls, at n = 20 and 5: held-out accuracy −0.44 and +0.71
(L2), +0.08 and −0.32 (L2-SP), k-fold accuracy −0.87 and −7.58, +0.05 and −1.85; AIC −13.5 and −13.8, −1.1 and −1.6; BIC
−30.0 and −5.6, −2.9 and −1.4; evidence −28.8 and −21.5, −1.1 and −1.4; of the head alone −0.4 and −4.7, −1.0 and −4.2.
The best fixed pairs: 66.4 and 55.7 % (L2), 67.3 and 59.7 % (L2-SP).

AIC, BIC and evidence count the kernels, with biases and scales as they are; and they suppose that training has come to
rest at a minimum, which 150 steps with augmentation do not.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cifar_transfer
from experiments.cifar_transfer import TOWARDS, Problem, Trained, accuracy, make_source, outputs
from jaxtl import cli, report
from jaxtl.data import keep_to_data, load, normalise
from jaxtl.labels import NEW, TRANSFERRED, kernels, some
from jaxtl.loop import Stoppable, refuse_stop
from jaxtl.models import as_forward
from jaxtl.penalties import Term, l2, labelled
from jaxtl.report import Plot, Section, Table
from jaxtl.report.maps import Map, heat_maps, overfitting
from jaxtl.report.results import compact, number, points
from jaxtl.report.tables import counted
from jaxtl.selection import (
    Draw,
    Range,
    Run,
    RunStore,
    Setting,
    net_criteria,
    paired,
    regret,
    trial_settings,
    validation_criteria,
)
from jaxtl.selection.validation import log_likelihoods
from jaxtl.step import Fixed
from jaxtl.terminal import Terminal
from jaxtl.trees import Tree
from jaxtl.writers import Progress


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    n_per_class: cli.Counts = (20,)  # labelled target examples
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
    pull: cli.Ends = (0.01, 100.0)  # the ends of the map: λ · Σ learning rates / (1 − momentum), without unit
    points: cli.Points = 5  # pulls on each side of the map
    learning_rate: cli.Span = (0.008, 0.25)  # the range of the learning rate, which fine-tuning chooses
    trials: cli.Trials = 6  # learning rates tried
    tuning_draws: cli.Draws = 2  # choose the learning rate, and the best pulls of each part of the map
    report_draws: cli.PairedDraws = 6  # with fewer no difference can be told from chance: 2/2⁶ is below 5 %
    folds: cli.Folds = 3  # of k-fold validation
    validation: Annotated[int, cli.Within(10, 2**31 - 1)] = 1000  # target training images outside every subset
    seed: cli.Seed = 0

    may_change: ClassVar = ("n_per_class",)
    glossary: ClassVar = {
        "l2_differential": "fine-tuning with a pull towards 0 of its own for transferred and for new kernels",
        "l2_sp": "fine-tuning; transferred parameters are pulled towards the source model, new kernels towards 0",
        "validation accuracy": "on training images outside every labelled subset",
        "validation log-loss": "the same by log-loss",
        "k-fold accuracy": "on each part of the labelled examples, trained on the other parts",
        "k-fold log-loss": "the same by log-loss",
        "AIC": "Akaike's criterion: −2 log likelihood + 2 df, the effective degrees of freedom of all kernels",
        "AICc": "AIC with its correction for few examples",
        "BIC": "Schwarz' criterion: −2 log likelihood + df log n",
        "evidence": "the probability of the labels with all kernels integrated out, by Laplace",
        "evidence of the head": "the same with the head's kernel alone integrated out",
        "weakest pulls": "the corner of the map in which both pulls are smallest",
        "best fixed pair": "the pair of pulls with the best mean test accuracy, which nobody can know",
        "best of every draw": "the best pair of each draw by its test accuracy, which nobody can know",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "n_per_class": (5,),
            "source_steps": 200,
            "steps": 30,
            "points": 3,
            "trials": 2,
            "tuning_draws": 1,
            "report_draws": 2,
            "folds": 2,
            "validation": 100,
        },
    }


MAPS = {"l2_differential": "pull/transferred", "l2_sp": "pull/source"}  # method: the pull that goes down the map
ACROSS = "pull/new"
TOWARDS_WHAT = {"pull/transferred": "towards zero", "pull/source": "towards the source"}
CRITERIA = {  # a column of every run, and the sign that makes larger better
    "validation accuracy": ("validation", 1),
    "validation log-loss": ("validation_log_loss", -1),
    "k-fold accuracy": ("folds", 1),
    "k-fold log-loss": ("folds_log_loss", -1),
    "AIC": ("aic", -1),
    "AICc": ("aicc", -1),
    "BIC": ("bic", -1),
    "evidence": ("log_evidence", 1),
    "evidence of the head": ("head_log_evidence", 1),
}
REGIONS = {  # parts of the map, of (pull on transferred, pull on new)
    "equal": lambda down, across: down == across,
    "new > transferred": lambda down, across: down < across,
    "new < transferred": lambda down, across: down > across,
}
EXACT = 1000  # numbers observed, above which degrees of freedom are estimated by probes


# ---------------------------------------------------------------- one point of the map


class Judge:
    """What is measured of a trained net."""

    def __init__(self, problem: Problem):
        self.problem, self.forward = problem, as_forward(problem.model)
        self.penalty = labelled(problem.moved.labels, {TRANSFERRED: TOWARDS, NEW: Term(0.0, l2)})
        pulled = kernels(problem.moved.params)  # biases and scales go where they will, and are taken as given
        self.given = jax.tree.map(lambda kernel: not kernel, pulled)
        self.all_but_the_head = {**jax.tree.map(lambda _: True, pulled), "head": self.given["head"]}

    def logits(self, params: Tree, image: jax.Array) -> np.ndarray:
        return outputs(self.problem.model, params, image, self.problem.images, "head")

    def held_out(self, trained: Trained) -> np.ndarray:
        return self.logits(trained.params, self.problem.target_images[trained.examples.held])

    def measure(self, trained: Trained) -> dict[str, float]:
        """Everything but k-fold validation. Test figures judge, and choose nothing."""
        problem, examples, params = self.problem, trained.examples, trained.params
        seen = problem.target_images[examples.seen]
        found = {"train_loss": loss(self.logits(params, seen), examples.labels[examples.seen])}
        held = validation_criteria(self.held_out(trained), examples.labels[examples.held])
        found |= {"validation_log_loss": held.log_loss, "temperature": held.temperature}
        logits, labels = self.logits(params, problem.test_images), problem.task.test.labels
        found |= {"test": accuracy(logits.argmax(axis=1), labels), "test_loss": loss(logits, labels)}
        found |= {f"norm/{label}": float(norm) for label, norm in problem.norms(params)["norm"].items()}
        return found | self.price(trained, seen)

    def price(self, trained: Trained, seen: jax.Array) -> dict[str, float]:
        """Criteria that need no held-out example: of all kernels, and of the head's above a given trunk."""
        problem, examples = self.problem, trained.examples
        batch = {
            "image": normalise(seen, problem.images.mean, problem.images.std),
            "label": jnp.asarray(examples.labels[examples.seen]),
        }
        pulls = {name: rate for name, rate in trained.rates.items() if name.startswith("penalty/")}
        fixed = Fixed(pulls, {"anchor": problem.moved.anchor})
        observed = len(examples.seen) * (len(problem.task.classes) - 1)
        ask = functools.partial(net_criteria, self.forward, trained.params, batch, self.penalty, fixed)
        whole = ask(frozen=self.given, probes=0 if observed <= EXACT else 8)
        head = ask(frozen=self.all_but_the_head)
        kept = {name: getattr(whole, name) for name in ("df", "aic", "aicc", "bic", "log_evidence")}
        return kept | {"head_df": head.df, "head_log_evidence": head.log_evidence}


def loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy."""
    return -float(log_likelihoods(logits.astype(np.float64), labels).mean())


# ---------------------------------------------------------------- the map


def pulls_of(config: Config) -> np.ndarray:
    low, high = config.pull
    return np.geomspace(low, high, config.points)


def settings_of(config: Config, method: str, learning_rate: float) -> list[Setting]:
    """Every pair of pulls, the weakest first."""
    return [
        {"learning_rate": learning_rate, MAPS[method]: float(down), ACROSS: float(across)}
        for down, across in itertools.product(pulls_of(config), repeat=2)
    ]


def choose_learning_rate(config: Config, problem: Problem, store: RunStore) -> float:
    """The best of plain fine-tuning on the tuning draws: the map shows pulls, and no learning rates in disguise."""
    settings = trial_settings({"learning_rate": Range(*config.learning_rate)}, config.trials)
    scores = [made(problem, store, "fine_tune", settings, Draw(seed)) for seed in range(config.tuning_draws)]
    means = np.mean([[run.validation for run in runs] for runs in scores], axis=0)
    return settings[int(np.argmax(means))]["learning_rate"]


def made(
    problem: Problem, store: RunStore, method: str, settings: list[Setting], draw: Draw, judge: Judge | None = None
) -> list[Run]:
    """A run for every setting on one draw, from the store or from one sweep; with a judge everything is measured."""
    stage = "tuning" if judge is None else "report"
    plans = [Run(method, stage, "", draw.seed, None, k, setting) for k, setting in enumerate(settings)]
    missing = [plan for plan in plans if store.find(plan) is None]
    if missing:
        tried = [plan.setting for plan in missing]
        refuse_stop(f"before {method} on draw {draw.seed}")
        folded = folds_of(problem, method, tried, draw, judge) if judge else [{}] * len(tried)
        began = time.perf_counter()
        trained = problem.train_all(method, tried, draw)
        seconds = (time.perf_counter() - began) / len(tried)
        for plan, one, metrics in zip(missing, trained, folded, strict=True):
            run = dataclasses.replace(plan, seconds=seconds)
            if one is None:
                run = dataclasses.replace(run, validation=-np.inf, metrics={"test": 0.0}, diverged=True)
            else:
                metrics = metrics | (judge.measure(one) if judge else {})
                run = dataclasses.replace(run, validation=problem.validate(one, draw), metrics=metrics)
            store.add(run, {})
    return [found for plan in plans if (found := store.find(plan))]


def folds_of(
    problem: Problem, method: str, settings: list[Setting], draw: Draw, judge: Judge
) -> list[dict[str, float]]:
    """k-fold validation on the labelled examples alone, of every setting."""
    folds = problem.config.folds
    logits: list[list[np.ndarray]] = [[] for _ in settings]
    labels, parts, diverged = [], [], set[int]()
    for fold in range(folds):
        part = Draw(draw.seed, fold, folds)
        held = problem.examples(part)
        labels.append(held.labels[held.held])
        parts.append(np.full(len(held.held), fold))
        for k, one in enumerate(problem.train_all(method, settings, part)):
            if one is None:
                diverged.add(k)
            else:
                logits[k].append(judge.held_out(one))
    true, of = np.concatenate(labels), np.concatenate(parts)
    found: list[dict[str, float]] = []
    for k, blocks in enumerate(logits):
        if k in diverged:
            found.append({})
            continue
        judged = validation_criteria(np.concatenate(blocks), true, of)
        found.append({"folds": judged.accuracy, "folds_log_loss": judged.log_loss})
    return found


class Mapped(NamedTuple):
    """A method's runs on one problem: [draws][K] on the tuning and on the report draws."""

    method: str
    n: int
    learning_rate: float
    tuning: list[list[Run]]
    report: list[list[Run]]

    def scores(self, column: str, sign: int = 1) -> np.ndarray:
        """[report draws, K], larger is better; −inf where there is none."""

        def score(run: Run) -> float:
            value = run.validation if column == "validation" else run.metrics.get(column, np.nan)
            return sign * value if np.isfinite(value) else -np.inf

        return np.array([[score(run) for run in runs] for runs in self.report])

    @property
    def test(self) -> np.ndarray:
        """[report draws, K]."""
        return self.scores("test")

    @property
    def pulls(self) -> np.ndarray:
        """[K, 2]: down and across."""
        return np.array([[run.setting[MAPS[self.method]], run.setting[ACROSS]] for run in self.report[0]])


def map_out(config: Config, problem: Problem, method: str, learning_rate: float, store: RunStore) -> Mapped:
    settings, judge = settings_of(config, method, learning_rate), Judge(problem)
    draws = range(config.tuning_draws + config.report_draws)
    with Progress(len(draws), f"{method}, n = {problem.n}: {len(settings)} pairs of pulls a draw") as progress:
        runs = []
        for seed in draws:
            of = judge if seed >= config.tuning_draws else None
            runs.append(made(problem, store, method, settings, Draw(seed), of))
            progress.advance()
    cut = config.tuning_draws
    return Mapped(method, problem.n, learning_rate, runs[:cut], runs[cut:])


# ---------------------------------------------------------------- what the maps say


def criteria_table(mapped: Mapped) -> tuple[Table, dict[str, Any], dict[str, list[int]]]:
    """A row per criterion: which pulls it chooses, test accuracy there, and what that loses."""
    test, rows, figures, choices = mapped.test, [], {}, {}
    best_fixed = np.full(len(test), test.mean(axis=0).argmax())
    candidates = {name: mapped.scores(*how) for name, how in CRITERIA.items()}
    picks = {
        name: scores.argmax(axis=1) for name, scores in candidates.items() if np.isfinite(scores).any(axis=1).all()
    }
    choices = {name: list(map(int, picks.get(name, []))) for name in CRITERIA}
    picks |= {
        "weakest pulls": np.zeros(len(test), int),
        "best fixed pair": best_fixed,
        "best of every draw": test.argmax(1),
    }
    for name, picked in picks.items():
        at = test[np.arange(len(test)), picked]
        lost = regret(np.eye(test.shape[1])[picked], test)
        difference = paired(name, "best fixed pair", -lost)
        down, across = np.exp(np.log(mapped.pulls[picked]).mean(axis=0))
        compared = "" if name == "best fixed pair" else points(difference)
        accuracy_cell = f"{100 * at.mean():.1f} ± {100 * at.std(ddof=1):.1f}"
        rows.append([name, compact(down), compact(across), accuracy_cell, compared])
        figures[name] = {"pulls": mapped.pulls[picked], "test": at, "difference": difference.difference}
        figures[name] |= {"ci95": difference.ci95}
    columns = ["λ by", "pull transferred", "pull new", "accuracy", "− best fixed pair"]
    return Table(columns, rows), figures, choices


def region_table(mapped: Mapped) -> tuple[Table, dict[str, Any]]:
    """The best pair of each part of the map by the tuning draws, judged on the report draws."""
    mean = np.mean([[run.validation for run in runs] for runs in mapped.tuning], axis=0)
    picked = {
        name: max((k for k, pulls in enumerate(mapped.pulls) if inside(*pulls)), key=lambda k: mean[k])
        for name, inside in REGIONS.items()
    }
    rows, figures = [], {}
    for name, k in picked.items():
        at = mapped.test[:, k]
        difference = paired(name, "equal", at - mapped.test[:, picked["equal"]])
        down, across = mapped.pulls[k]
        told = [difference.verdict, points(difference)] if name != "equal" else ["", ""]
        rows.append([name, compact(down), compact(across), number(100 * at.mean(), ".1f"), *told[::-1]])
        figures[name] = {
            "pulls": [down, across],
            "test": at,
            "difference": difference.difference,
            "ci95": difference.ci95,
        }
    columns = ["part of the map", "pull transferred", "pull new", "accuracy", "− equal", "verdict"]
    return Table(columns, rows, words=(0, 5)), figures


def section_of(config: Config, mapped: Mapped, truth: report.Truth) -> tuple[Section, dict[str, Any], Map]:
    table, criteria, choices = criteria_table(mapped)
    regions, parts = region_table(mapped)
    lines = [
        f"Learning rate {compact(mapped.learning_rate)}, chosen by fine-tuning without pulls on "
        f"{counted(config.tuning_draws, 'other draw')}. Ties go to the weaker pulls.",
        truth.sentence,
        f"Accuracy on target test data in %, mean ± sd of {config.report_draws} draws; differences in points, paired "
        "by draw, 95 % interval. Pulls: geometric means of what was chosen.",
        "Best fixed pair, best of every draw: chosen by test accuracy, which nobody can do; they measure the others.",
        "Parts of the map: the best pair of each by validation on the tuning draws, judged on the report draws.",
    ]
    heading = f"{mapped.method}, {mapped.n} per class"
    size = config.points
    down = f"pull on transferred, {TOWARDS_WHAT[MAPS[mapped.method]]}"
    cells = {name: [divmod(k, size) for k in picked] for name, picked in choices.items()}
    accuracies = mapped.test.mean(axis=0).reshape(size, size)
    drawn = Map(heading, down, pulls_of(config), pulls_of(config), accuracies, cells)
    figures = {"criteria": criteria, "parts": parts, "test": mapped.test.mean(axis=0), "pulls": mapped.pulls}
    validation = mapped.scores("validation").mean(axis=0)
    return Section(heading, [table, regions], lines), {heading: figures | {"validation": validation}}, drawn


def overfitting_plot(config: Config, mapped: Mapped) -> Plot:
    """Along the diagonal of the map of L2: one pull for all parameters."""
    diagonal = np.arange(config.points) * (config.points + 1)

    def column(name: str) -> np.ndarray:
        return np.mean([[runs[k].metrics.get(name, np.nan) for k in diagonal] for runs in mapped.report], axis=0)

    losses = {"train": column("train_loss"), "test": column("test_loss")}
    norms = {label: column(f"norm/{label}") for label in (TRANSFERRED, NEW)}
    title = f"One pull for all parameters, {mapped.n} per class"
    draw = functools.partial(overfitting, title, pulls_of(config), losses, column("df"), norms)
    return Plot(f"overfitting_n_{mapped.n}", "Loss, degrees of freedom and norms along one common pull", draw)


# ---------------------------------------------------------------- the experiment


def main(config: Config, workdir: Path) -> None:
    started = time.perf_counter()
    check(config)
    console = Terminal()
    report.print_plan(console, config.report_draws, 1)
    data = load(config.data, config.data_dir or None, progress=Stoppable)
    report.print_data(console, source=data, target=data)
    source_task, task = cifar_transfer.chosen(config.split, "split", data, data, console)
    shared = as_transfer(config)
    cifar_transfer.check_tasks(shared, source_task, task)
    cifar_transfer.check_examples(shared, task)
    cifar_transfer.check_memory(shared, task, max(config.points**2, config.trials))
    keep_to_data(workdir, task.origin, *task.content)
    source = make_source(shared, source_task, 0, workdir / "source")
    console.print(f"source model: {source.accuracy:.1%} of its {len(source_task.test)} test images are right")
    sections: list[Section] = []
    maps: list[Map] = []
    plots: list[Plot] = []
    figures: dict[str, Any] = {}
    for n in config.n_per_class:
        problem = Problem(shared, source, task, n)
        console.print(f"target: {some(task.classes)}; {n} labelled examples of each")
        report.print_batches(console, config.batch_size, n * len(task.classes))
        store = RunStore(workdir / f"n_{n}", of=cli.identity(config, n))
        learning_rate = choose_learning_rate(config, problem, store)
        for method in MAPS:
            mapped = map_out(config, problem, method, learning_rate, store)
            section, found, drawn = section_of(config, mapped, report.Truth(task.test.labels, task.classes))
            report.print_section(console, section, config.preset)
            sections.append(section)
            maps.append(drawn)
            figures |= found
            plots += [overfitting_plot(config, mapped)] if method == "l2_differential" else []
    draw = functools.partial(heat_maps, "Target accuracy in %, and where each criterion lands (mean over draws)", maps)
    plots.insert(0, Plot("maps", "Accuracy over both pulls, and the choices of the criteria", draw))
    sections.insert(0, Section("Maps", plots=plots))
    header = cli.header("lambda_selection", config, started, data=data.origin, notice=task.notice)
    for path in report.write_sections(workdir, header, figures, sections):
        console.print(f"wrote {path}", soft_wrap=True)


def as_transfer(config: Config) -> cifar_transfer.Config:
    """The same settings as the main job has them."""
    names = {field.name for field in dataclasses.fields(cifar_transfer.Config)} - {"preset", "trials", "pull"}
    own = dataclasses.asdict(config)
    return cifar_transfer.Config(splits=(config.split,), **{name: own[name] for name in names & own.keys()})


def check(config: Config) -> None:
    cli.check(config)
    cifar_transfer.check(as_transfer(config))


if __name__ == "__main__":
    cli.run(main, Config)
