"""A pretrained encoder or weighted words for few labelled texts, and does `jaxtl finetune` choose well between them?

    python -m experiments.benchmarks.texts --config.data=reviews.npz

Film reviews: single sentences (rt) and whole reviews (imdb). In every draw n of the texts are labelled, and all others
judge: logistic regression on MiniLM-L6 with all windows of a text, or with the first of windows of up to 256 alone; on
weighted words (tfidf); and what the labels alone choose among ridge and logistic on all windows and tfidf, by 5 folds.
Nothing is fine-tuned here. Draws overlap, so their intervals are rather too narrow.

The file has NAME_utf8 (uint8, all texts one after another), NAME_offsets (one more than texts) and NAME_labels.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console

from experiments.benchmarks.results import Findings, Once, keep
from jaxtl import cli
from jaxtl.errors import InputError
from jaxtl.finetune.choosing import Bench
from jaxtl.finetune.inputs import Tokens
from jaxtl.finetune.kinds import KINDS
from jaxtl.finetune.trunks import passed
from jaxtl.loop import raise_if_stopped
from jaxtl.models.pretrained import load_trunk
from jaxtl.problems.folder import Examples, Parts
from jaxtl.protocol import ACCURACY, Draw
from jaxtl.protocol.results import interval_of_mean
from jaxtl.report import Section, Table
from jaxtl.writers import Progress

SETS = {"rt": "rt_train", "imdb": "imdb_train"}
CUT = 256  # tokens of a window, where the first alone is looked at
ROWS = ("minilm", "minilm, first window", "tfidf", "chosen")
CHOICE = ("ridge", "logistic", "tfidf")


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = ""  # smoke: for a look at the tables
    data: cli.Place = ""  # the file
    texts: cli.Count = 400  # of each set, drawn once
    labelled: cli.Counts = (20, 100)  # of them, in a draw
    draws: cli.Trials = 5
    trunk: cli.Place = "minilm_l6"
    seed: cli.Seed = 0

    presets: ClassVar[dict[str, dict[str, Any]]] = {"smoke": {"texts": 60, "labelled": (20,), "draws": 2}}


def measure(config: Config, console: Console, once: Once) -> Findings:
    """Encode, draw, judge; what was done of a set is not done again."""
    found: dict[str, list[float]] = {}
    for name, key in SETS.items():
        found |= once(name, partial(_measured, config, name, key))
        raise_if_stopped(f"after {name}")
    numbers = {f"texts/{key}/accuracy": float(np.mean(values)) for key, values in found.items()}
    return Findings([_section(found, config)], numbers, {"texts": found})


def _measured(config: Config, name: str, key: str) -> dict[str, list[float]]:
    texts, labels = read(config, key)
    trunk, found = load_trunk(config.trunk, progress=Progress), dict[str, list[float]]()
    bench = {way: _bench(trunk, texts, labels, way) for way in ("windows", "first")}
    for n in config.labelled:
        values = [_draw(bench, n, config.seed + k) for k in range(config.draws)]
        found |= {f"{name}/{n}/{row}": [value[row] for value in values] for row in ROWS}
    return found


def read(config: Config, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(texts, labels) of a set.

    Raises:
        InputError: no such file, or another.
    """
    try:
        with np.load(config.data, allow_pickle=False) as file:
            content, ends, labels = file[f"{key}_utf8"].tobytes(), file[f"{key}_offsets"], file[f"{key}_labels"]
    except (OSError, ValueError, KeyError):
        todo = "give an .npz with the keys that --help tells"
        raise InputError("holds no reviews", where=f"--config.data={config.data}", todo=todo) from None
    chosen = np.random.default_rng(config.seed).permutation(len(labels))[: config.texts]
    texts = np.array([content[ends[k] : ends[k + 1]].decode() for k in chosen], object)
    return texts, labels[chosen].astype(np.int32)


def _bench(trunk: Any, texts: np.ndarray, labels: np.ndarray, way: str) -> Bench:
    """All texts with their features, from which draws take some."""
    window = trunk.size if way == "windows" else CUT
    trunk = trunk._replace(model=trunk.model.clone(window=window))
    how = Tokens(trunk.tokenizer, window, 1)
    tokens = how.prepared(list(texts))
    tokens = tokens if way == "windows" else tokens[:, :CUT]
    features = passed(trunk, tokens, None, how, Progress).array
    parts = Parts(Examples(labels, None, ("no", "yes")), 5, 1, 0)
    return Bench(features, parts, ACCURACY, KINDS["classes"], None, 1, 1, texts)


def _draw(bench: dict[str, Bench], n: int, seed: int) -> dict[str, float]:
    """The accuracy of each row of the table, on all that is not labelled."""
    order = np.random.default_rng(1000 + seed).permutation(len(bench["windows"].features))
    rows, out = np.sort(order[:n]), np.sort(order[n:])
    own = {way: _some(one, rows) for way, one in bench.items()}

    def judged(way: str, method: str) -> float:
        fitted = own[way].fit(method, own[way].parts.whole)
        whole = bench[way]
        features = whole.features[out] if fitted.words is None else fitted.words.vectors(whole.texts[out])
        head = fitted.weights.params["head"]
        return ACCURACY.score(whole.parts.examples.labels[out], features @ head["kernel"] + head["bias"])

    best = max(CHOICE, key=lambda method: _left_out(own["windows"], method))
    ways = {"minilm": ("windows", "logistic"), "minilm, first window": ("first", "logistic")}
    return {row: judged(*ways.get(row, ("windows", best if row == "chosen" else row))) for row in ROWS}


def _some(bench: Bench, rows: np.ndarray) -> Bench:
    examples = bench.parts.examples._replace(labels=bench.parts.examples.labels[rows])
    parts = dataclasses.replace(bench.parts, examples=examples, _deals={})
    return bench._replace(features=bench.features[rows], texts=bench.texts[rows], parts=parts)


def _left_out(bench: Bench, method: str) -> float:
    """The mean accuracy on the fold that a draw leaves out."""
    scores = []
    for draw in map(Draw, bench.parts.draws):
        rows = bench.parts.of(draw)[1]
        scores.append(ACCURACY.score(bench.parts.examples.labels[rows], bench.fit(method, draw).logits(rows)))
    return float(np.mean(scores))


def _section(found: dict[str, list[float]], config: Config) -> Section:
    columns = [f"{name}, n = {n}" for name in SETS for n in config.labelled]
    rows = []
    for row in ROWS:
        cells = []
        for name in SETS:
            for n in config.labelled:
                own = found[f"{name}/{n}/{row}"]
                low, high = interval_of_mean(own)
                cells.append(f"{100 * np.mean(own):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        rows.append([row, *cells])
    return Section("Accuracy in %, mean over draws with its 95 % interval", [Table(["features", *columns], rows)])


def main(config: Config, workdir: Path) -> None:
    cli.check(config)
    keep("benchmarks.texts", config, workdir, [(measure, config)], data=f"film reviews, {config.data}")


if __name__ == "__main__":
    cli.run(main, Config)
