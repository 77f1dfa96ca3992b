"""Which fault does a bearing have, at another load, at another speed, in another machine?

Windows of vibration are labelled in one place and not in another: what carries over? First without a label of the
target, by the methods of domain adaptation; then with 1, 2 or 5 labelled windows of each fault, by fine-tuning. The bar
for all is logistic regression on the spectrum of a window, without a network. A network sees windows along time, or
their spectrograms.

    python -m experiments.bearing_faults --config.data=bearings.npz                 # three questions
    python -m experiments.bearing_faults --config.data=bearings.npz --config.model=spectrogram
    python -m experiments.bearing_faults --config.data=OURS,THEIRS      # folders of .npy, .wav or .csv, a fault a folder
    python -m experiments.bearing_faults --smoke        # rows of scikit-learn's digits, forwards and backwards in time

Windows are standardised one by one and share no sample. Where each fault has several recordings, those that are tested
are never trained on; where it has one, its last part in time is tested. No recording here turns from sound to faulty,
so how soon a fault is found cannot be asked. The figures are on the page `bearing_faults.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet
from jaxtl.data.signal_files import recorded
from jaxtl.data.vibrations import Vibrations, load_vibrations
from jaxtl.data.windows import Recorded, in_windows
from jaxtl.errors import InputError
from jaxtl.methods.domain.recipes import BASELINE, BOUND, DomainConfig, check_rows
from jaxtl.methods.domain.recipes import RECIPES as DOMAIN
from jaxtl.methods.finetuning import RECIPES as FINETUNING
from jaxtl.methods.finetuning.signal_recipes import SPECTRAL
from jaxtl.problems import LabelledConfig, SourceConfig, check_memory, check_plan, check_tasks, make_sources
from jaxtl.problems.spectra import AdaptedSignals, FewSignals
from jaxtl.protocol import MEASURES, Budget, Recipe, study, verdict_sentence
from jaxtl.protocol.results import Result, points, slug
from jaxtl.report.domains import compare_pairs
from jaxtl.report.plots.comparison import plots_across, plots_of
from jaxtl.report.plots.confusions import confusion_maps
from jaxtl.report.tables import CONTRASTS_FIXED, method_table, notes
from jaxtl.report.tasks import figures_of
from jaxtl.terminal import Terminal

BAR = "spectrum"
ROWS = {name: row for name, row in DOMAIN.items() if name not in ("fixmatch", "osbp")} | SPECTRAL  # rows of signals
LABELLED = {name: FINETUNING[name] for name in ("scratch", "features", "fine_tune", "l2_differential", "l2_sp")}
LABELLED |= SPECTRAL
CONTRASTS = (("l2_sp", "fine_tune"), ("l2_sp", "l2_differential"), ("fine_tune", "scratch"), ("fine_tune", BAR))


def loads(found: Vibrations) -> list[Recorded]:
    """One bearing for each fault under more load, and under none."""
    rig = found.of_rig("cwru")
    return [found.some(rig & (found.load_hp == hp), f"cwru, {hp} hp", without="normal") for hp in (3, 0)]


def speeds(found: Vibrations) -> list[Recorded]:
    """One machine at two speeds."""
    rig = found.of_rig("hit_mfs")
    return [found.some(rig & (found.rpm == rpm), f"hit_mfs, {rpm} rpm") for rpm in (1200, 600)]


def rigs(found: Vibrations) -> list[Recorded]:
    """Two machines at three speeds each, asked where the fault is and not how grave."""
    return [found.some(found.of_rig(name), name, parts=True) for name in ("hit_mfs", "hit_rig")]


QUESTIONS = {"loads": loads, "speeds": speeds, "rigs": rigs}
Questions = Annotated[tuple[Annotated[str, cli.OneOf("question", QUESTIONS)], ...], cli.Items(0, distinct=True)]
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(DomainConfig):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Names = ("digits",)  # bearings.npz; or two folders of recordings, the source and the target; or digits
    questions: Questions = ("loads", "speeds", "rigs")  # of bearings.npz
    both_ways: bool = False  # also from the target to the source
    length: cli.Count = 1024  # samples of a window
    model: Literal["cnn", "spectrogram"] = "cnn"  # type: ignore[assignment]  # convolutions along time, or of pictures
    normalisation: Literal["group", "batch", "none"] = "batch"  # without labels; with a few it is group
    methods: Methods = (BASELINE, BOUND, BAR, "adabn", "dan", "coral", "dann", "mcc")
    steps: cli.Steps = 200  # also of the source model where a few windows are labelled
    source_steps: cli.Steps = 100
    batch_size: cli.Count = 32  # of each side
    report_draws: cli.Draws = 2
    replicates: cli.Draws = 4
    n_per_class: Annotated[tuple[cli.Count, ...], cli.Items(0, distinct=True)] = (1, 2, 5)  # labelled target windows
    labelled: Questions = ("speeds", "rigs")  # of `questions`, those that are asked with labels too; others are solved
    few_steps: cli.Steps = 100  # of a run on a few labelled windows

    may_change: ClassVar = (*DomainConfig.may_change, "questions", "n_per_class", "labelled")
    glossary: ClassVar = {name: row.means for name, row in (ROWS | LABELLED).items()} | DomainConfig.glossary
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": ("digits",),
            "length": 64,
            "widths": (8, 8),
            "steps": 40,
            "source_steps": 20,
            "few_steps": 20,
            "trials": 2,
            "report_draws": 1,
            "replicates": 2,
            "methods": (BASELINE, BOUND, BAR, "adabn", "dann"),
            "n_per_class": (1, 2),
        }
    }

    @property
    def rows(self) -> dict[str, Recipe]:
        """Those of `DomainConfig`, and the bar."""
        return super().rows | {name: dataclasses.replace(row, chosen=self.validator) for name, row in SPECTRAL.items()}


@dataclasses.dataclass(frozen=True)
class FewConfig(SourceConfig, LabelledConfig, Budget):
    """How a few labelled windows are learned from: the head of the source model, whose classes are these, comes along."""

    head, measure = "shared", "balanced_accuracy"  # no fields here


def few(config: Config) -> FewConfig:
    """The fields of a Config that this is about."""
    own = {"steps": config.few_steps, "source_steps": config.steps, "normalisation": "group", "methods": ()}
    own["source_batch_size"] = config.batch_size
    shared = {field.name: getattr(config, field.name, field.default) for field in dataclasses.fields(FewConfig)}
    return FewConfig(**shared | own)


def digits() -> list[Recorded]:
    """Stand-ins: pixels of scikit-learn's digits row after row, twenty images a recording; others backwards in time."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    cut = [images[labels == k][:120].reshape(6, -1, 1).astype(np.float32) for k in range(10)]
    forwards = [part[row] for part in cut for row in range(3)]
    own_sides = (forwards, [part[row, ::-1] for part in cut for row in range(3, 6)])
    classes, own = tuple("0123456789"), np.repeat(np.arange(10, dtype=np.int32), 3)
    names = ("digits", "digits, backwards")
    return [
        Recorded(name, (*side,), own, classes, "scikit-learn's digits")
        for name, side in zip(names, own_sides, strict=True)
    ]


