"""From pictures with boxes to a detector: what is tried is chosen by pictures held out; one look at the test."""

from __future__ import annotations

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
from jaxtl.data import keep_to_data
from jaxtl.data.boxed_files import BoxedFiles, read_boxed_files
from jaxtl.data.on_disk import memory_budget
from jaxtl.errors import InputError, NotFinite
from jaxtl.finetune import plan as planning
from jaxtl.finetune.boxes.checks import LONGEST, check_options, methods_of
from jaxtl.finetune.boxes.choosing import affordable, settings_of, tried, verdict
from jaxtl.finetune.boxes.dealing import described, held_out, mirrored, with_test
from jaxtl.finetune.boxes.model import Canvas, Detecting
from jaxtl.finetune.boxes.trunks import STRIDE, Parts, parts_of
from jaxtl.finetune.checks import check_apart
from jaxtl.finetune.options import Options, seconds_of
from jaxtl.finetune.trunks import Polled, Quiet, trunk_of
from jaxtl.finetune.work import SHARE, kept_outputs
from jaxtl.loop import raise_if_stopped
from jaxtl.methods.finetuning import DETECTION
from jaxtl.models.pretrained import Pretrained
from jaxtl.problems.boxed_folder import CHOOSES, WHOLE, BoxedFolder, BoxTuning, Seen
from jaxtl.problems.detection import Pictures, true_boxes
from jaxtl.program import Weights
from jaxtl.protocol import Run, RunStore, Trainer
from jaxtl.protocol.detections import best_threshold
from jaxtl.terminal import Terminal
from jaxtl.version import __version__

PROBE = 6  # steps, to see what one costs
PASSES = 60  # through all pictures, at most
FOUND = 100  # boxes of a picture that choices are made by


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
        mean, std = (
            (canvas.mean, canvas.std) if not self.parts.depth else (np.zeros(1, np.float32), np.ones(1, np.float32))
        )
        weights = Weights(self.trunk.params, self.trunk.model_state)
        return BoxedFolder(config, weights, self.parts.above, Pictures(shape, mean, std), self.seen, self.data.classes)

    @property
    def true_boxes_held(self) -> np.ndarray:
        """[n, M, 5] of the pictures that choose, on the canvas."""
        return true_boxes(self.data.train)[self.seen.held]

    def in_words(self, planned: planning.Plan) -> list[str]:
        """What is going to be done."""
        effort, canvas, held = planned.effort, self.canvas, len(self.seen.held)
        also = "; also mirrored left to right" if len(self.seen.boxes) > self.seen.many else ""
        lines = [f"on a canvas of {canvas.columns}x{canvas.rows} pixels, in their shape, grey beside{also}"]
        if self.parts.depth:
            lines.append(
                f"the first {self.parts.depth} of {len(self.trunk.stages)} stages of {self.trunk.name} are kept"
            )
        of = f"{effort.trials} settings × {effort.steps} steps"
        lines.append(
            f"{', '.join(planned.methods)}: {of} each, chosen by {held} pictures held out; then once more on all"
        )
        return lines + ([planned.why] if planned.why else [])

    def cost(self, name: str) -> planning.Cost:
        """What a training costs, measured."""
        trainer, seconds = Trainer(self.problem(PROBE, 1), DETECTION), list[float]()
        for _ in range(2):
            began = time.perf_counter()
            trained = trainer.train_all(name, settings_of(trainer, name, 1), CHOOSES)
            jax.block_until_ready([one.weights for one in trained if one])
            seconds.append(time.perf_counter() - began)
        return planning.Cost(max(0.0, seconds[0] - seconds[1]), seconds[1] / PROBE)

    def plan(self, names: tuple[str, ...], end: float) -> planning.Plan:
        """What fits, at the cost of the last of them, which is the dearest."""
        most = PASSES * len(self.seen.rows(WHOLE)) // BoxTuning.batch_size
        cost = self.cost(names[-1])
        return affordable(names, self.parts.depth, most, cost, lambda: end - time.perf_counter())

    def tested(self, model: Detecting) -> tuple[np.ndarray, np.ndarray]:
        """(true [N, M, 5], found [N, 100, 6]) boxes on pictures for testing, in their own pixels; one look."""
        test = self.data.test
        assert test is not None  # `with_test` has made one
        on = model.on_canvas(np.asarray(test.images))
        found = np.full((len(on), on.shape[1], 6), -1.0)
        for k, (boxes, size) in enumerate(zip(on, self.data.sizes[1], strict=True)):
            own = model.found(boxes, (int(size[0]), int(size[1])))
            rows = own.boxes, own.labels[:, None], own.scores[:, None].astype(np.float64)
            found[k, : len(own.labels)] = np.concatenate(rows, axis=1)
        return self.data.truth[1], found


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
    how: dict[str, Any] = {"skip_bad": options.skip_bad, "progress": display, "memory": memory_budget()}
    found = with_test(read_boxed_files(data, options.size or LONGEST, STRIDE, **how), options.seed)
    notices = [line for line in (notice, *found.notices) if line]
    for line in notices:
        say(f"NOTE: {line}", style="bold yellow")
    for line in described(found):
        say(line)
    keep_to_data(workdir, found.origin, *found.train.fields.values())
    work = begun(options, trunk, found, workdir, display)
    asked = {**vars(options), "methods": list(options.methods), "trunk": trunk.name}
    end = began + seconds_of(options.budget)
    planned = planning.kept(workdir, asked, lambda: work.plan(names, end))
    for line in work.in_words(planned):
        say(line)
    of = json.dumps(asked | {"plan": planned.kept()}, sort_keys=True)
    store = RunStore(workdir / f"tried-{zlib.crc32(of.encode()):08x}", of=of)
    trainer = Trainer(work.problem(planned.effort.steps, planned.effort.trials), DETECTION)
    runs = [run for name in planned.methods for run in tried(trainer, store, name, display)]
    winner, best = verdict(runs)
    raise_if_stopped("before the last training")
    (trained,) = trainer.train_all(winner, [best.setting], WHOLE)
    if trained is None:
        raise NotFinite("the loss or a parameter is not finite in the last training")
    truth = work.true_boxes_held
    sure = best_threshold(truth, store.arrays(best)["found"], len(found.classes))
    model = assembled(work, trained.weights, winner, best, sure, workdir)
    minutes = (time.perf_counter() - began) / 60
    return BoxesFound(options, notices, found, planned, runs, winner, model, *work.tested(model), minutes)


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
    held = held_out(found.train, options.seed)
    return Work(options, trunk, found, parts, canvas, Seen(array, boxes, held, count, cell))


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


def write_found(path: Path, found: BoxesFound) -> Path:
    """Every box that was found on pictures for testing, as JSON: file, class, score, bbox [x, y, w, h]."""
    lines = []
    for file, rows in zip(found.data.files[1], found.found, strict=True):
        for x0, y0, x1, y1, label, score in rows[rows[:, 4] >= 0].tolist():
            name = found.data.classes[int(label)]
            entry = {"file": file, "class": name, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            lines.append(json.dumps(entry, ensure_ascii=False))
    return files.write(path, "[\n" + ",\n".join(lines) + "\n]\n")
