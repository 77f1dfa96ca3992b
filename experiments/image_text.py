"""Images and descriptions of their classes in one space: what is a description worth, and what a few labels beside it?

Features of images (a frozen EfficientNet-Lite0) are mapped to where MiniLM puts the descriptions of their classes, by
one linear map, learned from some classes of CIFAR-100. Which alignment, and how hard to pull, is chosen by other
classes; tested is on further ones, and on CIFAR-10: which description is the most similar (zero-shot), what is found.
Then n labelled images of each class of CIFAR-10: from the descriptions on or from nothing, pulled towards them or
towards 0. Without any label it is the zero-shot accuracy: is transfer from there worth anything?

    python -m experiments.image_text                               # CIFAR-100 and CIFAR-10 where they are found
    python -m experiments.image_text --config.wording=name         # the name alone is what is said of a class
    python -m experiments.image_text --smoke                       # digits, described by their strokes; no weights

Weights are fetched once. They have seen ImageNet's classes, some of which are tested here: zero-shot means that the
space has learned from no image of a class. The figures are on the page `image_text.md`.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from jaxtl import cli, report
from jaxtl.data import keep_to_data, load
from jaxtl.data.captions import Wording, captions
from jaxtl.errors import InputError
from jaxtl.finetune.seen import Images, Texts, seen_images, seen_texts
from jaxtl.loop import StoppableProgress
from jaxtl.methods.multimodal.space_recipes import LABELLED, SPACES
from jaxtl.problems import Described, FewDescribed, JointSpace, LabelledConfig, Source, SpaceConfig, check_plan
from jaxtl.problems.checks import check_examples
from jaxtl.problems.pretrained import fewer
from jaxtl.protocol import Budget, Draw, RunStore, Trainer, identity, study
from jaxtl.protocol.results import Result
from jaxtl.report.pairs import along_section, compared_section, units, value_of
from jaxtl.report.plots.comparison import Plot
from jaxtl.report.plots.pairs import along
from jaxtl.report.spaces import space_section
from jaxtl.terminal import Terminal

BASELINE, SPACE_BASELINE = "zero_shot", "classes"
SPACE_CONTRASTS = tuple((name, SPACE_BASELINE) for name in SPACES if name != SPACE_BASELINE)
CONTRASTS = (
    ("text_to_text", "zero_shot"),
    ("text_to_text", "text_to_zero"),
    ("fresh_to_text", "fresh_to_zero"),
    ("text_to_zero", "fresh_to_zero"),
    ("text_to_text", "probe"),
    ("all_to_start", "text_to_text"),
)
SHOWN = ("zero_shot", "text_to_text", "text_to_zero", "fresh_to_zero", "probe")  # in the picture of the curve
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", LABELLED)], ...], cli.Items(0, distinct=True)]
Spaces = Annotated[tuple[Annotated[str, cli.OneOf("alignment", SPACES)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SpaceConfig, LabelledConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "cifar100"  # whose classes are learned, choose and are tested; a name or a path
    target: cli.Place = "cifar10"  # of which a few images are labelled
    data_dir: cli.Place = ""  # where named data sets are looked for
    trunk: Images = "efficientnet_lite0"  # pixels: images as they are
    encoder: Texts = "minilm_l6"  # words: which there are in a description
    wording: Wording = "photos"  # what is said of a class: its name, in a sentence, in several
    picture_size: Annotated[int, cli.Within(8, 512)] = 96  # edge to which images are brought for the trunk, in pixels
    most_train: cli.Count = 5000  # images of each set that go through it, at most
    most_test: cli.Count = 2000
    alignments: Spaces = ()  # some of them; all when empty
    aligned: Annotated[str, cli.OneOf("alignment", SPACES)] = "classes"  # in whose space a few images are labelled
    pulls: cli.Rates = (0.03, 0.3, 3.0, 30.0)  # of that map, as a map
    methods: Methods = ()  # some of them; all when empty
    n_per_class: cli.Counts = (1, 2, 5, 10, 20)  # labelled images
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: settings are chosen by images held out
    folds: ClassVar[int] = 5  # type: ignore[misc]
    steps: cli.Steps = 200
    learning_rate: cli.Span = (0.003, 0.1)
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 2
    replicates: cli.Draws = 6

    may_change: ClassVar = (*Budget.may_change, "alignments", "methods", "n_per_class", "pulls", "aligned")
    glossary: ClassVar = {name: recipe.means for name, recipe in (SPACES | LABELLED).items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "target": "digits",
            "trunk": "pixels",
            "encoder": "words",
            "choosing_classes": 2,
            "tested_classes": 3,
            "alignments": ("classes", "mse"),
            "methods": ("probe", "zero_shot", "mean_and_text", "fresh_to_zero", "text_to_text"),
            "n_per_class": (1, 5),
            "pulls": (0.1, 10.0),
            "steps": 40,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
        }
    }


def said(config: Config, classes: Sequence[str], room: Path) -> np.ndarray:
    """[C, E] where the encoder puts the description of each class: the direction of the mean of its sentences."""
    sentences = captions(classes, config.wording)
    vectors = seen_texts(config.encoder, [one for own in sentences for one in own], room)
    means = vectors.reshape(len(classes), -1, vectors.shape[1]).mean(axis=1)
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def described(config: Config, name: str, room: Path) -> Described:
    """A set as features and descriptions."""
    task = load(name, config.data_dir or None, progress=StoppableProgress)
    keep_to_data(room, task.origin, *task.content)
    features = seen_images(config.trunk, fewer(config, task), config.picture_size, room)
    return Described(features, said(config, task.classes, room))


def spaces_of(config: Config, problem: JointSpace, result: Result) -> list[Source]:
    """The space of each replicate: trained once more on its first report draw, as it was chosen there."""
    trainer, found = Trainer(problem, SPACES), list[Source]()
    for replicate in range(config.replicates):
        runs = result.reported(config.aligned, result.shown(config.aligned))
        run = next(one for one in runs if one.replicate == replicate)
        trained = trainer.train(config.aligned, run.setting, Draw(run.seed, replicate=replicate))
        found.append(problem.as_source(trained.weights, replicate))
    return found


def pulls_section(config: Config, problem: JointSpace, result: Result, room: Path) -> tuple[report.Section, dict]:
    """How hard the map to the descriptions should be pulled towards 0."""
    trainer, store = Trainer(problem, SPACES), RunStore(room, of=identity(config, problem.title))
    runs: list[list[Any]] = [[] for _ in config.pulls]
    for chosen in result.reported(config.aligned, result.shown(config.aligned)):
        draw = Draw(chosen.seed, replicate=chosen.replicate)
        settings = [{**chosen.setting, "pull": pull} for pull in sorted(config.pulls)]

        def tested(trained: Sequence[Any], settings: Any, draw: Draw = draw) -> list[dict[str, float]]:
            return [{} if one is None else problem.test(one, draw)[0] for one in trained]

        for own, run in zip(
            runs, trainer.kept(store, config.aligned, settings, draw, stage="map", measure=tested), strict=True
        ):
            own.append(run)
    title = f"How hard a map to descriptions should be pulled towards 0: {result.title}"
    x = sorted(config.pulls)
    return along_section(
        title, "pull", "pull", x, {config.aligned: runs}, result.replicates, on="images of new classes"
    )


def curve_section(results: Sequence[Result]) -> report.Section:
    """Accuracy against the number of labels, from none on: there descriptions say what they say, others guess."""
    first, numbers = results[0], [int(result.axes["n_per_class"]) for result in results]
    assert first.truth is not None  # it is one of classes
    lines = {}
    for name in (name for name in SHOWN if name in first.methods):
        values = [value_of(units(one.reported(name, one.shown(name)), "test", one.replicates)) for one in results]
        guessed = (first.truth.chance, (first.truth.chance,) * 2)
        from_text = BASELINE in first.methods and LABELLED[name].start is not None
        runs = first.reported(BASELINE, first.shown(BASELINE)) if from_text else []
        begun = value_of(units(runs, "test", first.replicates)) if from_text else guessed
        lines[name] = [begun, *values]
    title = "From no label on: transfer against zero-shot"
    draw = functools.partial(
        along, title, "labelled images per class", [0, *numbers], lines, first.unit, on="target test images"
    )
    return report.Section(title, plots=[Plot("from_zero", title, draw)])


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    names, aligned = list(config.methods or LABELLED), list(config.alignments or SPACES)
    check_plan(config, {*names, *aligned})
    if config.aligned not in aligned:
        todo = f"name it in --config.alignments too, or choose one of {', '.join(aligned)}"
        raise InputError(f"'{config.aligned}' is not learned", where="--config.aligned", todo=todo)
    report.print_plan(console, config.replicates, len(CONTRASTS), "replicate")
    source, target = (
        described(config, name, workdir / role) for role, name in (("source", config.data), ("target", config.target))
    )
    report.print_data(console, source=source.task, target=target.task)
    for n in config.n_per_class:
        check_examples(config, target.task, n, folds=False)
    if config.data == config.target:
        told = "the space has learned from images of some of these classes: of them nothing is zero-shot"
        target = target._replace(task=target.task.told(told))
    report.print_notice(console, target.task, since=source.task)
    page, others = report.Page(console, config.preset), {target.task.name: target}
    space = JointSpace(config, source, others if config.target != config.data else {})
    planned = [pair for pair in SPACE_CONTRASTS if {*pair} <= {*aligned}]
    found = study(space, SPACES, workdir / "spaces", planned, {"of": "spaces"}, methods=aligned)
    page.add(*compared_section(found, SPACE_BASELINE if SPACE_BASELINE in aligned else aligned[0]))
    page.add(*space_section(found))
    page.add(*pulls_section(config, space, found, workdir / "pulls"))
    sources, results = spaces_of(config, space, found), list[Result]()
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    for n in config.n_per_class:
        problem = FewDescribed(config, sources, target, n)
        results.append(study(problem, LABELLED, workdir / f"n_{n}", planned, {"n_per_class": n}, methods=names))
        page.add(*compared_section(results[-1], BASELINE if BASELINE in names else names[0]))
    page.add(curve_section(results))
    data = f"{source.task.origin}; {target.task.origin}"
    header = cli.header("image_text", config, started, data=data, notice=target.task.notice)
    page.write(workdir, header, {"spaces": found.runs, **{f"n_{one.axes['n_per_class']}": one.runs for one in results}})


if __name__ == "__main__":
    cli.run(main, Config)
