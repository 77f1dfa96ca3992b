"""Do the printed intervals hold, and does a verdict hold when the work is repeated? How is a budget of runs best spent?

Every setting of three methods' designs is trained on every draw of some replicates, each with a source model and
held-out examples of its own. From these stored runs comparisons are made again and again, with tuning draws, report
draws, trials and replicates at random: two copies of one method, all pairs of tuning draws, planted effects. And
everything is chosen and reported anew from source models that differ in the last bit of their weights only.

    python -m experiments.calibration             # CIFAR-10 where it is found, otherwise digits
    python -m experiments.calibration --smoke     # digits, a few runs of everything
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import cli, report
from jaxtl.data import load
from jaxtl.labels import NEW
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import RECIPES, head
from jaxtl.problems import (
    FewShot,
    LabelledConfig,
    Source,
    SourceConfig,
    check_tasks,
    check_training,
    choose_tasks,
    make_sources,
)
from jaxtl.problems.tuning import Tuning
from jaxtl.program import Weights
from jaxtl.protocol import (
    Draw,
    Draws,
    Range,
    RunStore,
    Setting,
    Trained,
    Trainer,
    Training,
    each_draw,
    identity,
    paired,
    study,
    trial_settings,
)
from jaxtl.protocol.power import power_to_differ
from jaxtl.protocol.results import number
from jaxtl.protocol.simulate import (
    Plan,
    Scores,
    calibrate,
    components,
    contradictory,
    differences,
    losses_of_search,
    replicate_difference,
)
from jaxtl.report import Section, Table
from jaxtl.report.tables import counted
from jaxtl.sweep import sweep
from jaxtl.terminal import Terminal

METHODS = ("l2", "l2_differential", "l2_sp")
PAIRS = (("l2_differential", "l2"), ("l2_sp", "l2_differential"))
EDGE, REPEATS = 16, 400  # of the fine grid; of searches in it
SOURCE = 7  # runs: a source model took 46 s where a run took 0.6, and eleven methods share it
BUDGET = 8 * (2 * 8 + 4 + SOURCE)  # runs of a method


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, LabelledConfig, Draws, Training):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    n_per_class: cli.Count = 20  # labelled target examples
    replicates: cli.PairedDraws = 8
    tuning_draws: Annotated[int, cli.Within(3, 1000)] = 8  # whose pairs choose
    report_draws: cli.Draws = 2  # further ones; those that do not choose report
    trials: Annotated[int, cli.Within(2, 1000)] = 8  # settings of every method
    learning_rate: cli.Span = (0.008, 0.25)  # ranges, searched log-uniformly
    pull: cli.Span = (0.03, 30.0)
    perturbations: Annotated[int, cli.Within(0, 1000)] = 10  # of source models, in the last bit
    comparisons: Annotated[int, cli.Within(4, 100_000)] = 2000  # simulated, for every figure

    methods, honest, folds, halving = (), (), 2, False  # no fields here
    may_change: ClassVar = ("perturbations", "comparisons")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "n_per_class": 5,
            "source_steps": 200,
            "steps": 30,
            "trials": 4,
            "replicates": 2,
            "tuning_draws": 4,
            "perturbations": 2,
            "comparisons": 100,
            "validation": 100,
        },
    }

    @property
    def every_seed(self) -> range:
        """Of the draws on which all settings are trained."""
        return range(self.tuning_draws + self.report_draws)


def crossed(config: Config, problem: FewShot, store: RunStore) -> dict[str, Scores]:
    """Every setting of every method's design on every draw of every replicate."""
    trainer = Trainer(problem, RECIPES)

    def tested(trained: Sequence[Trained | None], settings: Sequence[Setting]) -> list[dict[str, float]]:
        score, labels = problem.measure.score, problem.task.test.labels
        found = [one and score(labels, problem.logits(one.weights, problem.test_images)) for one in trained]
        return [{} if one is None else {"test": one} for one in found]

    shape = (config.replicates, len(config.every_seed), config.trials)
    found = {name: Scores(np.zeros(shape), np.zeros(shape)) for name in METHODS}
    for replicate in range(config.replicates):
        first = replicate * len(config.every_seed)
        seeds = range(first, first + len(config.every_seed))
        for k, draw in enumerate(each_draw(seeds, f"replicate {replicate + 1} of {config.replicates}")):
            for method in trainer.methods(METHODS):
                settings = trial_settings(method.search, config.trials, replicate)
                draw = draw._replace(replicate=replicate)
                runs = trainer.kept(store, method.name, settings, draw, measure=tested)
                found[method.name].validation[replicate, k] = [run.validation for run in runs]
                found[method.name].test[replicate, k] = [run.metrics["test"] for run in runs]
    return found


