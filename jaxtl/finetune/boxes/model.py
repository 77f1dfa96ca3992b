"""What a fine-tuning on boxes leaves: a detector with its classes and its canvas, in a few files."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints, files
from jaxtl.data import normalise
from jaxtl.data.boxed_files import THREADS, read_laid
from jaxtl.data.decode import white_levels
from jaxtl.data.letterbox import in_picture, laid
from jaxtl.data.one_size import header_of, top_of
from jaxtl.detection import decoded
from jaxtl.errors import InputError
from jaxtl.finetune.boxes.trunks import STRIDE, parts_of
from jaxtl.finetune.inputs import Blocks, Pixels
from jaxtl.finetune.trunks import module_of
from jaxtl.models import as_forward
from jaxtl.models.detector import Detector, stride_of
from jaxtl.problems.source import weights_of, weights_tree
from jaxtl.program import Weights
from jaxtl.step import EVALUATE
from jaxtl.text import markdown
from jaxtl.trees import check_same

WEIGHTS, RECORD, ENDING = "model.safetensors", "model.json", ".safetensors"
BOXES = "boxes"  # what the labels of a record are
BLOCK = 16  # pictures at a time
MOST = 100  # boxes of a picture that are looked at, as COCO does
LARGEST = 2048  # pixels of an edge


class Found(NamedTuple):
    """What was found in a picture, the surest first.

    Attributes:
        boxes: float64 [K, 4] x0, y0, x1, y1 in pixels of the picture.
        labels: int [K] places in the classes.
        scores: float [K] in 0..1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def from_on(self, score: float) -> Found:
        """Those that are as sure as that."""
        sure = self.scores >= score
        return Found(self.boxes[sure], self.labels[sure], self.scores[sure])


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas(Pixels):
    """Pictures on one canvas, see `data.letterbox`.

    Attributes:
        rows, columns: of it.
    """

    chunk: ClassVar[int] = BLOCK

    rows: int = 0
    columns: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows, self.columns, 3

    @property
    def edges(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns

    def read(self, source: str | Path) -> Any:
        """(picture on the canvas, its width and height), or an `InputError` that says why there is none."""
        file = Path(source)
        try:
            white = self.white
            if header_of(file).deep:
                white = white_levels([top_of(file)]) | white
            return read_laid(file, self.edges, white)
        except InputError as error:
            return error

    def prepared(self, examples: Any) -> np.ndarray:
        """Pictures uint8 [H, W, C] of any size."""
        return np.stack([laid(np.asarray(image), self.edges) for image in examples])

    def blocks(self, array: Any) -> Blocks:
        for start in range(0, array.shape[0], BLOCK):
            filled = np.minimum(np.arange(start, start + BLOCK), array.shape[0] - 1)
            yield filled[: array.shape[0] - start], np.asarray(array[filled])

    def in_words(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return (
            f"Pictures: upright, transparency on white, in their shape as large as {self.columns}x{self.rows} pixels "
            f"take them, upper left, grey beside; RGB 0 to 255, then (x − mean) / std with mean {mean} and std {std}"
        )

    def record(self) -> dict[str, Any]:
        return super().record() | {"rows": self.rows, "columns": self.columns}


@dataclasses.dataclass(frozen=True, eq=False)
class Detecting:
    """A detector: which things are where in a picture.

    Attributes:
        trunk: name of its trunk.
        weights: all of it.
        classes: names.
        inputs: what it is given.
        sure: the score from which on a box is believed, with the largest F1 on pictures left out.
        card: what else is known of it, in words and figures.
        workdir: where it lies, and its report; None in memory only.
    """

    trunk: str
    weights: Weights
    classes: tuple[str, ...]
    inputs: Canvas
    sure: float
    card: dict[str, Any]
    workdir: Path | None = None

    @functools.cached_property
    def module(self) -> Detector:
        """Trunk and head."""
        trunk = module_of(self.trunk)
        return parts_of(self.trunk, trunk, trunk.stage_names, self.inputs.edges, len(self.classes)).whole

    def boxes_of(self, weights: Weights, prepared: jax.Array) -> jax.Array:
        """[B, rows, columns, 3] pixels 0 to 255 -> [B, 100, 6] boxes on the canvas, see `decoded`; a pure function."""
        batch = {"image": normalise(prepared, self.inputs.mean, self.inputs.std)}
        said = as_forward(self.module)(weights.params, weights.model_state, batch, EVALUATE)[0]["head"]
        return decoded(said, self.stride, MOST)

    @functools.cached_property
    def stride(self) -> int:
        """Pixels of a cell."""
        return stride_of(self.module, self.inputs.shape)

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.boxes_of)

    def on_canvas(self, prepared: np.ndarray) -> np.ndarray:
        """[N, 100, 6] float32 boxes on the canvas of pictures that lie on one, uint8 [N, rows, columns, 3]."""
        found = np.empty((len(prepared), MOST, 6), np.float32)
        for rows, block in self.inputs.blocks(prepared):
            found[rows] = np.asarray(self._compiled(self.weights, jnp.asarray(block)))[: len(rows)]
        return found

    def found(self, rows: np.ndarray, size: tuple[int, int]) -> Found:
        """[100, 6] boxes on the canvas as those in a picture of that width and height."""
        rows = rows[rows[:, 4] >= 0]
        boxes = in_picture(rows[:, :4], size, self.inputs.edges)
        some = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # beside the picture nothing is left of a box
        return Found(boxes[some], rows[some, 4].astype(int), rows[some, 5])

    def detect(self, examples: Sequence[Any]) -> list[Found]:
        """What is found in pictures, uint8 [H, W, C] of any size; all boxes, whatever their score."""
        sizes = [(np.shape(image)[1], np.shape(image)[0]) for image in examples]
        on = [self.on_canvas(self.inputs.prepared(examples[k : k + BLOCK])) for k in range(0, len(sizes), BLOCK)]
        return [self.found(rows, size) for rows, size in zip((row for part in on for row in part), sizes, strict=True)]

    def predict(self, sources: Sequence[Any]) -> Iterator[tuple[Any, Found | InputError]]:
        """(file, what is found or why it cannot be read) of each, a block at a time; boxes of any score."""
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(sources), BLOCK):
                chunk = sources[start : start + BLOCK]
                read = list(pool.map(self.inputs.read, chunk))
                good = [one for one in read if not isinstance(one, InputError)]
                on = iter(self.on_canvas(np.stack([image for image, _ in good])) if good else ())
                for source, one in zip(chunk, read, strict=True):
                    yield source, one if isinstance(one, InputError) else self.found(next(on), one[1])

    def lines(self) -> list[str]:
        """What somebody who gets the model has to know."""
        card = self.card
        return [
            f"Finds {len(self.classes)} classes of things and says where they are: {', '.join(self.classes[:20])}"
            + (", …" if len(self.classes) > 20 else ""),
            f"Trunk: {self.trunk} ({card['origin']}; licence {card['licence']})",
            "Learned from {examples} of {data} by {method}".format_map(card),
            *([f"Pictures for testing: {card['tested']}"] if "tested" in card else []),
            self.inputs.in_words(),
            f"A box is believed from a score of {self.sure:.2f} on, which had the largest F1 on pictures left out; "
            "a score is no probability",
            "Knows nothing of pictures of another kind than those it learned from",
        ]

    def export(self, path: str | Path) -> list[Path]:
        """Write its weights for others, with a card and its record beside them.

        Raises:
            InputError: another ending than .safetensors.
        """
        path = files.expanded(path).absolute()
        if path.suffix.lower() != ENDING:
            what = f"boxes are not written as {path.suffix.lower() or 'a file without an ending'}"
            raise InputError(
                what, where=f"--to={path.name}", todo=f"use {ENDING}, or let jaxtl predict write the boxes"
            )
        files.make_room(path)
        lines = "\n".join(f"- {markdown(line)}" for line in self.lines())
        text = f"# A model of {markdown(str(self.card['data']))}\n\n{lines}\n"
        record = json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n"
        weights = checkpoints.export(weights_tree(self.weights), path)
        return [weights, files.write(path.with_suffix(".md"), text), files.write(path.with_suffix(".json"), record)]

    @property
    def report(self) -> Path | None:
        """Its page for a browser."""
        return None if self.workdir is None else self.workdir / "report.html"

    def save(self, directory: Path) -> list[Path]:
        """Write its files; the record last."""
        weights = checkpoints.export(weights_tree(self.weights), directory / WEIGHTS)
        record = json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n"
        return [weights, files.write(directory / RECORD, record)]

    def record(self) -> dict[str, Any]:
        """All but the weights, as JSON has it."""
        return {
            "kind": "a detector in pictures, by jaxtl",
            "trunk": self.trunk,
            "labels": BOXES,
            "classes": list(self.classes),
            **self.inputs.record(),
            "sure": self.sure,
            "card": self.card,
        }


