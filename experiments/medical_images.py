"""Few labelled medical images: what is a source model worth to a clinician, and does it hold in another laboratory?

X-rays with and without pneumonia, and white blood cells of two laboratories, n labelled images a class. A network
starts from photographs (a small CNN trained on CIFAR-10, or EfficientNet-Lite0) or from the other laboratory's cells,
beside logistic regression on the pixels and training from scratch. Beside balanced accuracy stands what is asked where
it matters: who is found at a specificity that held-out images fixed, what a probability means, here and elsewhere, and
from which probability on acting on it is worth more than treating everybody. What carries over to a laboratory without
any label is asked by `domain_cells`.

    python -m experiments.medical_images '--config.x_rays=medical.npz#pneumonia' '--config.cells=medical.npz#wbc'
    python -m experiments.medical_images --config.x_rays=pneumoniamnist.npz --config.cells=no   # MedMNIST's own file
    python -m experiments.medical_images --config.x_rays=chest_xray --config.cells=no           # a folder of pictures
    python -m experiments.medical_images --smoke      # scikit-learn's digits in their place, a few steps
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet, by_class, load
from jaxtl.data.domain_sets import halved, two_by_field
from jaxtl.data.overlap import without_copies
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import RECIPES
from jaxtl.problems import (
    Clinical,
    LabelledConfig,
    MeasureName,
    Source,
    SourceConfig,
    check_plan,
    check_tasks,
    make_sources,
)
from jaxtl.problems.clinical import PIXELS, flat
from jaxtl.problems.few_shot import seed_of
from jaxtl.problems.pretrained import PretrainedConfig, fewer, frozen_in_words, pretrained_source
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw, Recipe, Run, Setting, study, verdict_sentence
from jaxtl.report.clinical import Studied, clinical_section
from jaxtl.report.tables import CONTRASTS_FIXED
from jaxtl.selection import heads
from jaxtl.terminal import Terminal

NO, DIGITS = "no", "digits"
FIELD, FEWEST = "lab", 8  # the laboratory that cells come from; training images of a type in each, or it is left out
LITE = "efficientnet_lite0"
HEAD_ON = 1000  # photographs on which Lite0 has a head: what a method keeps of the source is measured by it


def by_pixels(problem: Clinical, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """Logistic regression on the labelled images as they are."""
    examples = problem.examples(draw)
    images, labels = flat(np.asarray(problem.target_images)[examples.seen]), examples.labels[examples.seen]
    head, _ = heads.logistic(images, labels, len(problem.task.classes), None, seed_of(problem.config, draw))
    return weights._replace(params={**weights.params, PIXELS: head})


ROWS = {
    "pixels": Recipe(
        None,
        (),
        "logistic regression on the pixels, its λ by cross-validation on the labelled images; nothing of the source",
        transfers=False,
        finish=by_pixels,
    ),
    **{name: RECIPES[name] for name in ("scratch", "features", "fine_tune", "l2_differential", "l2_sp")},
}
SourceName = Literal["photographs", "laboratory", "efficientnet_lite0"]  # the second for cells only
Sources = Annotated[tuple[Annotated[str, cli.OneOf("source", get_args(SourceName))], ...], cli.Items(1, distinct=True)]
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, PretrainedConfig, LabelledConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    x_rays: cli.Place = DIGITS  # images of two classes: an npz, a folder; no: not asked; digits: two of them stand in
    cells: cli.Place = DIGITS  # images with a field "lab" of two values; no; digits: four of them and their negatives
    photographs: cli.Place = "auto"  # what the CNN is trained on; auto: CIFAR-10 if it is found, else digits
    data_dir: cli.Place = ""  # where named data sets are looked for
    finding: cli.Text = ""  # the class of the X-rays that is looked for; left out: the last
    specificity: cli.Share = 0.9  # that a threshold has on held-out images
    sources: Sources = ("photographs", "laboratory", LITE)
    n_x_rays: cli.Counts = (20, 100)  # labelled X-rays of each class
    n_cells: cli.Counts = (5,)  # labelled cells of each type
    methods: Methods = ()  # some of the rows; all when empty
    measure: MeasureName = "balanced_accuracy"  # what methods are chosen by and compared by
    input_size: cli.Count = 28
    most_train: cli.Count = 6000
    most_test: cli.Count = 1000
    cut: Annotated[int, cli.Within(1, 7)] = 6
    source_steps: cli.Steps = 800
    source_batch_size: cli.Count = 64
    steps: cli.Steps = 60
    batch_size: cli.Count = 32
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 2
    replicates: cli.Draws = 4
    validation: cli.Count = 300

    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no field here
    may_change: ClassVar = (*Budget.may_change, "sources", "n_x_rays", "n_cells", "methods")
    glossary: ClassVar = {name: recipe.means for name, recipe in ROWS.items()} | {
        "photographs": "a small CNN that was trained on photographs",
        "laboratory": "a small CNN that was trained on all training images of the other laboratory",
        LITE: "EfficientNet-Lite0 as it was trained on ImageNet, its first stages frozen",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "photographs": DIGITS,
            "sources": ("photographs", "laboratory"),
            "methods": ("pixels", "fine_tune", "l2_sp"),
            "widths": (8, 8),
            "input_size": 8,
            "n_x_rays": (5,),
            "source_steps": 40,
            "steps": 20,
            "trials": 2,
            "replicates": 2,
            "report_draws": 1,
            "validation": 60,
        }
    }


@dataclasses.dataclass(frozen=True)
class OfSource(Config):
    model: Literal["cnn", "mlp", "wide_resnet", "resnet18", "efficientnet_lite0"] = "cnn"  # type: ignore[assignment]


def of_source(config: Config, name: str) -> OfSource:
    """With the model that a source has."""
    return OfSource(**{**vars(config), "model": LITE if name == LITE else config.model})


class Question(NamedTuple):
    """A task, what it may be carried from, and, of cells, the other laboratory."""

    name: str
    task: DataSet
    other: DataSet | None
    sizes: Sequence[int]


BAR, ALONE = "pixels", ("pixels", "scratch")
SHOWN = (("", BAR), ("photographs", "l2_sp"), ("laboratory", "l2_sp"), (LITE, "features"), (LITE, "l2_sp"))  # pictures
CONTRASTS = (("fine_tune", "scratch"), ("l2_sp", "fine_tune"), ("l2_differential", "l2_sp"), ("fine_tune", "features"))


def questions(config: Config) -> list[Question]:
    """Those that are asked, without examples that would be trained on and tested.

    Raises:
        InputError: X-rays of other than two classes, cells of other than two laboratories.
    """
    digits = halved(load(DIGITS), lambda images, key: 255 - images, "negatives")  # stand-ins

    def read(name: str) -> DataSet:
        return without_copies(load(name, config.data_dir or None, progress=StoppableProgress))

    asked = []
    if config.x_rays != NO:
        task = by_class(digits[0], ["3", "8"]) if config.x_rays == DIGITS else read(config.x_rays)
        names = [name for name in task.classes if name != config.finding]
        if len(task.classes) != 2 or (config.finding and len(names) != 1):
            what = f"'{task.name}' has the classes {', '.join(task.classes[:4])}"
            raise InputError(what, where="--config.x_rays", todo="give images of two, one of them --config.finding")
        task = by_class(task, [*names, config.finding]) if config.finding else task
        asked.append(Question("x_rays", task, None, config.n_x_rays))
    if config.cells != NO:
        both = tuple(by_class(one, ["0", "1", "2", "3"]) for one in digits)
        if config.cells != DIGITS:
            both = two_by_field(read(config.cells), FIELD, FEWEST, where="--config.cells")
        asked += [Question(f"cells_{k}", both[k], both[1 - k], config.n_cells) for k in (0, 1)]
    few = {id(one.task): fewer(config, one.task) for one in asked}  # the same for every source
    return [one._replace(task=few[id(one.task)], other=few.get(id(one.other))) for one in asked]


def sources_of(question: Question, config: Config) -> list[str]:
    """Those that it can be carried from: X-rays have no other laboratory."""
    return [name for name in config.sources if name != "laboratory" or question.other is not None]


def rows_of(question: Question, source: str, config: Config) -> list[str]:
    """The rows of a source: pixels stand beside the first that a question has, and nothing of Lite0 is begun anew."""
    asked, first = config.methods or tuple(ROWS), sources_of(question, config)[0]
    return [row for row in asked if (row != BAR or source == first) and (source, row) != (LITE, "scratch")]


def begun(
    config: Config, question: Question, name: str, photographs: DataSet, workdir: Path
) -> tuple[OfSource, list[Source], DataSet]:
    """The models of one source, and the task as they see it."""
    its = of_source(config, name)
    room = workdir / question.name / name
    if name == LITE:
        of = question.other or fewer(dataclasses.replace(config, most_train=HEAD_ON), photographs)
        return its, *pretrained_source(its, of, question.task, room / "frozen")
    if name == "laboratory" and question.other is not None:
        return its, make_sources(its, question.other, room / "source"), question.task
    return its, make_sources(its, photographs, workdir / name), question.task


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, ROWS)
    asked = questions(config)
    photographs = load(config.photographs, config.data_dir or None, progress=StoppableProgress)
    photographs = fewer(dataclasses.replace(config, most_train=len(photographs.train)), photographs)
    report.print_data(console, photographs=photographs, **{one.name: one.task for one in asked})
    pairs = [(one, name) for one in asked for name in sources_of(one, config) if rows_of(one, name, config)]
    for one in asked:
        check_tasks(config, photographs, one.task, one.sizes, folds=False, models=config.trials)
        if all(question is not one for question, _ in pairs):
            what = f"no row of {', '.join(config.sources)} answers for '{one.task.name}'"
            raise InputError(what, where="--config.sources", todo="name further sources or methods")
    names = config.methods or tuple(ROWS)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    studies: dict[tuple[str, int], list[Studied]] = {(one.name, n): [] for one in asked for n in one.sizes}
    for question, name in pairs:
        its, sources, task = begun(config, question, name, photographs, workdir)
        report.print_source(console, *sources)
        rows = rows_of(question, name, config)
        for n in question.sizes:
            far = None if question.other is None else (sources[0].task if name == LITE else question.other).test
            problem = Clinical(its, sources, task, n, far)
            axes: dict[str, Any] = {"question": question.name, "from": name, "n_per_class": n}
            room = workdir / question.name / name / f"n_{n}"
            result = study(problem, ROWS, room, planned, axes, methods=rows)
            studies[question.name, n].append(Studied(name, result, problem))
    page, runs = report.Page(console, config.preset), dict[str, list[Run]]()
    for (name, n), own in studies.items():
        title = f"{own[0].problem.task.name}, {n} labelled images of each class"
        section, figures = clinical_section(title, own, ALONE, BAR, SHOWN)
        verdicts = [f"From {one.source}: {verdict_sentence(c)}" for one in own for c in one.result.contrasts]
        page.add(section, {f"{name}, n={n}": figures})
        if verdicts:
            page.add(report.Section(f"{CONTRASTS_FIXED}: {title}", lines=verdicts))
        runs |= {f"{name}_{one.source}_{n}": one.result.runs for one in own}
    notice = report.together(*(one.task.notice for one in asked))
    origin = "; ".join(dict.fromkeys([*(one.task.origin for one in asked), photographs.origin]))
    origin += f"; {frozen_in_words(of_source(config, LITE))}" if LITE in config.sources else ""
    page.write(workdir, cli.header("medical_images", config, started, data=origin, notice=notice), runs)


if __name__ == "__main__":
    cli.run(main, Config)
