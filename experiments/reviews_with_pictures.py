"""Reviews with pictures that have nothing but a class in common: is the product of what both say the best there is?

A widely copied example pairs film reviews with photographs: a good one with this kind, a bad one with that. Given the
class, text and picture are independent then, and of true posteriors the best answer follows by Bayes' rule: their
product over the prior, which each of them has counted in. One class is more frequent here, so that it shows. Reviews
and photographs that are tested belong to nobody who is learned from. Does it hold for what networks say, and does
anything that is trained jointly do better, where there is nothing more to be found?

Then two modalities that are made up, with as much in common as is said: how strong should an alignment be?

    python -m experiments.reviews_with_pictures --config.data=cifar10                # reviews are fetched once
    python -m experiments.reviews_with_pictures --smoke                              # documentation, and digits

The figures are on the page `reviews_with_pictures.md`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from jaxtl import cli, report
from jaxtl.data import DataSet, by_class, keep_to_data, load, load_texts
from jaxtl.data.factors import factors
from jaxtl.data.modalities import Modalities, of_two_sets
from jaxtl.finetune.seen import Images, Texts, seen_images, seen_texts
from jaxtl.loop import StoppableProgress
from jaxtl.methods.multimodal.independent_recipes import INDEPENDENT
from jaxtl.methods.multimodal.recipes import FUSIONS, recipes
from jaxtl.methods.multimodal.rules import fuse
from jaxtl.problems import Pairs, PairsConfig, check_pairs, check_plan
from jaxtl.problems.pretrained import fewer
from jaxtl.protocol import Budget, Draw, Run, RunStore, Trainer, identity, study
from jaxtl.protocol.results import Result
from jaxtl.report.pairs import along_section, compared_section, modalities_section, print_pairs
from jaxtl.report.plots.comparison import plots_across
from jaxtl.terminal import Terminal

BASELINE, MAPPED = "bayes", "clip"
TEXT, IMAGE = "text", "image"
COMMON = (0.0, 0.5, 1.0)  # of what a made-up class is, in both modalities
CONTRASTS = (
    ("bayes", "product"),
    ("bayes_tempered", "bayes"),
    ("average", "bayes_tempered"),
    ("end_to_end", "bayes"),
    ("concat", "bayes"),
    ("clip", "bayes"),
)
ROWS = {**FUSIONS, **INDEPENDENT}
USUAL = ("average", "weighted", "product", *INDEPENDENT, "trained", "end_to_end", "concat", "clip")
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(0, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(PairsConfig, Budget):
    preset: str = ""  # smoke: fills what is not given
    data: cli.Place = "cifar10"  # images, a name or a path
    reviews: cli.Place = "imdb"  # texts, a name or a path
    data_dir: cli.Place = ""  # where named data sets are looked for
    pictures: Annotated[cli.Words, cli.Items(2, distinct=True)] = ("cat", "dog")  # classes beside those of the reviews
    trunk: Images = "efficientnet_lite0"  # pixels: images as they are
    encoder: Texts = "words"  # minilm_l6: a pretrained encoder, of the first 128 pieces of words
    picture_size: Annotated[int, cli.Within(8, 512)] = 64  # edge to which images are brought for the trunk, in pixels
    most_train: cli.Count = 4000  # images, at most
    most_test: cli.Count = 2000
    imbalance: Annotated[float, cli.Within(1, 100)] = 5.0  # so many times more of the first class than of the last
    n_per_class: cli.Counts = (20, 200)  # labelled examples of the first class in each modality
    methods: Methods = USUAL
    widths: cli.Widths = (32,)
    strengths: cli.Rates = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the alignment of what is made up
    made_up: cli.Count = 5  # labelled examples of each of its 16 classes
    honest: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]  # no fields here: settings are chosen by pairs held out
    folds: ClassVar[int] = 5  # type: ignore[misc]
    steps: cli.Steps = 200
    learning_rate: cli.Span = (0.003, 0.1)
    pull: cli.Span = (0.03, 3.0)
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 2
    replicates: cli.Draws = 6

    may_change: ClassVar = (*Budget.may_change, "methods", "n_per_class", "strengths")
    glossary: ClassVar = {name: recipe.means for name, recipe in ROWS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "data": "digits",
            "reviews": "numpy_docs",
            "pictures": ("3", "8"),
            "trunk": "pixels",
            "methods": ("average", "product", "bayes", "bayes_tempered", "concat"),
            "imbalance": 3.0,
            "n_per_class": (12,),
            "widths": (16,),
            "steps": 40,
            "trials": 2,
            "replicates": 2,
            "validation": 30,
            "fitting": 30,
            "strengths": (0.0, 1.0),
        }
    }


def two_sets(config: Config, room: Path) -> Modalities:
    """Reviews and photographs as features, the first of two classes with the first, the second with the second."""
    texts = load_texts(config.reviews, config.data_dir or None, progress=StoppableProgress)
    texts = by_class(texts, texts.classes[:2])
    images = by_class(load(config.data, config.data_dir or None, progress=StoppableProgress), config.pictures)
    keep_to_data(room, f"{texts.origin}; {images.origin}", texts.train.labels, *images.content)
    every = [str(text) for part in (texts.train, texts.test) for text in part["text"]]
    vectors = np.split(seen_texts(config.encoder, every, room / TEXT), [len(texts.train)])
    read = DataSet(
        texts.name,
        texts.train.without("text").having(image=vectors[0]),
        texts.test.without("text").having(image=vectors[1]),
        texts.classes,
        texts.origin,
        texts.notice,
    )
    seen = seen_images(config.trunk, fewer(config, images), config.picture_size, room / IMAGE)
    return of_two_sets({IMAGE: seen, TEXT: read}, config.imbalance)


def made_up_section(config: Config, room: Path) -> tuple[report.Section, dict[str, Any]]:
    """Accuracy against the strength of an alignment, a line for how much two modalities have in common."""
    its = dataclasses.replace(config, imbalance=1.0, paired=1.0, validation=160, fitting=16)
    strengths, lines = sorted(config.strengths), dict[str, list[list[Run]]]()
    setting = {"learning_rate": max(config.learning_rate), "pull": min(config.pull)}
    for common in COMMON:
        problem = Pairs(its, [factors(common, seed=k) for k in range(config.replicates)], config.made_up, fuse)
        trainer, runs = Trainer(problem, recipes(problem.names)), [list[Run]() for _ in strengths]
        store = RunStore(room / f"common_{common:g}", of=identity(its, problem.title))
        settings = [{**setting, "align_weight": strength} for strength in strengths]
        for replicate in range(config.replicates):
            draw = Draw(config.report_seeds[0], replicate=replicate)

            def tested(trained: Sequence[Any], settings: Any, draw: Draw = draw, problem: Pairs = problem) -> list:
                return [{} if one is None else problem.test(one, draw)[0] for one in trained]

            found = trainer.kept(store, MAPPED, settings, draw, stage="map", measure=tested)
            for own, run in zip(runs, found, strict=True):
                own.append(run)
        lines[f"{common:g} in common"] = runs
    title = f"How strong an alignment should be, by what modalities have in common; {config.made_up} pairs per class"
    rest = f"learning rate {setting['learning_rate']:g} and pull {setting['pull']:g} for all"
    return along_section(title, "λ of the alignment", "common", strengths, lines, config.replicates, rest=rest)


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    names = list(config.methods or ROWS)
    check_plan(config, names)
    planned = [pair for pair in CONTRASTS if {*pair} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    pairs = two_sets(config, workdir / "features")
    check_pairs(config, [pairs], config.n_per_class, config.trials)
    print_pairs(console, Pairs(config, pairs, config.n_per_class[0], fuse))
    page, results = report.Page(console, config.preset), list[Result]()
    for n in config.n_per_class:
        problem = Pairs(config, pairs, n, fuse)
        rows, methods = {**recipes(problem.names), **INDEPENDENT}, [*problem.names, *names]
        result = study(problem, rows, workdir / f"n_{n}", planned, {"n_per_class": n}, methods=methods)
        page.add(*compared_section(result, BASELINE if BASELINE in names else names[0]))
        page.add(*modalities_section(result, problem.names))
        results.append(result)
    if across := plots_across(results, BASELINE):
        page.add(report.Section("By the number of labelled examples", plots=across))
    page.add(*made_up_section(config, workdir / "made_up"))
    header = cli.header("reviews_with_pictures", config, started, data=pairs.origin, notice=pairs.notice)
    page.write(workdir, header, {f"n_{one.axes['n_per_class']}": one.runs for one in results})


if __name__ == "__main__":
    cli.run(main, Config)
