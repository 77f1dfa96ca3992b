"""Does what a trunk has learned of one modality help in another, and is it what the labels taught it?

A trunk that classifies images is moved to spectrograms of spoken words, one that classifies spectrograms to images, and
the one of images to clips of digits that move: which digit is it, and which way does it move? A clip's frames go
through the trunk one by one, and then into their mean, or into an LSTM that sees their order. With a few labelled
examples each way stands against training from scratch, and against a source model of the same images, trained as long
on wrong labels.

    python -m experiments.cross_modal --config.data=digits.npz#mnist,spoken_digits.npz
    python -m experiments.cross_modal                     # images and clips of scikit-learn's digits, no sound
    python -m experiments.cross_modal --config.sides=image_to_spectrogram --config.n_per_class=5 --config.data=…
    python -m experiments.cross_modal --smoke             # a few methods and steps

Both modalities are in units of their own deviation. Tests are on other images, and on takes that were not heard; no
image serves the source model and a target.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet, load, load_recordings
from jaxtl.data.modalities import spectrograms
from jaxtl.data.moving_images import MOTIONS, motions, moving
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import RECIPES, Stage, from_others, staged
from jaxtl.problems import (
    FewShot,
    LabelledConfig,
    Source,
    SourceConfig,
    averaged_down,
    check_plan,
    check_tasks,
    make_sources,
)
from jaxtl.problems.images import in_own_units
from jaxtl.problems.many_sources import two_halves, wrongly_labelled
from jaxtl.protocol import Budget, Recipe, study
from jaxtl.report.modalities import looks_section, sources_section
from jaxtl.report.pairs import compared_section
from jaxtl.terminal import Terminal

IMAGE, SPECTROGRAM = "image", "spectrogram"
EDGES = {IMAGE: 10, SPECTROGRAM: 25}  # pixels: pictures are averaged down to them
SHOWN = 6  # examples of a kind in the picture
LOOKS = "What is seen: images, spectrograms with time downwards, and an image that moves four ways"


class Side(NamedTuple):
    """From a source of one modality to a target of another."""

    source: str
    target: str
    methods: tuple[str, ...] = ()  # all when empty


SIDES = {
    "image_to_spectrogram": Side(IMAGE, SPECTROGRAM),
    "spectrogram_to_image": Side(SPECTROGRAM, IMAGE),
    "image_to_video_digit": Side(IMAGE, "digit"),
    "image_to_video_motion": Side(IMAGE, "motion"),
    "image_to_video_unordered": Side(IMAGE, "motion, unordered", ("scratch", "l2")),  # a check: at most half are right
}
OWN = {
    "scratch": RECIPES["scratch"],
    "features": staged(
        Stage("head", {"new": 1.0}, pulls={"new": "zero"}),
        means="what is new is trained, pulled towards 0, on the trunk of the source model, which stays as it is",
    ),
    **{name: RECIPES[name] for name in ("l2", "l2_differential", "l2_sp")},
    "fresh_features": staged(
        Stage("head", {"new": 1.0}, pulls={"new": "zero"}),
        means="features, on a trunk that was not trained",
        fresh=True,
    ),
}
FROM_WRONG = ("features", "l2", "l2_sp")
MEANS = {name: recipe.means for name, recipe in OWN.items()}
MEANS |= {f"wrong_{name}": f"{name}, from a source model that was trained on wrong labels" for name in FROM_WRONG}
BASELINE = "scratch"
CONTRASTS = (
    ("l2", "scratch"),
    ("l2", "wrong_l2"),
    ("wrong_l2", "scratch"),
    ("features", "wrong_features"),
    ("l2_differential", "l2"),
    ("l2_sp", "l2_differential"),
)
Sides = Annotated[tuple[Annotated[str, cli.OneOf("side", SIDES)], ...], cli.Items(0, distinct=True)]
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", MEANS)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(SourceConfig, LabelledConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Names = ("digits",)  # images, a name or a path, and a path of recordings, without which none are heard
    data_dir: cli.Place = ""  # where named data sets are looked for
    sides: Sides = ()  # some of them; all that the data have when empty
    methods: Methods = ()  # some of them; all when empty
    n_per_class: cli.Count = 10  # labelled target examples
    moved: cli.Count = 1500  # images that clips are made of, to learn from; a quarter as many to test
    frames: Annotated[int, cli.Within(2, 1000)] = 5  # of a clip
    edge: Annotated[int, cli.Within(2, 1000)] = 14  # of a frame, in pixels
    hidden: Annotated[int, cli.Within(1, 4096)] = 32  # size of the state of the LSTM over frames
    widths: cli.Widths = (8, 16, 32)
    model: ClassVar[str] = "cnn"  # type: ignore[misc]  # no fields here: its maps are what an LSTM sees
    source_checkpoint: ClassVar[str] = ""  # type: ignore[misc]  # every source is trained, on right and wrong labels
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # settings are chosen by examples held out
    folds: ClassVar[int] = 5  # type: ignore[misc]
    source_steps: cli.Steps = 500
    steps: cli.Steps = 200
    batch_size: cli.Count = 32
    validation: cli.Count = 300
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 2
    replicates: cli.Draws = 5

    may_change: ClassVar = (*Budget.may_change, "sides", "methods")
    glossary: ClassVar = MEANS
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": ("digits",),
            "sides": ("image_to_video_motion",),
            "methods": ("scratch", "features", "l2", "wrong_l2"),
            "moved": 160,
            "frames": 4,
            "edge": 12,
            "hidden": 8,
            "widths": (4, 8),
            "source_steps": 60,
            "steps": 20,
            "trials": 2,
            "replicates": 2,
            "report_draws": 1,
            "validation": 80,
        }
    }


def loaded(config: Config) -> tuple[dict[str, DataSet], dict[str, DataSet]]:
    """(what source models are trained on, by modality; what targets draw from, by their names in `SIDES`).

    Raises:
        InputError: more than two sets, or one that cannot be moved within so large a frame.
    """
    if len(config.data) > 2:
        raise InputError(f"{len(config.data)} sets", where="--config.data", todo="name images, and recordings")
    images = load(config.data[0], config.data_dir or None, progress=StoppableProgress)
    images = in_own_units(averaged_down(images, EDGES[IMAGE], "--config.data"))
    theirs, ours = two_halves(images, np.random.default_rng(config.seed))
    few = dataclasses.replace(
        ours, train=ours.train.take(slice(config.moved)), test=ours.test.take(slice(max(1, config.moved // 4)))
    )
    clips = moving(few, config.frames, config.edge, config.seed)
    sources, targets = {IMAGE: theirs}, {IMAGE: ours, "digit": clips}
    targets |= {"motion": motions(clips, ordered=True), "motion, unordered": motions(clips, ordered=False)}
    if len(config.data) == 2:
        heard = spectrograms(load_recordings(config.data[1]))
        sources[SPECTROGRAM] = targets[SPECTROGRAM] = in_own_units(averaged_down(heard, EDGES[SPECTROGRAM]))
    return sources, targets


def sides_of(config: Config, sources: Mapping[str, DataSet]) -> dict[str, Side]:
    """Those that are asked for, or all that the data have."""
    found = {name: side for name, side in SIDES.items() if not config.sides or name in config.sides}
    mute = [name for name, side in found.items() if SPECTROGRAM in side and SPECTROGRAM not in sources]
    if config.sides and mute:
        raise InputError(f"no recordings for {mute[0]}", where="--config.data", todo="name images, and recordings")
    return {name: side for name, side in found.items() if name not in mute}


def rows(wrong: Sequence[Source]) -> dict[str, Recipe]:
    """The methods, and some of them from the source models of wrong labels."""
    return OWN | {f"wrong_{name}": from_others(OWN[name], wrong, MEANS[f"wrong_{name}"]) for name in FROM_WRONG}


def looks(targets: Mapping[str, DataSet]) -> dict[str, np.ndarray]:
    """A few examples of every modality, and a clip for each motion."""
    seen = {f"{name}s": np.asarray(targets[name].train.images[:SHOWN]) for name in EDGES if name in targets}
    return seen | {f"moves {motion}": targets["digit"].train["frames"][k] for k, motion in enumerate(MOTIONS)}


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, MEANS)
    names = config.methods or tuple(MEANS)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    given, targets = loaded(config)
    sides = sides_of(config, given)
    given = {name: data for name, data in given.items() if name in {side.source for side in sides.values()}}
    asked = {f"target {side.target}": targets[side.target] for side in sides.values()}
    report.print_data(console, **{f"source {name}": data for name, data in given.items()}, **asked)
    for side in sides.values():
        task = targets[side.target]
        check_tasks(config, given[side.source], task, [config.n_per_class], folds=False, models=config.trials)
    sources = dict[str, dict[str, list[Source]]]()
    for name, data in given.items():
        labelled = {"right": data, "wrong": wrongly_labelled(data, np.random.default_rng(config.seed))}
        sources[name] = {kind: make_sources(config, of, workdir / name / kind) for kind, of in labelled.items()}
    page, runs = report.Page(console, config.preset), dict[str, Any]()
    page.add(looks_section(LOOKS, looks(targets)))
    page.add(*sources_section(config, sources))
    for word, side in sides.items():
        kinds, task = sources[side.source], targets[side.target]
        problem = FewShot(config, kinds["right"], task, config.n_per_class)
        problem.title = f"{side.source} → {side.target}; {config.n_per_class} labelled examples per class"
        report.print_transfer(console, problem.moved)
        methods = [name for name in names if name in (side.methods or names)] or [BASELINE]
        result = study(problem, rows(kinds["wrong"]), workdir / word, planned, {"side": word}, methods=methods)
        page.add(*compared_section(result, BASELINE if BASELINE in methods else methods[0]))
        runs[word] = result.runs
    every = dict.fromkeys(data.origin for data in (*given.values(), *asked.values()))
    origin = "; ".join(one for one in every if not any(other.startswith(f"{one},") for other in every))  # once
    notice = report.together(*(data.notice for data in given.values()))
    page.write(workdir, cli.header("cross_modal", config, started, data=origin, notice=notice), runs)


if __name__ == "__main__":
    cli.run(main, Config)
