"""Who is best on the labels alone: every method chooses within each draw for itself, and is judged by what it left out.

The best is then chosen by the mean over draws.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtl.data import keep_to_data
from jaxtl.errors import NotFinite
from jaxtl.finetune.kinds import Kind
from jaxtl.finetune.options import HEADS
from jaxtl.finetune.recipes import RECIPES
from jaxtl.finetune.tfidf import TFIDF, Vocabulary
from jaxtl.loop import raise_if_stopped
from jaxtl.problems.folder import HEAD, Folder, Parts
from jaxtl.program import Weights
from jaxtl.protocol import (
    Comparison,
    Contrast,
    Draw,
    Measure,
    Method,
    Run,
    RunStore,
    Setting,
    Trainer,
    compare,
    paired,
    trial_settings,
)
from jaxtl.protocol.recipes import range_of
from jaxtl.selection import heads
from jaxtl.writers import Progress


class Fitted(NamedTuple):
    """A model that one method made of the examples of a draw.

    Attributes:
        weights: of the head alone, or of all that is trained.
        setting: what it chose.
        validation: of that setting, within the examples.
        logits: rows -> [n, C].
        words: of a head on weighted words, which they are.
    """

    weights: Weights
    setting: Setting
    validation: float
    logits: Callable[[np.ndarray], np.ndarray]
    words: Vocabulary | None = None


class Bench(NamedTuple):
    """What methods are tried on.

    Attributes:
        features: [N, D] of the frozen trunk.
        parts: who learns from what.
        measure: what decides.
        kind: what a label is.
        problem: for fine-tuning; None where none is tried.
        inner, trials: folds and settings by which fine-tuning chooses.
        texts: [N] where the examples are texts.
    """

    features: np.ndarray
    parts: Parts
    measure: Measure
    kind: Kind
    problem: Folder | None
    inner: int
    trials: int
    texts: Any = None

    def fit(self, name: str, draw: Draw) -> Fitted:
        """What a method makes of a draw: it chooses its setting within what it learns from, then learns from all of it.

        Raises:
            NotFinite: each of its settings diverged.
        """
        return self._head(name, draw) if name in HEADS else self._tuned(name, draw)

    def _head(self, name: str, draw: Draw) -> Fitted:
        examples, (rows, _) = self.parts.examples, self.parts.of(draw)
        groups = None if examples.groups is None else examples.groups[rows]
        features: Any = self.features
        words = None
        if name == TFIDF:  # which words there are is learned too
            assert self.texts is not None
            words = Vocabulary.of(self.texts[rows])
            features = words.vectors(self.texts)
        own = features[rows], examples.labels[rows], len(examples.classes), groups, self.parts.seed
        head, lam = self.kind.heads[name](*own)
        score = self.measure.better(self.measure.score(own[1], heads.logits(head, own[0])))
        return Fitted(Weights({HEAD: head}), {"λ": lam}, score, lambda rows: heads.logits(head, features[rows]), words)

    def _tuned(self, name: str, draw: Draw) -> Fitted:
        problem, trainer, recipe = self.problem, _trainer(self.problem), RECIPES[name]
        assert problem is not None
        search = {key: range_of(key, recipe, problem.config) for key in recipe.search}
        settings = trial_settings(search, self.trials)
        best, score = 0, 0.0
        if len(settings) > 1:
            inner = [draw._replace(fold=fold, folds=self.inner) for fold in range(self.inner)]
            inner = [part for part in inner if len(self.parts.of(part)[1])] or [draw]  # of pairs nothing is left out
            scores = np.mean([self._scores(trainer.train_all(name, settings, part), part) for part in inner], axis=0)
            best = max(range(len(settings)), key=lambda k: tuple(scores[k]))  # of equals the first
            score = float(scores[best][0])
        (trained,) = trainer.train_all(name, [settings[best]], draw)
        if trained is None or not np.isfinite(score):
            raise NotFinite("each of its settings diverged" if trained else "the loss or a parameter is not finite")
        return Fitted(trained.weights, settings[best], score, functools.partial(problem.logits, trained.weights))

    def _scores(self, trained: Sequence[Any], draw: Draw) -> list[tuple[float, float]]:
        """(the measure, the log-likelihood, which tells apart what the measure calls equal) of each setting."""
        assert self.problem is not None
        learned, out = self.parts.of(draw)
        rows = learned if draw.fold is None else out
        labels, found = self.parts.examples.labels[rows], list[tuple[float, float]]()
        for one in trained:
            value, likelihood = -np.inf, -np.inf
            if one is not None:
                logits = self.problem.logits(one.weights, rows)
                value = np.nan_to_num(self.measure.better(self.measure.score(labels, logits)), nan=-np.inf)
                likelihood = self.kind.likelihood(labels, logits)
            found.append((float(value), likelihood))
        return found


@functools.lru_cache(maxsize=4)  # every program of a problem is compiled once
def _trainer(problem: Folder) -> Trainer:
    return Trainer(problem, RECIPES)


def compared(
    bench: Bench, names: Sequence[str], workdir: Path, of: str, content: Sequence[Any], display: Any = Progress
) -> Outcome:
    """Every method on every draw, under the rules of `compare`; what was done before is not done again.

    Args:
        bench: what they are tried on.
        names: of the methods, heads first.
        workdir: keeps the runs.
        of: what the runs are made with.
        content: of the data.
        display: (total, description) -> a display.
    """
    parts, labels = bench.parts, bench.parts.examples.labels
    keep_to_data(workdir, "labelled examples", *content)
    store = RunStore(workdir, of=of)

    def test(fitted: Fitted, draw: Draw) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        rows = parts.of(draw)[1]
        logits = fitted.logits(rows)
        chosen = {f"chosen/{name}": value for name, value in fitted.setting.items()}
        return {"test": bench.measure.score(labels[rows], logits), **chosen}, {"logits": logits, "rows": rows}

    def method(name: str) -> Method:
        return Method(name, {}, lambda setting, draw: bench.fit(name, draw))

    bar = next((name for name in names if name in ("logistic", "ridge")), None)
    with display(len(names) * len(parts.draws), "trying methods") as progress:

        def tell(description: str) -> None:
            raise_if_stopped(f"before {description}")
            progress.describe(description)
            progress.advance(1)

        found = compare(
            [method(name) for name in names],
            1,
            [len(parts.draws) + 1],  # nothing is tuned beforehand: every method chooses within its draw
            parts.draws,
            validate=lambda fitted, draw: fitted.validation,
            test=test,
            contrasts=[(name, bar) for name in names if name != bar and bar],
            measure=bench.measure,
            store=store,
            progress=tell,
        )
    return Outcome(found, store.arrays, bench.measure, parts)


class Outcome(NamedTuple):
    """What came out, with what each method said of every example it had not seen."""

    found: Comparison
    arrays: Callable[[Run], Mapping[str, np.ndarray]]
    measure: Measure
    parts: Parts

    def runs(self, name: str) -> list[Run]:
        """Of a method, by draw."""
        return sorted((run for run in self.found.runs if run.method == name), key=lambda run: run.seed)

    @property
    def names(self) -> list[str]:
        """Of the methods."""
        return list(dict.fromkeys(run.method for run in self.found.runs))

    def values(self, name: str) -> np.ndarray:
        """The measure by draw."""
        return np.array([run.metrics["test"] for run in self.runs(name)])

    def mean(self, name: str) -> float:
        """Over the draws, larger being better; a draw on which the measure says nothing does not count."""
        known = self.values(name)[np.isfinite(self.values(name))]
        return self.measure.better(float(known.mean())) if len(known) else -np.inf

    def best(self, names: Sequence[str]) -> str:
        """Of equals the first."""
        return max(names, key=self.mean)

    def unseen(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(rows [M], logits [M, C]) of all draws: each example once a repeat, by a model that had not seen it."""
        return self._said(self.runs(name))

    def once(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The same of the first repeat, so that no example is there twice."""
        return self._said(self.runs(name)[: self.parts.folds])

    def _said(self, runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
        kept = [self.arrays(run) for run in runs if not run.diverged]
        return np.concatenate([one["rows"] for one in kept]), np.concatenate([one["logits"] for one in kept])

    def verdict(self) -> tuple[str, Contrast | None, str]:
        """(the method that is kept, the best fine-tuning − the best head, whether it pays in a sentence).

        Fine-tuning is kept where it is ahead by more than the margin below which differences do not matter: it costs
        more to train, and as much to use.
        """
        own_heads = [name for name in self.names if name in HEADS]
        tuned = [name for name in self.names if name not in HEADS]
        if not own_heads or not tuned:
            return self.best(self.names), None, ""
        head, deep = self.best(own_heads), self.best(tuned)
        c = paired(deep, head, self.values(deep) - self.values(head), measure=self.measure)
        ahead = self.mean(deep) - self.mean(head)
        if ahead > self.measure.margin:
            surely = "pays" if c.verdict == "helps" else "is ahead, though these draws leave it open, and is kept"
            return deep, c, f"Fine-tuning {surely}: {deep} is better than the head alone ({head})."
        if c.verdict.startswith("no effect") or ahead <= -self.measure.margin:
            return head, c, f"Fine-tuning does not pay: the head alone ({head}) is as good as {deep}, or better."
        return head, c, f"Fine-tuning ({deep}) was not seen to be better than the head alone ({head}), which is kept."
