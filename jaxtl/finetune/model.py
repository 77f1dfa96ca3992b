"""What a fine-tuning leaves: a classifier with its classes, its inputs and its temperature, in a few files."""

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
from jaxtl.finetune.export import written
from jaxtl.finetune.inputs import Preparation, recorded
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
    """A classifier of pictures or texts.

    Attributes:
        trunk: name of its trunk.
        weights: all of it.
        classes: names, in the order of its outputs.
        inputs: what it is given, and how that is made of a picture or a text.
        temperature: that its logits are divided by.
        card: what else is known of it, in words and figures.
        workdir: where it lies, and its report; None in memory only.
    """

    trunk: str
    weights: Weights
    classes: tuple[str, ...]
    inputs: Preparation
    temperature: float
    card: dict[str, Any]
    workdir: Path | None = None

    @functools.cached_property
    def module(self) -> Classifier:
        """Trunk and head."""
        return Classifier(self.inputs.module(module_of(self.trunk)), ((HEAD, len(self.classes)),))

    def probabilities_of(self, weights: Weights, prepared: jax.Array) -> jax.Array:
        """[B, ...] as `inputs` has prepared it, such as pixels 0 to 255 -> [B, C], a pure function."""
        batch = {"image": normalise(prepared, self.inputs.mean, self.inputs.std)}
        logits = as_forward(self.module)(weights.params, weights.model_state, batch, EVALUATE)[0][HEAD]
        return jax.nn.softmax(logits / self.temperature, axis=-1)

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.probabilities_of)

    def probabilities(self, examples: Any) -> np.ndarray:
        """The calibrated probability of every class.

        Args:
            examples: pictures uint8 [N, H, W, C] of any size, also `Stored`; or texts.

        Returns:
            [N, C] float32.
        """
        found = np.empty((len(examples), len(self.classes)), np.float32)
        for start in range(0, len(examples), self.inputs.chunk):
            array = self.inputs.prepared(examples[start : start + self.inputs.chunk])
            for rows, block in self.inputs.blocks(array):
                found[start + rows] = np.asarray(self._compiled(self.weights, jnp.asarray(block)))[: len(rows)]
        return found

    def predict(self, sources: Sequence[Any]) -> Iterator[tuple[Any, np.ndarray | InputError]]:
        """(source, its probabilities [C] or why it cannot be read) of each, a chunk at a time.

        Args:
            sources: files of pictures of any size and format; or texts.
        """
        for start in range(0, len(sources), self.inputs.chunk):
            chunk = sources[start : start + self.inputs.chunk]
            read = [self.inputs.read(source) for source in chunk]
            good = [example for example in read if not isinstance(example, InputError)]
            said = iter(self.probabilities(good))
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
            "kind": f"a classifier of {self.inputs.many}, by jaxtl",
            "trunk": self.trunk,
            "classes": list(self.classes),
            **self.inputs.record(),
            "temperature": self.temperature,
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
        classes, temperature = tuple(map(str, said["classes"])), float(said["temperature"])
        trunk, card, inputs = str(said["trunk"]), dict(said["card"]), recorded(said, directory)
        if not (temperature > 0 and len(classes) > 1):
            raise ValueError("numbers")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{RECORD} is not what a run writes", where=directory, todo="run it again") from None
    weights = weights_of(jax.tree.map(jnp.asarray, tree))
    found = Finetuned(trunk, weights, classes, inputs, temperature, card, directory)
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
