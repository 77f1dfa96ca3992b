"""Which fault does a bearing have, at another load, at another speed, in another machine?

Windows of vibration are labelled in one place and not in another: what carries over? First without a label of the
target, by the methods of domain adaptation; then with 1, 2 or 5 labelled windows of each fault, by fine-tuning. The bar
for all is logistic regression on the spectrum of a window, without a network. A network sees windows along time, or
their spectrograms.

    python -m experiments.bearing_faults --config.data=bearings.npz                 # three questions
    python -m experiments.bearing_faults --config.data=bearings.npz --config.model=spectrogram
    python -m experiments.bearing_faults --config.data=OURS,THEIRS   # folders of .npy, .wav, .csv; a fault a folder
    python -m experiments.bearing_faults --smoke        # rows of scikit-learn's digits, forwards and backwards in time

Windows are standardised one by one and share no sample. Where each fault has several recordings, those that are tested
are never trained on; where it has one, its last part in time is tested. No recording here turns from sound to faulty,
so how soon a fault is found cannot be asked. The figures are on the page `bearing_faults.md`, which `--publish` writes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from jaxtl import cli, report
from jaxtl.data import DataSet
from jaxtl.data.signal_files import recorded
from jaxtl.data.vibrations import Vibrations, load_vibrations
from jaxtl.data.windows import Recorded, in_windows, pixel_rows
from jaxtl.errors import InputError
from jaxtl.methods.domain.recipes import BASELINE, BOUND, DomainConfig, check_rows
from jaxtl.methods.domain.recipes import RECIPES as DOMAIN
from jaxtl.methods.finetuning import RECIPES as FINETUNING
from jaxtl.methods.finetuning.signal_recipes import SPECTRAL
from jaxtl.problems import LabelledConfig, SourceConfig, check_memory, check_plan, check_tasks, make_sources
from jaxtl.problems.spectra import AdaptedSignals, FewSignals
from jaxtl.protocol import MEASURES, Budget, Recipe, study
from jaxtl.protocol.results import Axes, Result
from jaxtl.report.domains import against_section, compare_pairs, labelled_section
from jaxtl.report.plots.comparison import plots_across
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
Question = Annotated[str, cli.OneOf("question", QUESTIONS)]
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(DomainConfig):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Names = ("digits",)  # bearings.npz; or two folders of recordings, the source and the target; or digits
    questions: Annotated[tuple[Question, ...], cli.Items(1, distinct=True)] = tuple(QUESTIONS)  # of bearings.npz
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
    # those of `questions` that are asked with labels too: others are solved by the spectrum
    labelled: Annotated[tuple[Question, ...], cli.Items(0, distinct=True)] = ("speeds", "rigs")
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
    """How a few labelled windows are learned from: the source model's trunk comes along, under a new head."""

    measure = "balanced_accuracy"  # no field here


def few(config: Config) -> FewConfig:
    """The fields of a Config that this is about."""
    own = {"steps": config.few_steps, "source_steps": config.steps, "normalisation": "group", "methods": ()}
    own["source_batch_size"] = config.batch_size
    shared: dict[str, Any] = {
        field.name: getattr(config, field.name, field.default) for field in dataclasses.fields(FewConfig)
    }
    return FewConfig(**shared | own)


def sides(config: Config) -> dict[str, tuple[DataSet, DataSet]]:
    """(source, target) of every question.

    Raises:
        InputError: what the readers refuse; more than two sets.
    """
    if len(config.data) > 2:
        raise InputError(f"{len(config.data)} sets", where="--config.data", todo="name one archive, or two folders")
    if len(config.data) == 2:
        found: dict[str, Sequence[Recorded]] = {"folders": [recorded(place) for place in config.data]}
    elif config.data == ("digits",):
        found = {"digits": pixel_rows()}
    else:
        archive = load_vibrations(config.data[0])
        found = {word: QUESTIONS[word](archive) for word in config.questions}
    cut = {word: [in_windows(side, config.length, config.seed) for side in both] for word, both in found.items()}
    ways = {word: (source, target) for word, (source, target) in cut.items()}
    return ways | ({f"{word}_back": both[::-1] for word, both in ways.items()} if config.both_ways else {})


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
        page.add(against_section(result, BAR, BASELINE, config.validator))
    asked = [word for word in ways if word.removesuffix("_back") in (*config.labelled, "digits", "folders")]
    compared: list[Result] = []
    for word in asked if config.n_per_class else ():
        source, target = ways[word]
        sources = make_sources(its, source, workdir / f"{word}_labelled" / "source")
        report.print_source(console, *sources)
        for n in config.n_per_class:
            axes: Axes = {"pair": problems[word].title, "n_per_class": n}
            problem = FewSignals(its, sources, target, n)
            compared.append(study(problem, LABELLED, workdir / f"{word}_labelled" / f"n_{n}", CONTRASTS, axes))
            page.add(*labelled_section(compared[-1], BAR))
            runs[f"{word}_{n}"] = compared[-1].runs
    if across := plots_across(compared, BAR):
        page.add(report.Section("By the number of labelled windows", plots=across))
    header = cli.header("bearing_faults", config, started, data=next(iter(problems.values())).origin)
    page.write(workdir, header, runs)


if __name__ == "__main__":
    cli.run(main, Config)
