"""Does a network that has read many film reviews help with a few labelled ones of another kind, and in which stages?

A bidirectional LSTM, and the mean of the words as its cheap rival, learn from labelled reviews of one kind (initial
training). What they know is copied and carried to n labelled texts a class of another kind: held at first or not
(transfer training), then trained on (fine-tuning), pulled or not. Words that only the target has get vectors of their
own. Beside them stand what needs no source model: weighted words under logistic regression, and a pretrained encoder.

    python -m experiments.text_transfer                                       # IMDB → Rotten Tomatoes, and back
    python -m experiments.text_transfer --config.replicates=5                 # and verdicts
    python -m experiments.text_transfer --config.data=texts.csv --config.back=False
    python -m experiments.text_transfer --config.preset=classic               # 2 layers of 256: written for a GPU
    python -m experiments.text_transfer --smoke                               # sentences of documentation

Both sets of reviews are fetched once where they are not at hand. Needs pip install "jaxtl[text]".
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

from jaxtl import cli, files, report
from jaxtl.data import DataSet, Vocabulary, load_texts, tokenised
from jaxtl.errors import InputError
from jaxtl.finetune import tfidf
from jaxtl.finetune.inputs import Tokens
from jaxtl.finetune.work import kept_outputs
from jaxtl.loop import StoppableProgress
from jaxtl.methods.finetuning import DEPTH, RECIPES, STAGES
from jaxtl.models.pretrained import Pretrained, load_trunk
from jaxtl.problems import (
    FewTexts,
    LabelledConfig,
    MeasureName,
    TextSourceConfig,
    check_plan,
    check_tasks,
    make_sources,
)
from jaxtl.problems.few_shot import seed_of
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Draw, Recipe, Setting, study
from jaxtl.selection import heads
from jaxtl.terminal import Terminal
from jaxtl.writers import Progress

ENCODER = "minilm_l6"
WINDOWS = 1  # of the encoder, for each text: its first 126 pieces of words
SOURCE_WORDS, NEW_WORDS = 10_000, 5_000


def by_words(problem: FewTexts, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """What weighted words of the labelled texts say of all others."""
    examples = problem.examples(draw)
    texts, labels = problem.texts.train["text"], examples.labels[examples.seen]
    vocabulary = tfidf.Vocabulary.of(list(texts[examples.seen]))
    seed, count = seed_of(problem.config, draw), len(problem.task.classes)
    head, _ = tfidf.logistic(vocabulary.vectors(texts[examples.seen]), labels, count, None, seed)
    parts = (part["text"] for part in (problem.texts.train, problem.texts.test))
    return problem.answered(weights, *(vocabulary.vectors(part) @ head["kernel"] + head["bias"] for part in parts))


def by_encoder(problem: FewTexts, weights: Weights, setting: Setting, draw: Draw) -> Weights:
    """What logistic regression on features of a pretrained encoder says."""
    examples = problem.examples(draw)
    assert problem.encoded is not None  # or it is no row
    train, test = problem.encoded
    seed, count = seed_of(problem.config, draw), len(problem.task.classes)
    head, _ = heads.logistic(train[examples.seen], examples.labels[examples.seen], count, None, seed)
    return problem.answered(weights, *(part @ head["kernel"] + head["bias"] for part in (train, test)))


ROWS = {
    **{name: RECIPES[name] for name in ("scratch", "features", "fine_tune", "l2_differential", "l2_sp")},
    **{name: DEPTH[name] for name in ("discriminative", "gradual_unfreezing")},
    **{name: STAGES[name] for name in ("three_stages", "target_first")},
    "tfidf": Recipe(
        None,
        (),
        "words and pairs of words of the labelled texts, weighted by how rare they are, under logistic regression",
        transfers=False,
        finish=by_words,
    ),
    ENCODER: Recipe(
        None,
        (),
        "logistic regression on features of the pretrained encoder MiniLM-L6, which stays as it is",
        transfers=False,
        finish=by_encoder,
    ),
}
Methods = Annotated[tuple[Annotated[str, cli.OneOf("method", ROWS)], ...], cli.Items(0, distinct=True)]
Honest = Annotated[tuple[Annotated[str, cli.OneOf("method", (*ROWS, "all"))], ...], cli.Items(0, distinct=True)]
Model = Literal["bilstm", "average"]  # a recurrent network both ways, or the mean of the words
Models = Annotated[tuple[Annotated[str, cli.OneOf("model", get_args(Model))], ...], cli.Items(1, distinct=True)]


@dataclasses.dataclass(frozen=True)
class Config(TextSourceConfig, LabelledConfig, Budget):
    preset: str = ""  # smoke, classic: fills what is not given
    source: cli.Place = "auto"  # imdb, rotten_tomatoes, a CSV, JSON lines, a folder of texts; auto: imdb if it is found
    data: cli.Place = "auto"  # the target; auto: rotten_tomatoes if it is found, else sentences of documentation
    data_dir: cli.Place = ""  # where named sets are looked for
    back: bool = True  # also from the target to the source
    models: Models = ("bilstm", "average")  # each with source models of its own
    n_per_class: cli.Counts = (20, 100)  # labelled target texts
    length: Annotated[int, cli.Within(1, 2000)] = 256  # words that are kept of a text
    methods: Methods = ()  # some of the rows; all when empty
    honest: Honest = ()  # methods that also choose from their n labelled examples alone; or all
    measure: MeasureName = "accuracy"  # what methods are chosen by and compared by
    head: Literal["fresh", "shared"] = "fresh"  # shared: copy the head's columns of classes both sets name
    steps: cli.Steps = 60
    trials: cli.Trials = 4
    tuning_draws: cli.Draws = 1
    report_draws: cli.Draws = 2
    learning_rate: cli.Span = (0.01, 3.0)

    may_change: ClassVar = (*Budget.may_change, "models", "n_per_class", "methods", "honest")
    glossary: ClassVar = {name: recipe.means for name, recipe in ROWS.items()}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "source": "numpy_docs",
            "data": "scipy_docs",
            "back": False,
            "models": ("bilstm",),
            "methods": ("scratch", "features", "fine_tune", "l2_sp", "three_stages", "target_first", "tfidf"),
            "hidden": 16,
            "embedding": 16,
            "length": 24,
            "source_steps": 60,
            "steps": 20,
            "trials": 2,
            "report_draws": 2,
            "validation": 50,
            "n_per_class": (5,),
        },
        "classic": {"models": ("bilstm",), "layers": 2, "embedding": 100, "hidden": 256, "source_steps": 2000},
    }


@dataclasses.dataclass(frozen=True)
class OfModel(Config):
    model: Model = "bilstm"  # the one of `models` that is looked at


BASELINE = "fine_tune"
CONTRASTS = (
    ("l2_sp", "fine_tune"),
    ("three_stages", "fine_tune"),
    ("target_first", "three_stages"),
    ("gradual_unfreezing", "fine_tune"),
    ("fine_tune", "tfidf"),
)


def reviews(config: Config) -> tuple[DataSet, DataSet]:
    """The two sets of texts."""

    def read(name: str) -> DataSet:
        return load_texts(name, config.data_dir or None, progress=StoppableProgress)

    source = read(config.source)
    if config.data != "auto":
        return source, read(config.data)
    try:
        return source, read("rotten_tomatoes")
    except InputError as error:
        if config.source != "auto":
            raise
        told = f"Rotten Tomatoes was {error.what}: so this is documentation, and no review"
        return read("numpy_docs"), read("scipy_docs").told(told)


def encoder() -> tuple[Pretrained | None, str]:
    """The pretrained encoder if it can be had, else why not."""
    try:
        return load_trunk(ENCODER, progress=StoppableProgress), ""
    except InputError as error:
        return None, f"'{ENCODER}' is left out: {error.what}"


def encoded(trunk: Pretrained, texts: DataSet, room: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the frozen encoder makes of both parts; kept below a directory."""
    parts = [list(part["text"]) for part in (texts.train, texts.test)]
    assert trunk.tokenizer is not None  # it is one of texts
    how = Tokens(trunk.tokenizer, trunk.size, trunk.size)
    every = how.tokenizer.rows([text for part in parts for text in part]).tokens[:, : trunk.size * WINDOWS]
    features, _ = kept_outputs(room, trunk, every, None, dataclasses.replace(how, length=every.shape[1]), Progress)
    return features[: len(parts[0])], features[len(parts[0]) :]


