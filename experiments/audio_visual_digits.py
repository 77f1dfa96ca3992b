"""Digits that are written and spoken: how do two modalities become one answer, and what does pairing buy?

With n labelled images and recordings of each digit, a network for each: rules on what they say (average, weights, vote,
product, stacking), features as one (side by side, gates, low rank), alignment in one space (CLIP, SigLIP, cosine, CCA,
squared distance), all with equal budgets. Tested on takes of speakers that were heard, and on speakers that were not, a
pair of them in turn for every replicate. What is left where one is absent, late or noisy; how strong an alignment
should be; and what it costs that only a part of the examples is in pairs.

    python -m experiments.audio_visual_digits --config.data=digits.npz#mnist,spoken_digits.npz
    python -m experiments.audio_visual_digits                     # halves of scikit-learn's digits: two views, no sound
    python -m experiments.audio_visual_digits --config.n_per_class=20 --config.data=…    # one number of labels alone
    python -m experiments.audio_visual_digits --smoke             # a few methods and steps

A recording is scaled by its peak and seen as a log-mel picture. The figures are on the page `audio_visual_digits.md`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from jaxtl import cli, report
from jaxtl.data import Modalities, load, load_recordings
from jaxtl.data.modalities import halves, image_and_audio
from jaxtl.errors import InputError
from jaxtl.loop import StoppableProgress
from jaxtl.methods.multimodal.recipes import ALIGNED, FUSIONS, recipes
from jaxtl.methods.multimodal.rules import fuse
from jaxtl.problems import Pairs, PairsConfig, averaged_down, check_pairs, check_plan
from jaxtl.protocol import Budget, Draw, Run, RunStore, Trained, Trainer, identity, study
from jaxtl.protocol.results import Axes, Result, slug
from jaxtl.report.pairs import along_section, compared_section, modalities_section, print_pairs, worse_section
from jaxtl.report.plots.comparison import plots_across
from jaxtl.terminal import Terminal

BASELINE = "product"
EDGE = 14  # pixels: images are averaged down to it
PAIRED = "paired"
TAKES, SPEAKERS, VIEWS = "takes", "speakers", "views"  # what is tested on
SHARED_NETWORKS = "Rules on answers share networks that are trained apart: the row that comes first has their seconds."
SHOWN = ("audio", "image", BASELINE, "trained", "concat", "concat_dropout")  # where audio is late
CONTRASTS = (
    ("average", BASELINE),
    ("weighted", BASELINE),
    ("trained", BASELINE),
    ("end_to_end", BASELINE),
    ("concat", BASELINE),
    ("clip", BASELINE),
    ("concat_own", "concat"),
    ("concat_dropout", "concat"),
    ("concat_differential", "concat"),
)
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", FUSIONS)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(PairsConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Names = ("digits",)  # images, a name or a path, and a path of recordings; without these halves of images
    data_dir: cli.Place = ""  # where named data sets are looked for
    n_per_class: cli.Counts = (5, 20)  # labelled examples in each modality
    methods: Methods = ()  # beside each modality alone; all when empty
    widths: cli.Widths = (128,)
    strengths: cli.Rates = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the alignment, as a map at the largest n
    aligned: Annotated[str, cli.OneOf("alignment", ALIGNED)] = "clip"  # whose strengths
    shares: Annotated[tuple[Annotated[float, cli.Within(0, 1, "low")], ...], cli.Items(1, distinct=True)] = (
        0.1,
        0.3,
        1.0,
    )
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: settings are chosen by pairs held out
    folds: ClassVar[int] = 5  # type: ignore[misc]
    steps: cli.Steps = 300
    batch_size: cli.Count = 64
    learning_rate: cli.Span = (0.003, 0.1)
    pull: cli.Span = (0.03, 3.0)
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 2
    replicates: cli.Draws = 6

    may_change: ClassVar = (*Budget.may_change, "methods", "n_per_class", "strengths", "aligned", "shares")
    glossary: ClassVar = {name: recipe.means for name, recipe in FUSIONS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": ("digits",),
            "methods": ("average", "weighted", "trained", "product", "concat", "clip"),
            "n_per_class": (20,),
            "widths": (32,),
            "steps": 40,
            "trials": 2,
            "replicates": 2,
            "validation": 100,
            "strengths": (0.0, 1.0),
            "shares": (0.5, 1.0),
        }
    }


def sets(config: Config) -> dict[str, list[Modalities]]:
    """What is tested on -> the set, or those that replicates take in turn.

    Raises:
        InputError: more than two sets, or what the readers refuse.
    """
    if len(config.data) > 2:
        raise InputError(f"{len(config.data)} sets", where="--config.data", todo="name images, and recordings")
    images = load(config.data[0], config.data_dir or None, progress=StoppableProgress)
    if len(config.data) == 1:
        return {VIEWS: [halves(images)]}
    small, spoken = averaged_down(images, EDGE), load_recordings(config.data[1])
    held = [(k, k + 1) for k in range(0, len(spoken.speakers) - 1, 2)]
    found = {TAKES: [image_and_audio(small, spoken)]}
    return found | ({SPEAKERS: [image_and_audio(small, spoken, pair) for pair in held]} if len(held) > 1 else {})


def mapped(
    problem: Pairs, result: Result, method: str, store: RunStore, changes: Sequence[dict[str, float]]
) -> list[list[Run]]:
    """Report draws once more, a few of the settings that were chosen being changed: for each change its runs."""
    trainer, found = Trainer(problem, recipes(problem.names)), [list[Run]() for _ in changes]
    for chosen in result.reported(method, result.shown(method)):
        draw = Draw(chosen.seed, replicate=chosen.replicate)

        def tested(trained: Sequence[Trained | None], settings: Any, draw: Draw = draw) -> list[dict[str, float]]:
            return [{} if one is None else problem.test(one, draw)[0] for one in trained]

        settings = [{**chosen.setting, **change} for change in changes]
        for runs, run in zip(
            found, trainer.kept(store, method, settings, draw, stage="map", measure=tested), strict=True
        ):
            runs.append(run)
    return found


def maps(config: Config, problem: Pairs, result: Result, room: Path) -> Iterator[tuple[report.Section, dict[str, Any]]]:
    """How strong an alignment should be, and what it costs that not all examples are in pairs."""
    if config.aligned in result.methods:
        store = RunStore(room / f"strengths_{config.aligned}", of=identity(config, problem.title))
        changes = [{"align_weight": strength} for strength in sorted(config.strengths)]
        runs = {config.aligned: mapped(problem, result, config.aligned, store, changes)}
        title = f"How strong an alignment should be: {result.title}"
        yield along_section(
            title, "λ", f"strength{slug(result.axes)}", sorted(config.strengths), runs, result.replicates
        )
    names = [
        name for name in (BASELINE, "end_to_end", "concat", "concat_own", config.aligned) if name in result.methods
    ]
    by_share: dict[str, list[list[Run]]] = {name: [] for name in names}
    for share in sorted(config.shares):
        its = dataclasses.replace(config, paired=share)
        other = Pairs(its, problem.sets, problem.n, fuse)
        store = RunStore(room / f"{PAIRED}_{share:g}", of=identity(its, problem.title))
        for name in names:
            as_it_was = [result.reported(name, result.shown(name))]
            by_share[name] += as_it_was if share == config.paired else mapped(other, result, name, store, [{}])
    title = f"What it costs that not all examples are in pairs: {result.title}"
    if names:
        yield along_section(
            title, "share in pairs", f"{PAIRED}{slug(result.axes)}", sorted(config.shares), by_share, result.replicates
        )


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    names = list(config.methods or FUSIONS)
    check_plan(config, names)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    page, results, found = report.Page(console, config.preset), list[Result](), sets(config)
    for kind, tested in found.items():
        check_pairs(config, tested, config.n_per_class, config.trials)
        print_pairs(console, Pairs(config, tested, config.n_per_class[0], fuse))
        for n in config.n_per_class:
            problem = Pairs(config, tested, n, fuse)
            room = workdir / kind / f"n_{n}"
            rows, methods = recipes(problem.names), [*problem.names, *names]
            axes: Axes = {"tested_on": kind, "n_per_class": n}
            result = study(problem, rows, room / "study", planned, axes, methods=methods)
            baseline = BASELINE if BASELINE in names else names[0]
            page.add(*compared_section(result, baseline, SHARED_NETWORKS))
            page.add(*modalities_section(result, problem.names))
            page.add(*worse_section(result, SHOWN))
            results.append(result)
            mapped_too = kind != SPEAKERS and n == max(config.n_per_class)
            for section, figures in maps(config, problem, result, room) if mapped_too else ():
                page.add(section, figures)
    across = plots_across(results, BASELINE)
    if across:
        page.add(report.Section("By the number of labelled examples", plots=across))
    first = next(iter(found.values()))[0]
    header = cli.header("audio_visual_digits", config, started, data=first.origin, notice=first.notice)
    page.write(workdir, header, {f"{one.axes['tested_on']}_{one.axes['n_per_class']}": one.runs for one in results})


if __name__ == "__main__":
    cli.run(main, Config)
