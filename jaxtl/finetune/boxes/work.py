"""From pictures with boxes to a detector: settings and methods are chosen by pictures held out, one look at the test."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import bounds, files
from jaxtl.data import Split, hold_out, keep_to_data
from jaxtl.data.boxed_files import BoxedFiles, read_boxed_files
from jaxtl.data.on_disk import memory_budget
from jaxtl.errors import InputError, NotFinite
from jaxtl.finetune import plan as planning
from jaxtl.finetune.boxes.checks import LONGEST, check_options, methods_of
from jaxtl.finetune.boxes.model import Canvas, Detecting
from jaxtl.finetune.boxes.trunks import STRIDE, Parts, parts_of
from jaxtl.finetune.checks import check_apart
from jaxtl.finetune.options import Options, seconds_of
from jaxtl.finetune.trunks import Polled, Quiet, trunk_of
from jaxtl.finetune.work import PROBE, SHARE, kept_outputs
from jaxtl.loop import raise_if_stopped
from jaxtl.methods.finetuning import DETECTION
from jaxtl.models.pretrained import Pretrained
from jaxtl.problems.boxed_folder import CHOOSES, WHOLE, BoxedFolder, BoxTuning, Seen
from jaxtl.problems.detection import Pictures
from jaxtl.program import Weights
from jaxtl.protocol import Run, RunStore, Trainer, trial_settings
from jaxtl.protocol.detections import MAP, best_threshold, mean_average_precision
from jaxtl.protocol.recipes import range_of
from jaxtl.terminal import Terminal
from jaxtl.version import __version__

EFFORTS = (  # (settings, steps), from the most to the least
    *((4, 2000), (4, 1200), (4, 800), (3, 800), (3, 600), (3, 400), (3, 300)),
    *((2, 300), (2, 200), (1, 200), (1, 100), (1, 50), (1, 20)),
)
LAST = 5  # efforts, that a method alone is given
PASSES = 60  # through all pictures, at most
TEST, CHOOSE = 5, 4  # one in so many pictures is kept for testing, and of the others one in so many chooses
MOST_CHOOSE = 100
FEWEST = 8  # pictures: fewer cannot be learned from, chosen by and tested on
FOUND = 100


class BoxesFound(NamedTuple):
    """All that came out, for the page."""

    options: Options
    notices: list[str]
    data: BoxedFiles
    plan: planning.Plan
    runs: list[Run]
    winner: str
    model: Detecting
    truth: np.ndarray
    found: np.ndarray
    minutes: float


class Work(NamedTuple):
    """What the steps share."""

    options: Options
    trunk: Pretrained
    data: BoxedFiles
    parts: Parts
    canvas: Canvas
    seen: Seen

    def problem(self, steps: int, trials: int) -> BoxedFolder:
        """Training of what is above the cut."""
        config = BoxTuning(steps=steps, trials=trials, seed=self.options.seed, found=FOUND)
        shape, canvas = self.seen.array.shape[1:], self.canvas
        mean, std = (canvas.mean, canvas.std) if not self.parts.depth else (np.float32([0.0]), np.float32([1.0]))
        weights = Weights(self.trunk.params, self.trunk.model_state)
        return BoxedFolder(config, weights, self.parts.above, Pictures(shape, mean, std), self.seen, self.data.classes)

    def cost(self, name: str) -> planning.Cost:
        """What a training costs, measured."""
        trainer, seconds = Trainer(self.problem(PROBE, 1), DETECTION), []
        for _ in range(2):
            began = time.perf_counter()
            jax.block_until_ready([one and one.weights for one in trainer.train_all(name, [_middle(trainer, name)], CHOOSES)])
            seconds.append(time.perf_counter() - began)
        return planning.Cost(max(0.0, seconds[0] - seconds[1]), seconds[1] / PROBE)

    def plan(self, names: tuple[str, ...], end: float) -> planning.Plan:
        """The most that fits, at the cost of the dearest method; with fewer methods where it does not."""
        cost = self.cost(names[-1])
        left = end - time.perf_counter()
        most = max(100, PASSES * len(self.seen.rows(WHOLE)) // BoxTuning.batch_size)
        for count in range(len(names), 0, -1):
            for trials, steps in EFFORTS if count == 1 else EFFORTS[:-LAST]:
                steps = min(steps, most)
                seconds = (count * trials + 1) * steps * cost.step + (count + 1) * cost.compiling
                if seconds <= left or (count == 1 and (trials, steps) == EFFORTS[-1]):
                    given_up = names[count:]
                    why = f"no time for {', '.join(given_up)}" if given_up else ""
                    effort = planning.Effort(1, 1, 1, trials, steps)
                    return planning.Plan(effort, self.parts.depth, names[:count], seconds, why)
        raise AssertionError("the last effort is always afforded")


def finetuned_boxes(options: Options, workdir: Path, data: Any, console: Terminal | None) -> BoxesFound:
    """The work: what is kept in `workdir` is not made again.

    Args:
        options: what is asked for.
        workdir: of the run.
        data: a folder, or COCO's JSON.
        console: where a person reads along.

    Raises:
        InputError: before anything is trained.
        Interrupted: a stop was requested.
    """
    began, say = time.perf_counter(), (console or Terminal(quiet=True)).print
    display: Any = Quiet if console is None else Polled
    check_options(options)
    check_apart(data, workdir)
    trunk, notice = trunk_of(options.trunk, display)
    names = methods_of(options, trunk)
    found = read_boxed_files(
        data,
        options.size or LONGEST,
        STRIDE,
        skip_bad=options.skip_bad,
        progress=display,
        memory=memory_budget(),
    )
    found = with_test(found, options.seed)
    for line in [notice, *found.notices]:
        if line:
            say(f"NOTE: {line}", style="bold yellow")
    rows, columns = found.train.images.shape[1:3]
    for line in described(found):
        say(line)
    keep_to_data(workdir, found.origin, *found.train.fields.values())
    work = begun(options, trunk, found, workdir, display)
    say(f"on a canvas of {columns}x{rows} pixels, in their shape, grey beside; also mirrored left to right")
    asked = {**vars(options), "methods": list(options.methods), "trunk": trunk.name}
    end = began + seconds_of(options.budget)
    planned = planning.kept(workdir, asked, lambda: work.plan(names, end))
    effort = planned.effort
    say(
        f"{', '.join(planned.methods)}: {effort.trials} settings × {effort.steps} steps each, chosen by "
        f"{len(work.seen.held)} pictures held out; then once more on all"
    )
    if planned.why:
        say(planned.why)
    of = json.dumps(asked | {"plan": planned.kept()}, sort_keys=True)
    store = RunStore(workdir / f"tried-{zlib.crc32(of.encode()):08x}", of=of)
    trainer = Trainer(work.problem(effort.steps, effort.trials), DETECTION)
    runs = [run for name in planned.methods for run in tried(trainer, store, name, display)]
    winner, best = verdict(runs)
    raise_if_stopped("before the last training")
    (trained,) = trainer.train_all(winner, [best.setting], WHOLE)
    if trained is None:
        raise NotFinite("the loss or a parameter is not finite in the last training")
    problem: Any = trainer.problem
    held = work.seen.held
    truth = problem.truth_of["train"][held]
    sure = best_threshold(truth, np.asarray(store.arrays(best)["found"]), len(found.classes))
    model = assembled(work, trained.weights, winner, best, sure, workdir)
    return BoxesFound(
        options,
        [line for line in [notice, *found.notices] if line],
        found,
        planned,
        runs,
        winner,
        model,
        *tested(model, found),
        (time.perf_counter() - began) / 60,
    )


def with_test(found: BoxedFiles, seed: int) -> BoxedFiles:
    """With a fifth of the pictures kept for testing, where no part is.

    Raises:
        InputError: so few pictures that they cannot be divided.
    """
    count = len(found.train)
    if found.test is not None and count >= FEWEST - FEWEST // TEST:
        return found
    if count < FEWEST:
        what = f"{count} pictures to learn from"
        raise InputError(what, where=found.origin, todo=f"give {FEWEST} at least, half of them with boxes")
    held, rest = hold_out(rarest(found.train), max(1, count // TEST), seed)
    parts = [(rest, 0), (held, 0)]
    train, test = (found.train.take(rows) for rows, _ in parts)
    return found._replace(
        train=train,
        test=test,
        files=tuple([found.files[0][row] for row in rows] for rows, _ in parts),
        truth=tuple(found.truth[0][rows] for rows, _ in parts),
        sizes=tuple(found.sizes[0][rows] for rows, _ in parts),
        notices=[*found.notices, f"no part for testing: {len(held)} pictures were kept for it"],
    )


def rarest(part: Split) -> np.ndarray:
    """[N] integers >= 0: of the classes in each picture the one that fewest pictures have; the last of those without.

    Classes, or none, that one picture alone has are as those that all have: nothing could be held out of them.
    """
    labels = np.asarray(part["box_class"])
    classes = int(labels.max()) + 1
    has = np.stack([(labels == k).any(axis=1) for k in range(classes)] + [(labels < 0).all(axis=1)], axis=1)
    ranked = np.argsort(has.sum(axis=0), kind="stable")
    own = ranked[has[:, ranked].argmax(axis=1)]
    alone = np.bincount(own, minlength=classes + 1)[own] < 2
    return np.where(alone, np.bincount(own).argmax(), own)


def described(found: BoxedFiles) -> list[str]:
    """What there is, in two lines."""
    parts = [part for part in (found.train, found.test) if part is not None]
    counts = [np.bincount(part["box_class"][part["box_class"] >= 0], minlength=len(found.classes)) for part in parts]
    many = ", ".join(f"{count:,} {name}" for count, name in zip(sum(counts), found.classes, strict=True))
    test = f", {len(parts[1]):,} for testing" if len(parts) > 1 else ""
    lines = [f"data      {len(found.train):,} pictures to learn from{test}; boxes: {many}"]
    return lines + [f"left out: {file}: {why}" for file, why in found.skipped[:20]]


def begun(options: Options, trunk: Pretrained, found: BoxedFiles, workdir: Path, display: Any) -> Work:
    """The detector in its parts, and what it is given.

    Raises:
        InputError: a trunk without maps, or more pictures than the memory holds.
    """
    rows, columns = found.train.images.shape[1:3]
    mean, std = np.asarray(trunk.mean, np.float32), np.asarray(trunk.std, np.float32)
    canvas = Canvas(max(rows, columns), mean, std, found.white, rows, columns)
    parts = parts_of(trunk.name, trunk.model, tuple(trunk.stages), (rows, columns), len(found.classes))
    images, count = np.asarray(found.train.images), len(found.train)
    both = [images, images[:, :, ::-1]]
    if parts.depth:
        width = jax.eval_shape(
            lambda x: trunk.model.clone(stop=parts.depth).apply(
                {"params": trunk.params, **trunk.model_state}, x, False
            )[0],
            jax.ShapeDtypeStruct((1, rows, columns, 3), jnp.float32),
        )
        size, cell = 4.0 * math.prod(width.shape) * count, rows // width.shape[1]
    else:
        size, cell = float(images.nbytes), 1
    room = SHARE * bounds.memory()
    if size > room:
        what = f"{count:,} pictures of {columns}x{rows} pixels take {size / 1e9:.1f} GB, and {room / 1e9:.1f} are free"
        raise InputError(what, where=found.origin, todo=f"give a --size below {max(rows, columns)}, or fewer pictures")
    both = both if 2 * size <= room else both[:1]
    array = np.concatenate(both)
    boxes = mirrored(found.train, columns) if len(both) > 1 else found.train.without("image")
    if parts.depth:
        array = kept_outputs(workdir, trunk, array, parts.depth, canvas, display)[0]
    held, _ = hold_out(rarest(found.train), min(MOST_CHOOSE, max(1, count // CHOOSE)), options.seed + 1)
    return Work(options, trunk, found, parts, canvas, Seen(array, boxes, held, count, cell))


def mirrored(part: Split, columns: int) -> Split:
    """The boxes of all pictures as they are, then of all mirrored left to right."""
    box, label = np.asarray(part["box"]), np.asarray(part["box_class"])
    other = box.copy()
    other[..., 0], other[..., 2] = columns - box[..., 2], columns - box[..., 0]
    other[label < 0] = 0
    return Split(box=np.concatenate([box, other]), box_class=np.concatenate([label, label]))


def _middle(trainer: Trainer, name: str) -> dict[str, float]:
    recipe = DETECTION[name]
    return trial_settings({key: range_of(key, recipe, trainer.problem.config) for key in recipe.search}, 1)[0]


def tried(trainer: Trainer, store: RunStore, name: str, display: Any) -> list[Run]:
    """Every setting of a method, judged by the pictures held out; what was kept is not made again."""
    problem: Any = trainer.problem
    recipe = DETECTION[name]
    search = {key: range_of(key, recipe, problem.config) for key in recipe.search}
    settings = trial_settings(search, problem.config.trials)
    plans = [Run(name, "tuning", "", 0, None, k, dict(setting)) for k, setting in enumerate(settings)]
    missing = [plan for plan in plans if store.find(plan) is None]
    if missing:
        with display(len(missing), f"trying {name}") as progress:
            raise_if_stopped(f"before {name}")
            started = time.perf_counter()
            trained = trainer.train_all(name, [plan.setting for plan in missing], CHOOSES)
            seconds = (time.perf_counter() - started) / len(missing)
            truth = problem.truth_of["train"][problem.seen.held]
            for plan, one in zip(missing, trained, strict=True):
                found = None if one is None else problem.found(one.weights, "train", problem.seen.held)
                score = -math.inf if found is None else mean_average_precision(truth, found)
                run = dataclasses.replace(plan, seconds=seconds, validation=score, diverged=found is None)
                arrays = {} if found is None else {"found": found}
                metrics = {"test": MAP.failed if found is None else score}
                store.add(dataclasses.replace(run, metrics=metrics, arrays=tuple(arrays)), arrays)
                progress.advance(1)
    return [run for plan in plans if (run := store.find(plan))]


def verdict(runs: list[Run]) -> tuple[str, Run]:
    """(the method that is kept, its best run): the head alone unless another is ahead by more than a point.

    Raises:
        NotFinite: each setting of every method diverged.
    """
    best: dict[str, Run] = {}
    for run in runs:
        if not run.diverged and (run.method not in best or run.validation > best[run.method].validation):
            best[run.method] = run
    if not best:
        raise NotFinite("each setting of every method diverged")
    winner = max(best, key=lambda name: best[name].validation)
    if "features" in best and best[winner].validation - best["features"].validation <= MAP.margin:
        winner = "features"
    return winner, best[winner]


def assembled(work: Work, weights: Weights, winner: str, best: Run, sure: float, workdir: Path) -> Detecting:
    """The whole of the detector: frozen stages, those that were trained, the head."""
    trunk, found = work.trunk, work.data
    names = jax.eval_shape(
        lambda x: work.parts.whole.init(jax.random.key(0), x, train=False),
        jax.ShapeDtypeStruct((1, *work.canvas.shape), np.float32),
    )
    params = {"trunk": _filled(names["params"]["trunk"], weights.params["trunk"], trunk.params)}
    params["head"] = weights.params["head"]
    state = {
        name: {"trunk": _filled(tree["trunk"], {}, trunk.model_state[name])}
        for name, tree in names.items()
        if name != "params"
    }
    card: dict[str, Any] = {"method": winner, "setting": best.setting, "jaxtl": __version__}
    card |= {"licence": trunk.licence, "origin": trunk.origin, "data": found.name}
    card["examples"] = f"{len(found.train)} pictures with boxes"
    whole = jax.tree.map(np.asarray, Weights(params, state))
    return Detecting(trunk.name, whole, found.classes, work.canvas, sure, card, workdir)


def _filled(like: Any, first: Any, second: Any) -> Any:
    """A tree with the leaves of the first that has them."""
    if not isinstance(like, dict):
        return second if first is None or (isinstance(first, dict) and not first) else first
    inside = first if isinstance(first, dict) else {}
    return {name: _filled(part, inside.get(name), second.get(name)) for name, part in like.items()}


def tested(model: Detecting, found: BoxedFiles) -> tuple[np.ndarray, np.ndarray]:
    """(true [N, M, 5], found [N, 100, 6]) boxes on the pictures for testing, in their own pixels; one look."""
    test = found.test
    assert test is not None  # `with_test` has made one
    on = model.on_canvas(np.asarray(test.images))
    rows = np.full((len(on), on.shape[1], 6), -1.0)
    for k, (boxes, size) in enumerate(zip(on, found.sizes[1], strict=True)):
        own = model.found(boxes, (int(size[0]), int(size[1])))
        rows[k, : len(own.labels)] = np.concatenate(
            [own.boxes, own.labels[:, None], own.scores[:, None].astype(np.float64)], axis=1
        )
    return found.truth[1], rows


def write_found(path: Path, found: BoxesFound) -> Path:
    """Every box that was found on pictures for testing, as JSON: file, class, score, bbox [x, y, w, h]."""
    lines = []
    for file, rows in zip(found.data.files[1], found.found, strict=True):
        for x0, y0, x1, y1, label, score in rows[rows[:, 4] >= 0].tolist():
            name = found.data.classes[int(label)]
            entry = {"file": file, "class": name, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            lines.append(json.dumps(entry, ensure_ascii=False))
    return files.write(path, "[\n" + ",\n".join(lines) + "\n]\n")