def null_section(config: Config, scores: dict[str, Scores]) -> tuple[Section, dict[str, Any]]:
    """Two copies of one method, with draws of their own; and effects planted in one of them."""
    rows, figures, draws = [], {}, len(config.every_seed)
    tuning = max(1, draws // 5)
    plan = Plan(config.replicates, tuning, (draws - 2 * tuning) // 2, config.trials)
    for name, planted in itertools.product(METHODS, (0.0, 0.01, 0.02)):
        how = scores[name], scores[name], plan, config.comparisons, config.seed
        found, sharing = (calibrate(*how, apart=apart, planted=planted) for apart in ("draws", "choice"))
        stated = power_to_differ(planted, found.sd, plan.replicates)
        differs = sum(found.verdicts.get(word, 0) for word in ("helps", "hurts")) / config.comparisons
        cells = [f"{100 * planted:g}", percent(found.coverage), points(found.half_width), points(found.sd)]
        rows.append([name, *cells, percent(differs), percent(stated) if planted else "–", percent(sharing.coverage)])
        figures[f"{name}, planted {planted}"] = found._asdict() | {"stated_power": stated, "sharing": sharing.coverage}
    lines = [
        f"{config.comparisons} simulated comparisons a row, of {counted(plan.replicates, 'replicate')} with "
        f"{counted(plan.tuning, 'tuning draw')} and {counted(plan.report, 'report draw')} for each copy.",
        "Coverage: of 95 % intervals. Found: verdict helps or hurts; with nothing planted, that is an error. Stated: "
        "power of the t test behind the verdicts, by the sd of all replicates.",
        "Sharing: coverage where both are reported on the same draws; there most differences are 0, and intervals too "
        "long.",
    ]
    columns = ["copies of", "planted", "coverage, %", "± half-width", "sd", "found, %", "stated, %", "sharing, %"]
    return Section("Two copies of one method", [Table(columns, rows)], lines), {"null": figures}


def flip_section(config: Config, scores: dict[str, Scores]) -> tuple[Section, dict[str, Any]]:
    """All pairs of tuning draws: verdicts over replicates, and those over the draws of one replicate."""
    rows, figures = [], {}
    choices = [np.array(pair) for pair in itertools.combinations(config.tuning_seeds, 2)]
    trials = np.arange(config.trials)

    def in_replicate(a: str, b: str, r: int, pair: np.ndarray, report: np.ndarray) -> float:
        return replicate_difference(scores[a], scores[b], r, (pair, pair), (report, report), (trials, trials))

    for a, b in PAIRS:
        over: list[str] = []
        within: list[list[str]] = [[] for _ in range(config.replicates)]
        for pair in choices:
            rest = np.setdiff1d(config.every_seed, pair)
            means = [in_replicate(a, b, r, pair, rest) for r in range(config.replicates)]
            over.append(paired(a, b, means, unit="replicate").verdict)
            for r in range(config.replicates):
                by_draw = [in_replicate(a, b, r, pair, rest[k : k + 1]) for k in range(len(rest))]
                within[r].append(paired(a, b, by_draw).verdict)
        apart = float(np.mean([contradictory(found) for found in within]))
        rows.append([f"{a} − {b}", percent(contradictory(over)), in_words(over), percent(apart)])
        figures[f"{a} − {b}"] = {"over": Counter(over), "contradictory": contradictory(over), "within_one": apart}
    lines = [
        f"{len(choices)} choices of two tuning draws; the other draws report. Contradictory: decided otherwise than "
        "most of those that decide.",
        "Of one replicate: as if its draws were all that varies, mean over replicates; such verdicts are not given.",
    ]
    columns = ["", "contradictory, %", f"verdicts over {config.replicates} replicates", "of one replicate, %"]
    return Section("The same with other tuning draws", [Table(columns, rows, (0, 2))], lines), {"flips": figures}


def components_section(scores: dict[str, Scores]) -> tuple[Section, dict[str, Any]]:
    """Source model, choice and draw: what differences vary by."""
    found = {f"{a} − {b}": components(scores[a], scores[b]) for a, b in PAIRS}
    rows = [[name, *map(points, parts)] for name, parts in found.items()]
    lines = ["Standard deviations in points. Replicate: source model, held-out examples and settings tried."]
    table = Table(["", "replicate", "choosing draw", "report draw"], rows)
    return Section("What differences vary by", [table], lines), {"components": found}


def last_bit(source: Source, seed: int) -> Source:
    """Weights, each the next number above or below."""
    rng = np.random.default_rng(seed)

    def moved(leaf: Any) -> jax.Array:
        towards = np.where(rng.random(leaf.shape) < 0.5, -np.inf, np.inf).astype(leaf.dtype)
        return jnp.asarray(np.nextafter(np.asarray(leaf), towards))

    return source._replace(weights=source.weights._replace(params=jax.tree.map(moved, source.weights.params)))


def perturbed_section(config: Config, problem: FewShot, workdir: Path) -> tuple[Section, dict[str, Any]]:
    """Everything chosen and reported anew from sources that differ in the last bit: the contrast that varies most."""
    config, (a, b) = dataclasses.replace(config, tuning_draws=1, report_draws=2), PAIRS[-1]
    found = []
    for k in range(config.perturbations + 1):
        seeds = np.random.SeedSequence([config.seed, k]).generate_state(config.replicates) if k else None
        sources = problem.sources if seeds is None else list(map(last_bit, problem.sources, seeds))
        other = FewShot(config, sources, problem.task, problem.n)
        found += study(other, RECIPES, workdir / f"perturbed_{k}", [(a, b)], methods=(a, b)).contrasts
    verdicts, means = [c.verdict for c in found], [c.difference for c in found]
    span = f"{points(min(means))} to {points(max(means))}"
    width = points(float(np.mean([c.ci95[1] - c.ci95[0] for c in found])) / 2)
    table = Table(["", "contradictory, %", "verdicts", "differences", "± half-width"], [], (0, 2))
    table.rows.append([f"{a} − {b}", percent(contradictory(verdicts)), in_words(verdicts), span, width])
    lines = [
        f"{counted(config.perturbations, 'perturbation')} of all {config.replicates} source models, and none; "
        f"one tuning draw, {config.trials} trials and two report draws in each."
    ]
    figures = {"last_bits": {"verdicts": verdicts, "differences": means, "contradictory": contradictory(verdicts)}}
    return Section("The same with other last bits", [table], lines), figures


def plan_section(config: Config, scores: dict[str, Scores]) -> tuple[Section, dict[str, Any]]:
    """A budget of runs split between tuning and report draws, trials and replicates."""
    rows, figures = [], {}
    for tuning, reported, trials in itertools.product((1, 2, 4), (1, 2, 4, 8), (config.trials // 2, config.trials)):
        once = Plan(1, tuning, reported, trials)
        plan = once._replace(replicates=BUDGET // (once.runs + SOURCE))
        if plan.replicates < 2 or tuning + reported > len(config.every_seed):
            continue
        found = [calibrate(scores[a], scores[b], plan, config.comparisons // 4, config.seed) for a, b in PAIRS]
        level, cover = (float(np.mean([getattr(c, name) for c in found])) for name in ("half_width", "coverage"))
        quality = float(np.mean([accuracy_of(scores[name], plan, config) for name in METHODS]))
        rows.append([*map(str, plan), points(level), percent(cover), percent(quality)])
        figures[str(tuple(plan))] = {"half_width": level, "coverage": cover, "test": quality}
    rows.sort(key=lambda row: float(row[4]))
    lines = [
        f"About {BUDGET} runs of a method; a source model counts as {SOURCE}. Half-width of 95 % intervals, coverage: "
        "means over the contrasts; accuracy: of what was chosen, mean over the methods.",
    ]
    columns = ["replicates", "tuning draws", "report draws", "trials", "± half-width", "coverage, %", "accuracy"]
    return Section("How a budget of runs is best spent", [Table(columns, rows, ())], lines), {"plans": figures}


def accuracy_of(scores: Scores, plan: Plan, config: Config) -> float:
    """Mean test score of what such a plan chooses."""
    nothing = Scores(scores.validation, np.zeros_like(scores.test))
    rng, few = np.random.default_rng(config.seed), plan._replace(replicates=config.comparisons // 4)
    return float(differences(scores, nothing, few, rng).mean())


def search_section(config: Config, problem: FewShot) -> tuple[Section, dict[str, Any]]:
    """What few trials lose against the best of a fine grid, for the head on frozen features."""
    tuning = Tuning(problem, head(problem), (f"learning_rate/{NEW}", f"penalty/{NEW}"))
    places, reach = (np.arange(EDGE) + 0.5) / EDGE, problem.reach["penalty"]
    rates, pulls = ([Range(*ends).at(place) for place in places] for ends in (config.learning_rate, config.pull))
    grid = np.array([(rate, pull / (rate * reach)) for rate in rates for pull in pulls])
    columns = dict(zip(tuning.learned, grid.T, strict=True))
    found = [judged(tuning, draw, columns) for draw in each_draw(config.every_seed, "a grid of rates of the head")]
    validation, test = (np.stack(part) for part in zip(*found, strict=True))
    rng, rows, figures = np.random.default_rng(config.seed), [], {}
    for count in (4, 8, 16, 32):
        figures[str(count)] = lost = losses_of_search(count, EDGE, validation, test, REPEATS, rng)
        rows.append([str(count), *map(points, lost.values())])
    lines = [
        f"The head on frozen features. Points of test accuracy lost against that setting of {EDGE}² which is the best "
        f"in the mean of all {len(found)} draws; chosen by {len(problem.held)} held-out images on one draw, or by "
        f"halving on several. Equal numbers of runs, {REPEATS} repeats.",
    ]
    table = Table(["runs", *figures["4"]], rows, ())
    return Section("How many trials, and which", [table], lines), {"search": figures}


def judged(tuning: Tuning, draw: Draw, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(held-out, test) accuracy [K] of all settings on a draw."""
    grid = {**columns, "draw": np.full(len(next(iter(columns.values()))), draw.seed)}
    data = tuning.problem.data(tuning.program, tuning.problem.start(draw), draw)
    swept = sweep(tuning.init, tuning.train, tuning.score, grid, data, tuning.given, batching="vmap")
    ended = Weights(swept.states.params, swept.states.model_state)
    return np.asarray(tuning.accuracies(ended, tuning.given["held"])), np.asarray(tuning.accuracies(ended, tuning.test))


def percent(share: float) -> str:
    return number(100 * share, ".1f")


def points(difference: float) -> str:
    return number(100 * difference, ".2f")


def in_words(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in Counter(verdicts).most_common())


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_training(config)
    draws = config.replicates * len(config.every_seed)
    what = f"{len(METHODS)} methods × {config.trials} trials × {draws} draws"
    cli.refuse_too_many_runs(len(METHODS) * config.trials * draws, what, where="--config.trials")
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    report.print_data(console, source=data, target=data)
    source_task, task = choose_tasks(config.split, "split", data, data)
    report.print_notice(console, task, since=data)
    check_tasks(config, source_task, task, [config.n_per_class], folds=False, models=EDGE**2)
    sources = make_sources(config, source_task, workdir / "source")
    report.print_source(console, *sources)
    problem = FewShot(config, sources, task, config.n_per_class)
    report.print_target(console, problem)
    scores = crossed(config, problem, RunStore(workdir / "crossed", of=identity(config)))
    page = report.Page(console, config.preset)
    page.add(*null_section(config, scores))
    page.add(*flip_section(config, scores))
    page.add(*components_section(scores))
    page.add(*plan_section(config, scores))
    page.add(*search_section(config, problem))
    page.add(*perturbed_section(config, problem, workdir))
    page.write(workdir, cli.header("calibration", config, started, data=data.origin, notice=task.notice))


if __name__ == "__main__":
    cli.run(main, Config)