class Way(NamedTuple):
    """From one set of texts to another."""

    title: str
    room: str  # below the run's directory
    texts: DataSet  # of the target
    source_task: DataSet
    task: DataSet
    words: Vocabulary  # of both; the source's come first


def way_of(config: Config, theirs: DataSet, ours: DataSet) -> Way:
    """Words of training texts alone are known; those of the source have the same numbers for the target."""
    known = Vocabulary.of(theirs.train["text"], SOURCE_WORDS)
    words = known.extended(ours.train["text"], NEW_WORDS)
    source_task, task = tokenised(theirs, known, config.length), tokenised(ours, words, config.length)
    room = f"{cli.directory_of(theirs.name)}-{cli.directory_of(ours.name)}"
    return Way(f"{theirs.name} → {ours.name}", room, ours, source_task, task, words)


def main(config: Config, workdir: Path) -> None:
    started, console = time.perf_counter(), Terminal()
    cli.check(config)
    check_plan(config, ROWS)
    every = [OfModel(**{**vars(config), "model": model}) for model in config.models]
    pair = reviews(config)
    report.print_data(console, source=pair[0], target=pair[1])
    ways = [way_of(config, *texts) for texts in (pair, pair[::-1])[: 1 + config.back]]
    folds = bool({"all", *(config.methods or ROWS)} & {*config.honest})
    for way, its in itertools.product(ways, every):
        check_tasks(its, way.source_task, way.task, config.n_per_class, folds=folds, models=config.trials)
    trunk, missing = encoder() if ENCODER in (config.methods or ROWS) else (None, "")
    names = [name for name in config.methods or ROWS if trunk is not None or name != ENCODER]
    planned = [both for both in CONTRASTS if {*both} <= {*names}]
    report.print_plan(console, config.replicates, len(planned), "replicate")
    results: list[report.Result] = []
    for way in ways:
        report.print_notice(console, way.task, since=way.texts)
        files.write(workdir / way.room / "vocabulary.json", way.words.to_bytes())
        features = None if trunk is None else encoded(trunk, way.texts, workdir / way.room)
        for its in every:
            results += carried(its, way, features, names, planned, workdir / way.room / its.model, console)
    notice = report.together(*(data.notice for data in pair), missing)
    header = cli.header("text_transfer", config, started, data=" → ".join(data.origin for data in pair), notice=notice)
    report.print_written(console, report.write_files(workdir, header, results, baseline=baseline_of(names)))


def baseline_of(names: Sequence[str]) -> str:
    """What the others are compared with."""
    return BASELINE if BASELINE in names else names[0]


def carried(
    config: OfModel,
    way: Way,
    features: tuple[np.ndarray, np.ndarray] | None,
    names: Sequence[str],
    planned: Sequence[tuple[str, str]],
    room: Path,
    console: Terminal,
) -> list[report.Result]:
    """One model, with every number of labelled texts."""
    sources, results = make_sources(config, way.source_task, room / "source"), list[report.Result]()
    report.print_source(console, *sources)
    for n in config.n_per_class:
        problem = FewTexts(config, sources, way.task, n, way.texts, features)
        report.print_target(console, problem)
        report.print_transfer(console, problem.moved)
        axes: dict[str, Any] = {"split": way.title, "model": config.model, "n_per_class": n}
        results.append(study(problem, ROWS, room / f"n_{n}", planned, axes, methods=names))
        report.print_result(results[-1], console, baseline=baseline_of(names), preset=config.preset)
    return results


if __name__ == "__main__":
    cli.run(main, Config)