def is_detector(directory: Path) -> bool:
    """Whether a run of `jaxtl finetune` has left a detector there."""
    try:
        said = json.loads(files.content(directory / RECORD, 2**26))
        return isinstance(said, dict) and said.get("labels") == BOXES
    except (InputError, ValueError, RecursionError):
        return False


def load_detecting(directory: Path) -> Detecting:
    """The detector of a run, of which `is_detector` holds.

    Raises:
        InputError: files that are not what a run writes.
    """
    tree = checkpoints.load_weights(directory / WEIGHTS)
    try:
        said = json.loads(files.content(directory / RECORD, 2**26))
        mean, std = (np.array(said[name], np.float32).reshape(3) for name in ("mean", "std"))
        white = {str(name): float(level) for name, level in said["white"].items()}
        rows, columns = int(said["rows"]), int(said["columns"])
        inputs = Canvas(max(rows, columns), mean, std, white, rows, columns)
        classes, sure = tuple(map(str, said["classes"])), float(said["sure"])
        edges = all(0 < edge <= LARGEST and edge % STRIDE == 0 for edge in (rows, columns))
        if not (edges and (std > 0).all() and classes and 0 <= sure <= 1):
            raise ValueError("numbers")
        card, trunk = dict(said["card"]), str(said["trunk"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{RECORD} is not what a run writes", where=directory, todo="run it again") from None
    found = Detecting(trunk, weights_of(jax.tree.map(jnp.asarray, tree)), classes, inputs, sure, card, directory)
    shape = jax.ShapeDtypeStruct((1, *inputs.shape), np.float32)
    like = jax.eval_shape(lambda x: found.module.init(jax.random.key(0), x, train=False), shape)
    state = {name: part for name, part in like.items() if name != "params"}
    todo = f"{WEIGHTS} and {RECORD} belong together: run it again"
    expected = weights_tree(Weights(dict(like["params"]), state))
    check_same(weights_tree(found.weights), expected, where=str(directory / WEIGHTS), todo=todo)
    return found
