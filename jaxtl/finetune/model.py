"""What a fine-tuning leaves: a model with its classes, what it is given and what its outputs mean, in a few files."""

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
from jaxtl.errors import InputError
from jaxtl.finetune.boxes.model import Detecting, is_detector, load_detecting
from jaxtl.finetune.export import written
from jaxtl.finetune.inputs import Preparation
from jaxtl.finetune.kinds import KINDS, Kind
from jaxtl.finetune.readings import Reading
from jaxtl.finetune.records import recorded
from jaxtl.finetune.trunks import module_of
from jaxtl.models import Classifier, as_forward
from jaxtl.problems.folder import HEAD
from jaxtl.problems.source import weights_of, weights_tree
from jaxtl.program import Weights
from jaxtl.step import EVALUATE
from jaxtl.trees import check_same

WEIGHTS, RECORD = "model.safetensors", "model.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Finetuned:
    """A model of pictures or texts: it says a class, several labels, or a number.

    Attributes:
        trunk: name of its trunk.
        weights: all of it.
        kind: what it says.
        classes: names, in the order of its outputs; () where it says a number.
        inputs: what it is given, and how that is made of a picture or a text.
        reading: what its outputs mean.
        card: what else is known of it, in words and figures.
        workdir: where it lies, and its report; None in memory only.
    """

    trunk: str
    weights: Weights
    kind: Kind
    classes: tuple[str, ...]
    inputs: Preparation
    reading: Reading
    card: dict[str, Any]
    workdir: Path | None = None

    @functools.cached_property
    def module(self) -> Classifier:
        """Trunk and head."""
        return Classifier(self.inputs.module(module_of(self.trunk)), ((HEAD, len(self.kind.outputs(self.classes))),))

    def outputs_of(self, weights: Weights, prepared: jax.Array) -> jax.Array:
        """[B, ...] as `inputs` prepares it, such as pixels 0 to 255 -> outputs of the head [B, C], a pure function."""
        batch = {"image": normalise(prepared, self.inputs.mean, self.inputs.std)}
        return as_forward(self.module)(weights.params, weights.model_state, batch, EVALUATE)[0][HEAD]

    def said_of(self, weights: Weights, prepared: jax.Array) -> jax.Array:
        """[B, ...] as `inputs` prepares it -> what is said of each [B, S], a pure function; see `said`."""
        return self.kind.said(self.outputs_of(weights, prepared), self.reading)

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.outputs_of)

    def outputs(self, examples: Any) -> np.ndarray:
        """[N, C] float32 of the head, before they mean anything.

        Args:
            examples: pictures uint8 [N, H, W, C] of any size, also `Stored`; or texts.
        """
        found = np.empty((len(examples), len(self.kind.outputs(self.classes))), np.float32)
        for start in range(0, len(examples), self.inputs.chunk):
            array = self.inputs.prepared(examples[start : start + self.inputs.chunk])
            for rows, block in self.inputs.blocks(array):
                found[start + rows] = np.asarray(self._compiled(self.weights, jnp.asarray(block)))[: len(rows)]
        return found

    def said(self, examples: Any) -> np.ndarray:
        """What is said of examples: a calibrated probability for every class or label, or a number and its interval.

        Args:
            examples: pictures uint8 [N, H, W, C] of any size, also `Stored`; or texts.

        Returns:
            [N, C] float32, probabilities; of numbers [N, 3]: value, low, high.
        """
        return np.asarray(self.kind.said(jnp.asarray(self.outputs(examples)), self.reading))

    def probabilities(self, examples: Any) -> np.ndarray:
        """`said` of a model of classes or labels.

        Raises:
            InputError: it says numbers.
        """
        if not self.classes:
            raise InputError("says numbers and no probabilities", where="probabilities", todo="use said")
        return self.said(examples)

    def predict(self, sources: Sequence[Any]) -> Iterator[tuple[Any, np.ndarray | InputError]]:
        """(source, what is `said` of it or why it cannot be read) of each, a chunk at a time.

        Args:
            sources: files of pictures of any size and format; or texts.
        """
        for start in range(0, len(sources), self.inputs.chunk):
            chunk = sources[start : start + self.inputs.chunk]
            read = [self.inputs.read(source) for source in chunk]
            said = iter(self.said([example for example in read if not isinstance(example, InputError)]))
            for source, example in zip(chunk, read, strict=True):
                yield source, example if isinstance(example, InputError) else next(said)

    def export(self, path: str | Path) -> list[Path]:
        """Write it for others: .onnx, .stablehlo or .safetensors; see `finetune.export.written`."""
        return written(self, Path(path))

    @property
    def report(self) -> Path | None:
        """Its page for a browser."""
        return None if self.workdir is None else self.workdir / "report.html"

    def save(self, directory: Path) -> list[Path]:
        """Write its files; the record last."""
        paths = [checkpoints.export(weights_tree(self.weights), directory / WEIGHTS)]
        paths += [files.write(directory / name, content) for name, content in self.inputs.beside().items()]
        return [*paths, files.write(directory / RECORD, json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n")]

    def record(self) -> dict[str, Any]:
        """All but the weights, as JSON has it."""
        return {
            "kind": f"a model of {self.inputs.many}, by jaxtl",
            "trunk": self.trunk,
            "labels": self.kind.name,
            "classes": list(self.classes),
            **self.inputs.record(),
            "reading": self.reading._asdict(),
            "card": self.card,
        }


def load_finetuned(run: str | Path) -> Finetuned | Detecting:
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
    if is_detector(directory):
        return load_detecting(directory)
    tree = checkpoints.load_weights(directory / WEIGHTS)
    try:
        said = json.loads(files.content(directory / RECORD, 2**26))
        kind, classes = KINDS[said["labels"]], tuple(map(str, said["classes"]))
        reading = Reading(**{name: float(value) for name, value in said["reading"].items()})
        trunk, card, inputs = str(said["trunk"]), dict(said["card"]), recorded(said, directory)
        named = not classes if kind.name == "number" else len(classes) > 1
        if not (reading.temperature > 0 and reading.spread > 0 and named):
            raise ValueError("numbers")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{RECORD} is not what a run writes", where=directory, todo="run it again") from None
    weights = weights_of(jax.tree.map(jnp.asarray, tree))
    found = Finetuned(trunk, weights, kind, classes, inputs, reading, card, directory)
    _check(found, directory)
    return found


def _check(found: Finetuned, directory: Path) -> None:
    """Whether these are weights of that model."""
    shape = jax.ShapeDtypeStruct((1, *found.inputs.shape), np.float32)
    like = jax.eval_shape(lambda x: found.module.init(jax.random.key(0), x, train=False), shape)
    state = {name: tree for name, tree in like.items() if name != "params"}
    todo = f"{WEIGHTS} and {RECORD} belong together: run it again"
    expected = weights_tree(Weights(dict(like["params"]), state))
    check_same(weights_tree(found.weights), expected, where=str(directory / WEIGHTS), todo=todo)
