"""What a fine-tuning leaves: a model with its classes, its statistics and what its outputs mean, in two files."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import checkpoints, files
from jaxtl.data import normalise
from jaxtl.data.decode import white_levels
from jaxtl.data.one_size import header_of, top_of
from jaxtl.data.resized import read_picture, resized
from jaxtl.errors import InputError
from jaxtl.finetune.export import written
from jaxtl.finetune.kinds import KINDS, Kind
from jaxtl.finetune.readings import Reading
from jaxtl.finetune.trunks import module_of
from jaxtl.models import Classifier, as_forward
from jaxtl.problems.folder import BLOCK, HEAD
from jaxtl.problems.source import weights_of, weights_tree
from jaxtl.program import Weights
from jaxtl.step import EVALUATE
from jaxtl.trees import check_same

WEIGHTS, RECORD = "model.safetensors", "model.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Finetuned:
    """A model of pictures: it says a class, several labels, or a number.

    Attributes:
        trunk: name of its trunk.
        weights: all of it.
        kind: what it says.
        classes: names, in the order of its outputs; () where it says a number.
        size: of the square that pictures are brought to, in pixels.
        mean, std: [3] of pixels 0 to 255.
        reading: what its outputs mean.
        white: of pictures of more than 8 bits.
        card: what else is known of it, in words and figures.
        workdir: where it lies, and its report; None in memory only.
    """

    trunk: str
    weights: Weights
    kind: Kind
    classes: tuple[str, ...]
    size: int
    mean: np.ndarray
    std: np.ndarray
    reading: Reading
    white: dict[str, float]
    card: dict[str, Any]
    workdir: Path | None = None

    @functools.cached_property
    def module(self) -> Classifier:
        """Trunk and head."""
        return Classifier(module_of(self.trunk), ((HEAD, len(self.kind.outputs(self.classes))),))

    def outputs_of(self, weights: Weights, images: jax.Array) -> jax.Array:
        """[B, size, size, 3] pixels 0 to 255 -> outputs of the head [B, C], a pure function."""
        batch = {"image": normalise(images, self.mean, self.std)}
        return as_forward(self.module)(weights.params, weights.model_state, batch, EVALUATE)[0][HEAD]

    def said_of(self, weights: Weights, images: jax.Array) -> jax.Array:
        """[B, size, size, 3] pixels 0 to 255 -> what is said of each [B, S], a pure function; see `said`."""
        return self.kind.said(self.outputs_of(weights, images), self.reading)

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.outputs_of)

    def outputs(self, images: Any) -> np.ndarray:
        """[N, C] float32 of the head, before they mean anything.

        Args:
            images: uint8 [N, H, W, C] of any size, also `Stored`.
        """
        found = []
        for start in range(0, len(images), BLOCK):
            rows = np.minimum(np.arange(start, start + BLOCK), len(images) - 1)  # the last block filled up
            block = np.stack([resized(image, self.size) for image in np.asarray(images[rows])])
            found.append(np.asarray(self._compiled(self.weights, jnp.asarray(block)))[: len(images) - start])
        return np.concatenate(found) if found else np.empty((0, len(self.kind.outputs(self.classes))), np.float32)

    def said(self, images: Any) -> np.ndarray:
        """What is said of pictures: a calibrated probability for every class or label, or a number and its interval.

        Args:
            images: uint8 [N, H, W, C] of any size, also `Stored`.

        Returns:
            [N, C] float32, probabilities; of numbers [N, 3]: value, low, high.
        """
        return np.asarray(self.kind.said(jnp.asarray(self.outputs(images)), self.reading))

    def probabilities(self, images: Any) -> np.ndarray:
        """`said` of a model of classes or labels.

        Raises:
            InputError: it says numbers.
        """
        if not self.classes:
            raise InputError("says numbers and no probabilities", where="probabilities", todo="use said")
        return self.said(images)

    def predict(self, pictures: Sequence[str | Path]) -> Iterator[tuple[Path, np.ndarray | InputError]]:
        """(file, what is `said` of it or why it cannot be read) of each, a block at a time.

        Args:
            pictures: files of any size and format.
        """
        for start in range(0, len(pictures), BLOCK):
            block = [Path(file) for file in pictures[start : start + BLOCK]]
            read = [self._read(file) for file in block]
            good = [image for image in read if not isinstance(image, InputError)]
            said = iter(self.said(np.stack(good)) if good else ())
            for file, image in zip(block, read, strict=True):
                yield file, image if isinstance(image, InputError) else next(said)

    def _read(self, file: Path) -> np.ndarray | InputError:
        try:
            white = self.white
            if header_of(file).deep:  # a depth that training has not seen is white by itself
                white = white_levels([top_of(file)]) | white
            return read_picture(file, self.size, white)
        except InputError as error:
            return error

    def export(self, path: str | Path) -> list[Path]:
        """Write it for others: .onnx, .stablehlo or .safetensors; see `finetune.export.written`."""
        return written(self, Path(path))

    @property
    def report(self) -> Path | None:
        """Its page for a browser."""
        return None if self.workdir is None else self.workdir / "report.html"

    def save(self, directory: Path) -> list[Path]:
        """Write both files; the record last."""
        paths = [checkpoints.export(weights_tree(self.weights), directory / WEIGHTS)]
        return [*paths, files.write(directory / RECORD, json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n")]

    def record(self) -> dict[str, Any]:
        """All but the weights, as JSON has it."""
        return {
            "kind": "a model of pictures, by jaxtl",
            "trunk": self.trunk,
            "labels": self.kind.name,
            "classes": list(self.classes),
            "size": self.size,
            "mean": np.asarray(self.mean, float).tolist(),
            "std": np.asarray(self.std, float).tolist(),
            "reading": self.reading._asdict(),
            "white": self.white,
            "card": self.card,
        }


def load_finetuned(run: str | Path) -> Finetuned:
    """The model of a run of `jaxtl finetune`.

    Args:
        run: its directory.

    Raises:
        InputError: no such run, an unfinished one, files that are not what a run writes.
    """
    directory = files.expanded(run)
    if not directory.is_dir():
        todo = "give the directory of a run, such as runs/photos; jaxtl finetune makes one"
        raise InputError("is no directory", where=directory, todo=todo)
    if not (directory / RECORD).is_file():
        todo = "let `jaxtl finetune` come to its end there, or give the directory of another run"
        raise InputError(f"holds no {RECORD}: it is no finished run of `jaxtl finetune`", where=directory, todo=todo)
    tree = checkpoints.load_weights(directory / WEIGHTS)
    try:
        said = json.loads(files.content(directory / RECORD, 2**26))
        mean, std = (np.array(said[name], np.float32).reshape(3) for name in ("mean", "std"))
        kind, classes, size = KINDS[said["labels"]], tuple(map(str, said["classes"])), int(said["size"])
        reading = Reading(**{name: float(value) for name, value in said["reading"].items()})
        white = {str(name): float(level) for name, level in said["white"].items()}
        trunk, card = str(said["trunk"]), dict(said["card"])
        named = not classes if kind.name == "number" else len(classes) > 1
        if not (reading.temperature > 0 and reading.spread > 0 and 0 < size <= 1024 and named and (std > 0).all()):
            raise ValueError("numbers")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{RECORD} is not what a run writes", where=directory, todo="run it again") from None
    weights = weights_of(jax.tree.map(jnp.asarray, tree))
    found = Finetuned(trunk, weights, kind, classes, size, mean, std, reading, white, card, directory)
    _check(found, directory)
    return found


def _check(found: Finetuned, directory: Path) -> None:
    """Whether these are weights of that model."""
    shape = jax.ShapeDtypeStruct((1, found.size, found.size, 3), np.float32)
    like = jax.eval_shape(lambda x: found.module.init(jax.random.key(0), x, train=False), shape)
    state = {name: tree for name, tree in like.items() if name != "params"}
    todo = f"{WEIGHTS} and {RECORD} belong together: run it again"
    expected = weights_tree(Weights(dict(like["params"]), state))
    check_same(weights_tree(found.weights), expected, where=str(directory / WEIGHTS), todo=todo)
