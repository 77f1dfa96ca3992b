"""Can a run learn how hard to pull, so that neither a grid nor a validation set is needed?

L2 towards the source (L2-SP) has two rates: for transferred parameters, and for new ones. The data-emphasised ELBO
learns both within a run, from the labelled examples alone. Is that as good as choosing them among 16 settings by
held-out images, by folds of the labelled examples, or by their Laplace evidence?

    python -m experiments.learned_pull                           # CIFAR-10 where it is found, otherwise digits
    python -m experiments.learned_pull --config.replicates=8     # and verdicts
    python -m experiments.learned_pull --smoke                   # digits, a check

What came out is on the page `learned_pull.md`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

from jaxtl import cli, report
from jaxtl.data import load
from jaxtl.labels import NEW, TRANSFERRED
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import DE_ELBO, RECIPES, TOWARDS
from jaxtl.problems import FewShot, FewShotConfig, SourceConfig, check_plan, check_tasks, choose_tasks, make_sources
from jaxtl.problems.criteria import Criteria
from jaxtl.protocol import Budget, Draw, Result, Selection, Trained, study, verdict_sentence
from jaxtl.protocol.results import number, points, varying
from jaxtl.report import Table
from jaxtl.report.cells import percent, span
from jaxtl.report.plots.comparison import plots_across, plots_of
from jaxtl.report.tables import DASH, coverage, repeated, setting_table
from jaxtl.report.tasks import figures_of
from jaxtl.terminal import Terminal

L2_SP, BASELINE = RECIPES["l2_sp"], "l2_sp"
METHODS = {
    "l2_sp": L2_SP,
    "l2_sp_folds": dataclasses.replace(
        L2_SP, means="l2_sp, chosen by folds of the labelled examples alone", chosen="honest"
    ),
    "l2_sp_evidence": dataclasses.replace(
        L2_SP, means="l2_sp, chosen by the Laplace evidence of the labelled examples alone", chosen="evidence"
    ),
    "de_elbo": DE_ELBO,
}
PULLED = ("λ source", "λ new", "pull source", "pull new")
CONTRASTS = [("de_elbo", other) for other in METHODS if other != "de_elbo"]
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", METHODS)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, FewShotConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "auto"  # a name (digits, cifar10, ...) or a path; auto: CIFAR-10 if found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    split: cli.Text = "0-4:5-9"  # source classes : target classes
    n_per_class: cli.Counts = (10, 20, 100)  # labelled target examples
    trials: cli.Trials = 16  # settings tried for l2_sp, however it is chosen
    tuning_draws: cli.Draws = 1  # choose the settings of l2_sp
    report_draws: cli.Draws = 2
    folds: cli.Folds = 3
    methods: Methods = ()  # some of them; all when empty

    may_change: ClassVar = (*Budget.may_change, "n_per_class", "methods")
    glossary: ClassVar = {name: recipe.means for name, recipe in METHODS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "n_per_class": (5,),
            "source_steps": 200,
            "steps": 30,
            "trials": 2,
            "report_draws": 2,
            "folds": 2,
            "validation": 100,
        },
    }


def evidence(criteria: Criteria, trained: Trained, draw: Draw) -> float:
    """The logarithm of the probability of the labels, with all kernels integrated out."""
    return criteria.price(trained, draw)["log_evidence"]


def section_of(problem: FewShot, result: Result) -> report.Section:
    """What each way to choose came to, beside what it took."""
    columns = ["method", "accuracy", f"− {BASELINE}", "runs", "seconds", "labels", *PULLED]
    table = Table(columns, [row_of(problem, result, method) for method in result.methods])
    lines = [
        f"Accuracy on target test data in %, mean ± sd over {repeated(result)}; − {BASELINE}: points, paired by "
        f"{result.unit}, 95 % interval, not corrected for the number of rows.",
        "Runs and seconds: for one choice, and the run that is reported. Labels: those learned from, and that only "
        "choose. λ: of ½‖w − w⁰‖² and of ½‖w‖² beside the mean loss, from the lowest to the highest of all choices; "
        "pull: λ · Σ learning rates / (1 − momentum).",
        *coverage(result),
    ]
    return report.Section(result.title, [table, setting_table(result)], lines)


def row_of(problem: FewShot, result: Result, method: str) -> list[str]:
    """A method's figures; what chose for all draws of a replicate is counted once for it."""
    summary = result.summaries[method, result.shown(method)]
    runs = result.reported(method, summary.selection)
    stage, tuned = runs[0].chosen_in, summary.selection == "tuned"
    choices = result.replicates if tuned else len(runs)
    choosing = sum(run.method == method and run.stage == stage for run in result.runs)
    seconds = summary.choosing_seconds / choices, summary.seconds / len(runs)
    difference = result.difference(method, BASELINE)
    labels = f"{problem.n * len(problem.task.classes)}"
    ended = [run for run in runs if not run.diverged]
    rates = [[run.metrics[f"lambda/{name}"] for run in ended] for name in ("source", "new")]
    reach = [run.setting["learning_rate"] * problem.reach["penalty"] for run in ended]
    pulls = [[rate * of for rate, of in zip(found, reach, strict=True)] for found in rates]
    return [
        method,
        percent(summary.units),
        points(difference) if difference else "baseline" if method == BASELINE else DASH,
        f"{choosing / choices:.0f} + 1",
        " + ".join(number(value, ".1f") for value in seconds),
        f"{labels} + {len(problem.held)}" if tuned else labels,
        *(span(values) if ended else DASH for values in (*rates, *pulls)),
    ]


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, METHODS)
    report.print_plan(console, config.replicates, len(CONTRASTS), "replicate")
    data = load(config.data, config.data_dir or None, progress=StoppableProgress)
    report.print_data(console, source=data, target=data)
    source_task, task = choose_tasks(config.split, "split", data, data)
    report.print_notice(console, task, since=data)
    check_tasks(config, source_task, task, config.n_per_class, folds=True, models=config.trials)
    sources = make_sources(config, source_task, workdir / "source")
    report.print_source(console, *sources)
    page, results = report.Page(console, config.preset), list[Result]()
    for n in config.n_per_class:
        problem = FewShot(config, sources, task, n)
        report.print_target(console, problem)
        report.print_batches(console, config.batch_size, n * len(task.classes))
        criteria = Criteria(problem, {TRANSFERRED: TOWARDS, NEW: TOWARDS["zero"]})
        by_evidence = Selection("evidence", "draw", functools.partial(evidence, criteria), ())
        axes: dict[str, Any] = {"n_per_class": n}
        result = study(problem, METHODS, workdir / f"n_{n}", CONTRASTS, axes, selections=[by_evidence])
        page.add(section_of(problem, result), {f"n_{n}": figures_of(result)})
        if result.contrasts:
            lines = [verdict_sentence(contrast) for contrast in result.contrasts]
            page.add(report.Section(f"Contrasts fixed beforehand, {n} per class", lines=lines))
        results.append(result)
    names = varying(results)
    shown = [
        *plots_across(results, BASELINE),
        *(plot for one in results for plot in plots_of(one, BASELINE, names)[:2]),
    ]
    page.add(report.Section("Pictures", plots=shown))
    header = cli.header("learned_pull", config, started, data=data.origin, notice=task.notice)
    page.write(workdir, header, {f"n_{n}": one.runs for n, one in zip(config.n_per_class, results, strict=True)})


if __name__ == "__main__":
    cli.run(main, Config)
