"""From labelled examples to a model: features once, heads as the bar, fine-tuning as the budget allows, one winner."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds
from jaxtl.data import keep_to_data
from jaxtl.data.dataset import DataSet
from jaxtl.data.labelled import Labelled
from jaxtl.data.on_disk import kept_array
from jaxtl.errors import InputError
from jaxtl.finetune import plan as planning
from jaxtl.finetune.checks import UNEQUAL, check_groups, check_kind, names_of
from jaxtl.finetune.choosing import Bench, Fitted, Outcome, compared
from jaxtl.finetune.inputs import Preparation, Words
from jaxtl.finetune.kinds import KINDS, Kind
from jaxtl.finetune.modalities import Begun, Modality, modality_of
from jaxtl.finetune.model import Finetuned
from jaxtl.finetune.options import AUTO, Options, seconds_of
from jaxtl.finetune.readings import Reading
from jaxtl.finetune.trunks import Polled, Quiet, depths, passed, words_alone
from jaxtl.loop import raise_if_stopped
from jaxtl.methods.finetuning import pulled
from jaxtl.models import Classifier, cut
from jaxtl.models.pretrained import Pretrained
from jaxtl.problems.folder import HEAD, Examples, Folder, Inputs, Parts, parted
from jaxtl.problems.images import Images
from jaxtl.program import Weights
from jaxtl.protocol import Budget, Measure
from jaxtl.sweep import run_all
from jaxtl.terminal import Terminal
from jaxtl.version import __version__

ASKS_EVERY_CLASS = ("balanced_accuracy", "macro_f1")
PROBE = 20  # steps, to see what one costs
SHARE = 0.2  # of the memory, for what fine-tuning is given
LONG = 10.0  # seconds, beside which compiling does not matter
BEHIND = 3.0  # a step back and forth takes this many times what a step forth does, at least


@dataclasses.dataclass(frozen=True)
class Tuning(Budget):
    """How fine-tuning is done, and what it searches."""

    batch_size: bounds.Count = planning.BATCH
    learning_rate: bounds.Span = (0.001, 0.02)
    pull: bounds.Span = (0.01, 10.0)
    ratio: bounds.Span = (0.1, 1.0)  # learning rate of the trunk / of the head
    decay = "loss"  # no field


class Found(NamedTuple):
    """All that came out, for the report."""

    options: Options
    begun: Begun
    modality: Modality
    plan: planning.Plan
    outcome: Outcome
    winner: str
    fitted: Fitted
    model: Finetuned
    tested: np.ndarray | None  # outputs for the test part, of its one look
    rate: float  # examples a second through the frozen trunk
    minutes: float

    @property
    def data(self) -> Labelled:
        """What was learned from."""
        return self.begun.data


def finetuned(
    options: Options, workdir: Path, data: str | os.PathLike[str] | DataSet, console: Terminal | None = None
) -> Found:
    """The work: what is kept in `workdir` is not made again.

    Args:
        options: what is asked for.
        workdir: of the run.
        data: as `labelled` takes it.
        console: where a person reads along.

    Raises:
        InputError: before anything is trained.
        Interrupted: a stop was requested.
    """
    began, say = time.perf_counter(), (console or Terminal(quiet=True)).print
    display = Quiet if console is None else Polled
    modality = modality_of(data)
    begun = modality.begin(options, data, workdir, display, say)
    trunk, found = begun.trunk, begun.data
    kind = KINDS[found.task]
    check_kind(options, kind)
    _say_data(say, found, kind, modality)
    check_groups(found)
    keep_to_data(workdir, found.origin, *modality.content(found))
    features, seconds = kept_outputs(workdir, trunk, begun.inputs, None, begun.prepared_by, display)
    rate = len(features) / seconds if seconds else 0.0
    if rate:
        at = "x".join(map(str, begun.prepared_by.shape))
        say(f"features: {len(features):,} {modality.many} through {trunk.name} at {at}, {rate:.0f} a second")
    work = Work(options, begun, features, workdir, modality, kind, display)
    own_heads, tuned, left_out = names_of(options, kind, trunk, found, features)
    if left_out:
        say(f"NOTE: {left_out}", style="bold yellow")
    planned = planning.kept(workdir, work.asked(), lambda: work.plan(tuned, *work.heads_tried(began, own_heads), rate))
    for line in work.in_words(planned):
        say(line)
    names = [*own_heads, *planned.methods]
    if not names:
        todo = "give it more --budget, or add ridge or logistic to --methods"
        raise InputError(planned.why, where=f"--budget={options.budget}", todo=todo)
    bench = work.bench(planned)
    of = json.dumps(work.asked() | {"plan": planned.kept()}, sort_keys=True)
    folder = workdir / f"tried-{zlib.crc32(of.encode()):08x}"  # another plan is another comparison
    outcome = compared(bench, names, folder, of, (features, found.train.labels), display)
    winner = outcome.verdict()[0]
    raise_if_stopped("before the last training")
    fitted = bench.fit(winner, bench.parts.whole)
    rows, outputs = outcome.once(winner)
    reading = kind.reading(bench.parts.examples.labels[rows], outputs, found.train.labels)
    model = work.model(fitted, winner, reading)
    tested = None if found.test is None else model.outputs(modality.examples(found.test))
    minutes = (time.perf_counter() - began) / 60
    return Found(options, begun, modality, planned, outcome, winner, fitted, model, tested, rate, minutes)


class Work(NamedTuple):
    """What the steps of a fine-tuning share."""

    options: Options
    begun: Begun
    features: np.ndarray
    workdir: Path
    modality: Modality
    kind: Kind
    display: Any = Polled

    @property
    def trunk(self) -> Pretrained:
        """The pretrained network."""
        return self.begun.trunk

    @property
    def data(self) -> Labelled:
        """What is learned from."""
        return self.begun.data

    @property
    def measure(self) -> Measure:
        """What decides."""
        asked = self.options.measure
        return self.kind.measure(self.kind.measures[0] if asked == AUTO else asked, self.data.train.labels)

    def asked(self) -> dict[str, Any]:
        """All that decides what a run is, but its data."""
        found: dict[str, Any] = dict(vars(self.options))
        return found | {"methods": list(self.options.methods), "trunk": self.trunk.name}

    @property
    def weights(self) -> np.ndarray | None:
        """[N] of each example, where every class counts alike; None where all examples do."""
        if self.kind.name != "classes":
            return None
        labels, classes = self.data.train.labels, len(self.data.classes)
        counts = np.bincount(labels, minlength=classes)
        unequal = counts.max() > UNEQUAL * counts.min() and self.options.measure in ASKS_EVERY_CLASS
        if self.options.balance == "on" or (self.options.balance == "auto" and unequal):
            return (len(labels) / (classes * counts))[labels]
        return None

    def parts(self, effort: planning.Effort) -> Parts:
        """Who learns from what; no more folds than groups."""
        train, kind = self.data.train, self.kind
        folds = max(2, min(effort.folds, kind.most(train.labels)))
        if train.groups is not None:
            folds = min(folds, len(np.unique(train.groups)))
        learned, strata = kind.learned(train.labels, train.labels), kind.strata(train.labels)
        examples = Examples(learned, train.groups, kind.outputs(self.data.classes), self.weights, strata)
        return Parts(examples, folds, effort.repeats, self.options.seed)

    def heads_tried(self, began: float, own_heads: Sequence[str]) -> tuple[planning.Effort, Callable[[], float]]:
        """(how often heads are judged, seconds that are left of the budget once they have been)."""
        bench = self.bench(planning.Plan(planning.HEADS_ALONE, 0, (), 0.0, ""))
        once = 0.0
        for _ in range(2):  # the first time compiles
            if once < LONG:
                started = time.perf_counter()
                for name in own_heads:
                    bench.fit(name, bench.parts.whole)
                once = time.perf_counter() - started
        end = began + seconds_of(self.options.budget)
        effort = planning.of_heads(len(self.data.train), once, end - time.perf_counter())
        end -= once * effort.folds * effort.repeats
        return effort, lambda: end - time.perf_counter()

    def plan(
        self, tuned: Sequence[str], alone: planning.Effort, left: Callable[[], float], rate: float
    ) -> planning.Plan:
        """What fits."""

        def cost(depth: int) -> planning.Cost | None:
            least = planning.EFFORTS[-1]
            behind = BEHIND * planning.BATCH / rate if rate and depth == 0 else 0.0  # of all of a pretrained trunk
            each = 4 if depth else self.begun.inputs.dtype.itemsize
            size = len(self.data.train) * math.prod(self.shape(depth)) * each  # bytes
            if least.trainings * least.steps * behind > left() or size > SHARE * bounds.memory():
                return None
            return self.cost(depth)

        return planning.made(tuned, [0] if "scratch" in tuned else depths(self.trunk), left, cost, alone)

    def shape(self, depth: int) -> tuple[int, ...]:
        """Of what one example is at a depth."""
        raw = self.begun.inputs.shape[1:]
        if not depth:
            return raw
        below, trunk = cut(Classifier(self.trunk.model, ()), depth)[0], self.trunk
        given = jax.ShapeDtypeStruct((1, *raw), jnp.float32)
        out = jax.eval_shape(lambda x: below.apply({"params": trunk.params, **trunk.model_state}, x, False)[0], given)
        return out.shape[1:]

    def cost(self, depth: int) -> planning.Cost:
        """What a training costs at a depth, measured; on zeros, which take as long as what they stand for."""
        dtype = np.dtype(np.float32) if depth else self.begun.inputs.dtype
        inputs = np.zeros((len(self.data.train), *self.shape(depth)), dtype)
        problem = self.problem(depth, planning.HEADS_ALONE._replace(steps=PROBE), inputs)
        program, draw = pulled(cast(Any, problem)), problem.parts.whole
        start = problem.start(draw)
        data, seconds = problem.data(program, start, draw), []
        for _ in range(2):
            began = time.perf_counter()
            run_all(program, [start], data, [dict(program.rates)], jax.random.key(0), steps=PROBE)
            seconds.append(time.perf_counter() - began)
        return planning.Cost(seconds[0] - seconds[1], seconds[1] / PROBE)

    def problem(self, depth: int, effort: planning.Effort, array: np.ndarray | None = None) -> Folder:
        """Fine-tuning of what is above a cut, given examples or what the frozen part makes of them."""
        _, above = parted(Classifier(self.trunk.model, ((HEAD, len(self.kind.outputs(self.data.classes))),)), depth)
        if array is None:
            where = self.workdir, self.trunk, self.begun.inputs, depth, self.begun.prepared_by, self.display
            array = kept_outputs(*where)[0] if depth else np.asarray(self.begun.inputs)
        how = Images(self.shape(0), self.begun.prepared_by.mean, self.begun.prepared_by.std)
        inputs = Inputs.kept(array) if depth else Inputs(jnp.asarray(array), how)
        config = Tuning(steps=effort.steps, trials=effort.trials, seed=self.options.seed)
        features, parts = jnp.asarray(self.features), self.parts(effort)
        return Folder(config, self.trunk, above, inputs, features, parts, self.measure, self.kind)

    def bench(self, planned: planning.Plan) -> Bench:
        """What methods are tried on."""
        problem = self.problem(planned.depth, planned.effort) if planned.methods else None
        effort = planned.effort
        parts = self.parts(effort)
        texts = self.data.train.fields.get("text")
        return Bench(self.features, parts, self.measure, self.kind, problem, effort.inner, effort.trials, texts)

    def model(self, fitted: Fitted, winner: str, reading: Reading) -> Finetuned:
        """The whole of it."""
        weights, under, how = fitted.weights, self.trunk, self.begun.prepared_by
        if fitted.words is not None:
            under, how = words_alone(), Words(fitted.words)
        trunk = _within(weights.params.get("trunk", {}), under.params)
        state = {name: {"trunk": tree} for name, tree in under.model_state.items()}
        params = {**({"trunk": trunk} if trunk else {}), HEAD: weights.params[HEAD]}
        whole = jax.tree.map(np.asarray, Weights(params, state))
        card: dict[str, Any] = {"method": winner, "setting": fitted.setting, "jaxtl": __version__}
        card |= {"licence": under.licence, "origin": under.origin, "data": self.data.name}
        card["examples"] = f"{len(self.data.train)} labelled {self.modality.many}"
        return Finetuned(under.name, whole, self.kind, self.data.classes, how, reading, card, self.workdir)

    def in_words(self, planned: planning.Plan) -> list[str]:
        """What is going to be done."""
        effort, lines = planned.effort, []
        stages = len(self.trunk.stages) - planned.depth
        if planned.methods:
            of = f"the last {stages} of {len(self.trunk.stages)} stages" if planned.depth else "all of the trunk"
            line = (
                f"fine-tuning: {of}, {effort.trials} settings × {effort.inner} folds × {effort.folds * effort.repeats}"
            )
            lines.append(f"{line} draws × {effort.steps} steps for {', '.join(planned.methods)}")
        if effort.folds < planning.HEADS_ALONE.folds and len(self.data.train) > planning.MANY:
            lines.append(f"judged by {effort.folds} folds: more do not fit into {self.options.budget}")
        return lines + ([planned.why] if planned.why else [])


def kept_outputs(
    workdir: Path, trunk: Pretrained, inputs: Any, depth: int | None, how: Preparation, display: Any = Polled
) -> tuple[np.ndarray, float]:
    """(what the frozen trunk makes of every example, the seconds that took; 0 where it was kept)."""
    part, size = "features" if depth is None else f"behind_{depth}", "x".join(map(str, how.shape))
    path = workdir / "frozen" / f"{re.sub(r'[^A-Za-z0-9_]', '_', trunk.name)}-{size}-{part}.npy"
    took = [0.0]

    def made() -> np.ndarray:
        raise_if_stopped("before the features")
        found = passed(trunk, inputs, depth, how, display)
        took.append(found.seconds)
        return found.array

    return kept_array(path, len(inputs), made), took[-1]


def _within(part: Any, whole: Any) -> Any:
    """A tree with those of its leaves that were trained."""
    if not isinstance(whole, dict):
        return part
    return {name: _within(part[name], tree) if name in part else tree for name, tree in whole.items()}


def _say_data(say: Callable[..., None], found: Labelled, kind: Kind, modality: Modality) -> None:
    test = f", {len(found.test):,} for testing" if found.test is not None else ""
    what = kind.described(found.train.labels, found.classes)
    say(f"data      {len(found.train):,} {modality.many} to learn from{test}; {what}")
    for notice in found.notices:
        say(f"NOTE: {notice}", style="bold yellow")
    if found.skipped:
        say(f"NOTE: {len(found.skipped)} files left out:", style="bold yellow")
        for file, why in found.skipped[:20]:
            say(f"  {file}: {why}")
        if len(found.skipped) > 20:
            say(f"  … and {len(found.skipped) - 20} more, all in summary.json")