def sides(config: Config) -> dict[str, tuple[DataSet, DataSet]]:
    """(source, target) of every question.

    Raises:
        InputError: what the readers refuse; more than two sets.
    """
    if len(config.data) > 2:
        raise InputError(f"{len(config.data)} sets", where="--config.data", todo="name one archive, or two folders")
    if len(config.data) == 2:
        found = {"folders": [recorded(place) for place in config.data]}
    elif config.data == ("digits",):
        found = {"digits": digits()}
    else:
        archive = load_vibrations(config.data[0])
        found = {word: QUESTIONS[word](archive) for word in config.questions}
    cut = {word: [in_windows(side, config.length, config.seed) for side in both] for word, both in found.items()}
    ways = {word: (source, target) for word, (source, target) in cut.items()}
    return ways | ({f"{word}_back": both[::-1] for word, both in ways.items()} if config.both_ways else {})


def beside_the_bar(config: Config, result: Result) -> report.Section:
    """What each method gains over the spectrum, and which faults are taken for which."""
    rows, shown = [], dict[str, Any]()
    for name in config.compared:
        gain = result.difference(name, BAR, config.validator)
        rows.append([name, points(gain) if gain else ""])
        shown[name] = result.summaries[name, config.validator].mean
    best = max((name for name in shown if name != BAR), key=shown.__getitem__)
    panels = {name: result.confusions(name, config.validator) for name in dict.fromkeys((BAR, BASELINE, best))}
    title = f"Which faults are taken for which: {result.title}"
    draw = functools.partial(confusion_maps, title, result.truth.names, {k: v for k, v in panels.items() if v})
    lines = [f"Points of balanced accuracy, chosen by {config.validator}, 95 % interval, not corrected. Right: {best}."]
    plot = report.Plot(f"confusion{slug(result.axes)}", title, draw)
    return report.Section(
        f"Beside the bar: {result.title}", [report.Table(["method", f"− {BAR}"], rows)], lines, [plot]
    )


def labelled_section(result: Result) -> tuple[report.Section, dict[str, Any]]:
    """A row for each way to learn from a few labelled windows, and the contrasts that were fixed beforehand."""
    said = [note for note in notes(result, BAR) if note.heading != CONTRASTS_FIXED]
    lines = [f"{note.heading}: {line}" if note.heading else line for note in said for line in note.lines]
    lines += [verdict_sentence(one) for one in result.contrasts]
    plots = [plot for plot in plots_of(result, BAR, [*result.axes]) if plot.name.startswith(result.measure.key)]
    return report.Section(result.title, [method_table(result, BAR)], lines, plots), {result.title: figures_of(result)}


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, config.methods)
    check_rows(config, config.methods)
    ways, its = sides(config), few(config)
    for source, target in ways.values():
        check_memory(config, target, config.trials)
        check_tasks(its, source, target, config.n_per_class, folds=False, models=its.trials)
    measure = MEASURES["balanced_accuracy"]
    problems = {word: AdaptedSignals(config, *both, measure) for word, both in ways.items()}
    page, results = compare_pairs(config, problems, workdir, console)
    runs = {word: result.runs for word, result in results.items()}
    for result in results.values() if BAR in config.methods else ():
        page.add(beside_the_bar(config, result))
    asked = [word for word in ways if word.removesuffix("_back") in (*config.labelled, "digits", "folders")]
    compared: list[Result] = []
    for word in asked if config.n_per_class else ():
        source, target = ways[word]
        sources = make_sources(its, source, workdir / f"{word}_labelled" / "source")
        report.print_source(console, *sources)
        for n in config.n_per_class:
            axes: Mapping[str, Any] = {"pair": problems[word].title, "n_per_class": n}
            problem = FewSignals(its, sources, target, n)
            compared.append(study(problem, LABELLED, workdir / f"{word}_labelled" / f"n_{n}", CONTRASTS, axes))
            page.add(*labelled_section(compared[-1]))
            runs[f"{word}_{n}"] = compared[-1].runs
    if across := plots_across(compared, BAR):
        page.add(report.Section("By the number of labelled windows", plots=across))
    header = cli.header("bearing_faults", config, started, data=next(iter(problems.values())).origin)
    page.write(workdir, header, runs)


if __name__ == "__main__":
    cli.run(main, Config)
